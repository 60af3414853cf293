"""NMPattern: what is a pattern, what is refused, and which pattern implies which."""

import itertools

import pytest

from nm2trt.errors import PatternError
from nm2trt.nm.pattern import NMPattern


@pytest.mark.parametrize("text", ["2:4", "4:8", "1:16", "1:1", "16:16", " 2:4 "])
def test_reads_what_it_writes(text):
    assert str(NMPattern.parse(text)) == text.strip()


def test_takes_a_pattern_as_it_is():
    assert NMPattern.parse(NMPattern(1, 4)) == NMPattern(1, 4)


@pytest.mark.parametrize(
    "text", ["", "2", "2/4", "2:", ":4", "a:b", "2:4:8", "-2:4", "2.0:4", "٢:٤", None, 2]
)
def test_refuses_what_is_no_pattern(text):
    with pytest.raises(PatternError, match=r"is not an N:M pattern; write two positive integers"):
        NMPattern.parse(text)


@pytest.mark.parametrize(
    ("n", "m", "message"), [(5, 4, "N must be at most M"), (0, 4, "N .* positive"), (2, 0, "M .* positive")]
)
def test_refuses_impossible_numbers(n, m, message):
    with pytest.raises(PatternError, match=message):
        NMPattern(n, m)


def worst_case(outer, inner):
    """Return whether every 0/1 vector that holds `inner` holds `outer`: by trying them all."""
    length = 8
    for kept in itertools.product((0, 1), repeat=length):
        groups = [kept[i : i + inner.m] for i in range(0, length, inner.m)]
        if all(sum(group) <= inner.n for group in groups):
            ours = [kept[i : i + outer.m] for i in range(0, length, outer.m)]
            if any(sum(group) > outer.n for group in ours):
                return False
    return True


@pytest.mark.parametrize("outer", ["1:2", "2:4", "1:4", "3:4", "4:8", "2:8"])
@pytest.mark.parametrize("inner", ["1:2", "2:4", "1:4", "3:4", "4:8", "2:8", "1:8"])
def test_admits_agrees_with_every_vector(outer, inner):
    outer, inner = NMPattern.parse(outer), NMPattern.parse(inner)
    assert outer.admits(inner) == worst_case(outer, inner)


def test_two_of_four_admits_its_denser_relatives_only():
    two_four = NMPattern(2, 4)
    assert two_four.admits(NMPattern(1, 4))
    assert two_four.admits(NMPattern(2, 8))
    assert not two_four.admits(NMPattern(4, 8))
