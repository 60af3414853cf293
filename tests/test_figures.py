"""Figures in words: one unit for figures side by side, one rule of digits for shares."""

import re
from pathlib import Path

import pytest

import nm2trt
from nm2trt.figures import counted, large, percent, size


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((1_690_000, 877_040), ("1.69 M", "0.88 M")),
        ((877_040,), ("877.04 k",)),
        ((999, 12), ("999", "12")),
        ((4_089_184_256, 0), ("4.09 G", "0.00 G")),
        ((0, 0), ("0", "0")),
        ((3 * 10**12,), ("3.00 T",)),
    ],
)
def test_figures_side_by_side_have_the_unit_of_the_largest(numbers, words):
    assert large(*numbers) == words


def test_shares_and_sizes():
    assert (percent(0.88), percent(1), percent(0.99167, 2)) == ("88.0 %", "100.0 %", "99.17 %")
    assert [size(one) for one in (0, 999, 1000, 1_690_000, 2e9)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "1.7 MB",
        "2.0 GB",
    ]


def test_no_other_module_scales_bytes_or_counts():
    """A figure that is written by hand has other digits than its neighbour."""
    by_hand = re.compile(r"/ 1e6:\.\d+f} MB|/ 1e9:\.\d+f} GB|:\.\d+f} (M|k|G)\b")
    package = Path(nm2trt.__file__).parent
    found = [path.name for path in package.rglob("*.py") if by_hand.search(path.read_text(encoding="utf-8"))]
    assert found == []


def test_a_count_and_its_word_agree():
    assert [counted(number, "weight") for number in (0, 1, 2, 1024)] == [
        "0 weights",
        "1 weight",
        "2 weights",
        "1,024 weights",
    ]
    assert counted(1, "row holds", "rows hold") == "1 row holds"
    assert counted(3, "row holds", "rows hold") == "3 rows hold"
