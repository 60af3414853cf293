"""Output differences: against numpy on the whole, however the batches are cut."""

import math
from fractions import Fraction

import numpy as np
import pytest

from nm2trt.compare.difference_sum import DifferenceSum
from nm2trt.compare.outputs import difference
from nm2trt.errors import DifferenceError

RNG = np.random.default_rng(0)


def added(a, b, size, **options):
    total = DifferenceSum("y", **options)
    for start in range(0, len(a), size):
        total.add(a[start : start + size], b[start : start + size])
    return total.result()


@pytest.mark.parametrize("size", [1, 7, 50], ids="batch-{}".format)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_sums_are_those_of_the_whole(size, dtype):
    b = (100 * RNG.standard_normal((50, 9))).astype(dtype)
    a = (b + RNG.integers(-2, 3, b.shape)).astype(dtype)
    found = added(a, b, size)
    x, y = a.astype(float).ravel(), b.astype(float).ravel()
    gap = np.abs(x - y)
    assert found.max_abs == gap.max()
    assert found.mean_abs == pytest.approx(gap.mean())
    assert found.max_relative == pytest.approx(gap.max() / np.abs(y).max())
    assert found.cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.relative_l2 == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y))
    assert found.sqnr_db == pytest.approx(20 * math.log10(np.linalg.norm(y) / np.linalg.norm(x - y)))
    assert (found.dtype, found.kl) == (dtype, None)


@pytest.mark.parametrize("scale", [1e200, 1e-200])
@pytest.mark.parametrize("others", [[], [1.0], [1e200, 1e-200]], ids=["alone", "mixed", "all"])
def test_squares_of_very_large_and_small_numbers_are_numbers(scale, others):
    rng = np.random.default_rng(0)
    scales = [scale, *others]
    a = np.concatenate([s * rng.standard_normal(64) for s in scales])
    b = a * (1 + rng.standard_normal(a.size) / 10)
    found = added(a, b, 64)
    # The largest numbers decide, and exact fractions cannot overflow.
    large = np.abs(b) > 1e-100 * np.abs(b).max()
    p, q = ([Fraction(x) for x in array[large]] for array in (a, b))
    gaps = [x - y for x, y in zip(p, q, strict=True)]
    pq, pp, qq, dd = (
        sum(x * y for x, y in zip(*pair, strict=True)) for pair in ((p, q), (p, p), (q, q), (gaps, gaps))
    )
    assert found.cosine == pytest.approx(float(pq**2 / (pp * qq)) ** 0.5, rel=1e-9)
    assert found.relative_l2 == pytest.approx(float(dd / qq) ** 0.5, rel=1e-9)
    assert found.sqnr_db == pytest.approx(10 * math.log10(qq / dd), rel=1e-9)
    # A part that another process added up gives the same, in either order.
    parts = [DifferenceSum("y"), DifferenceSum("y")]
    parts[0].add(a[:64], b[:64])
    parts[1].add(a[64:], b[64:])
    for one, other in (parts, parts[::-1]):
        joined = DifferenceSum("y")
        joined.extend(one.state())
        joined.extend(other.state())
        assert joined.result().cosine == pytest.approx(found.cosine, rel=1e-9)


def test_pieces_make_no_difference(monkeypatch):
    a, b = RNG.standard_normal((2, 1000))
    whole = difference("y", a, b)
    monkeypatch.setattr("nm2trt.compare.difference_sum._PIECE", 17)
    pieces = difference("y", a, b)
    assert (pieces.max_abs, pieces.cosine) == (whole.max_abs, pytest.approx(whole.cosine))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(20, 5), (4, 6, 5)])
@pytest.mark.parametrize("as_probabilities", [False, True], ids=["logits", "probabilities"])
def test_divergence_is_the_mean_of_p_log_p_over_q(shape, as_probabilities):
    b = RNG.standard_normal(shape)
    a = b + 0.3 * RNG.standard_normal(shape)
    p, q = softmax(b), softmax(a)
    given = (q, p) if as_probabilities else (a, b)
    found = added(*given, 3, distribution=True)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(-1).mean(), rel=1e-6)


def test_divergence_of_the_same_is_nothing_and_of_rounded_zeros_is_finite():
    p = np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    assert added(p, p, 2, distribution=True).kl == 0.0
    assert 0 < added(p[::-1], p, 2, distribution=True).kl < 20


def test_identical_outputs_have_no_noise():
    found = difference("y", np.ones(4), np.ones(4))
    assert (found.max_abs, found.sqnr_db, found.cosine, found.relative_l2) == (0.0, None, 1.0, 0.0)


def test_nothing_to_compare_with_is_infinitely_far_and_null_in_json():
    found = difference("y", np.ones(4), np.zeros(4))
    assert found.max_relative == math.inf
    assert found.to_json()["max_relative"] is None


INF, NAN = np.inf, np.nan


@pytest.mark.parametrize("a", [[1, NAN, INF], [1, NAN, -INF, 2][:3], [INF, 0, 0]], ids=str)
def test_what_is_not_finite_must_be_so_in_both(a):
    b = np.array([1.5, NAN, INF])
    if a == [1, NAN, INF]:
        assert difference("y", np.array(a), b).max_abs == 0.5
        return
    with pytest.raises(DifferenceError, match="'y' has NaN or infinity and the reference has not"):
        difference("y", np.array(a), b)


def test_shapes_must_be_equal():
    with pytest.raises(DifferenceError, match=r"'y' has shape \(2, 3\), the reference \(3, 2\)"):
        difference("y", np.ones((2, 3)), np.ones((3, 2)))


def test_divergence_passes_over_masked_logits_and_rows_of_nan():
    b = np.array([[1.0, 2.0, -INF], [NAN, 1.0, 2.0]])
    a = np.array([[1.5, 2.0, -INF], [NAN, 1.0, 2.0]])
    p, q = softmax(b[:1, :2]), softmax(a[:1, :2])
    assert added(a, b, 2, distribution=True).kl == pytest.approx((p * np.log(p / q)).sum())


@pytest.mark.parametrize(
    ("a", "b", "gap"),
    [
        (np.array([2**53 + 1]), np.array([2**53]), 1),
        (np.array([2**63 - 1]), np.array([2**63 - 2]), 1),
        (np.array([2**63 - 1]), np.array([-(2**63)]), 2**64 - 1),
        (np.array([2**64 - 1], np.uint64), np.array([2**64 - 2], np.uint64), 1),
        (np.array([2**64 - 1], np.uint64), np.array([-1]), 2**64),
        (np.array([200], np.uint8), np.array([-100], np.int8), 300),
        (np.array([True, False]), np.array([True, True]), 1),
    ],
    ids=str,
)
def test_integers_are_compared_exactly(a, b, gap):
    """Against Python's own integers; float64 sees no difference in the first two."""
    assert gap == abs(int(a[-1]) - int(b[-1])) or a.dtype == bool
    found = difference("y", a, b)
    assert found.max_abs == float(gap)
    total = DifferenceSum("y", tolerance=(0.0, 0.0))
    total.add(b, a)
    assert total.result().outside == 1


def test_the_cosine_of_a_zero_vector_is_undefined():
    zero, one = np.zeros(4), np.ones(4)
    assert [difference("y", *pair).cosine for pair in ((zero, one), (one, zero), (zero, zero))] == [None] * 3
    assert "cosine undefined" in difference("y", zero, one).sentence


def test_nan_on_both_sides_is_counted_and_never_a_difference_of_nothing():
    found = difference("y", np.full(4, NAN), np.full(4, NAN))
    assert math.isnan(found.max_abs)
    assert math.isnan(found.mean_abs)
    assert found.sentence == (
        "output y: nothing to compare, 4 of 4 elements are NaN on both sides, and are not compared"
    )
    some = difference("y", np.array([NAN, 1.0, INF]), np.array([NAN, 1.0, INF]))
    assert (some.nan_in_both, some.infinite_in_both, some.max_abs) == (1, 1, 0.0)
    assert "1 of 3 elements are NaN and 1 of 3 elements are infinite on both sides" in some.sentence


def test_elements_outside_a_tolerance_are_those_of_the_formula():
    b = RNG.standard_normal(1000).astype(np.float32)
    a = b + 0.1 * RNG.standard_normal(1000).astype(np.float32)
    total = DifferenceSum("y", tolerance=(0.02, 0.05))
    total.add(a, b)
    x, y = a.astype(float), b.astype(float)
    assert total.result().outside == sum(abs(p - q) > 0.02 + 0.05 * abs(q) for p, q in zip(x, y, strict=True))


def test_a_size_that_depends_on_the_data_may_differ_and_is_counted():
    total = DifferenceSum("y", free_size=True, tolerance=(1.0, 0.0))
    total.add(np.ones((3, 2)), np.ones((4, 2)))
    assert math.isnan(total.result().max_abs)
    total.add(np.ones((3, 2)), np.ones((3, 2)))
    found = total.result()
    assert (found.unequal_shapes, found.max_abs, found.elements) == (1, 0.0, 6)
    assert "its size depends on the data" in found.sentence


def test_rounded_probabilities_have_no_negative_divergence():
    p = softmax(RNG.standard_normal((50, 7)))
    rounded = p.astype(np.float16).astype(np.float64) * 1.004
    assert added(rounded, p, 50, distribution=True).kl >= 0
