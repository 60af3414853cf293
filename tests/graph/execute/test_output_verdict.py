"""OutputVerdict: what counts as a score, as an embedding, as an equal answer."""

import numpy as np
import pytest

from nm2trt.graph.execute.output_verdict import VerdictSum


def verdict(dense, pruned):
    total = VerdictSum("y")
    total.add(np.asarray(dense, np.float32), np.asarray(pruned, np.float32))
    return total.verdict()


def one_hot(classes, count=5):
    return 0.9 * np.eye(count)[np.asarray(classes)] + 0.1 / count


def test_kl_is_that_of_the_softmax_and_one_answer_of_four_changed():
    dense = np.array([[2, 0, 1], [0, 3, 0], [1, 0, 4], [5, 1, 0]], float)
    pruned = dense.copy()
    pruned[0] = [0, 2, 1]
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (dense, pruned))
    found = verdict(dense, pruned)
    assert found.kl == pytest.approx((p * np.log(p / q)).sum() / 4, rel=1e-6)
    assert (found.agreement, found.same_answers, found.loss) == (0.75, 0.75, 0.25)


def test_sequences_are_read_without_repeats():
    dense = one_hot([[0, 1, 1, 0, 2], [3, 3, 0, 0, 4], [1, 0, 2, 2, 2]])
    shifted = one_hot([[0, 0, 1, 0, 2], [3, 0, 0, 4, 4], [1, 0, 2, 0, 2]])
    found = verdict(dense, shifted)
    # Two frames moved inside runs and two more; only the third sample reads otherwise.
    assert found.same_answers == pytest.approx(2 / 3)
    assert found.agreement == pytest.approx(11 / 15)


def test_unit_vectors_are_embeddings_and_no_scores():
    rows = np.random.default_rng(0).normal(size=(6, 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = verdict(rows, -rows)
    assert (found.kl, found.agreement, found.same_answers) == (None, None, None)
    assert found.loss == found.divergence == found.error > 3


def test_nan_leaves_no_answers():
    dense = np.ones((2, 3)) * [1, 2, 3]
    broken = dense.copy()
    broken[1, 1] = np.nan
    found = verdict(dense, broken)
    assert found.same_answers is None
    assert found.remark.startswith("1 row holds NaN")


def test_a_class_that_both_mask_counts_for_nothing():
    """As a vocabulary that is padded, or tokens that are never said: their scores are -inf."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(9, 5))
    pruned = dense + rng.normal(size=(9, 5))
    masks = np.full((9, 1), -np.inf)
    found, whole = (
        verdict(np.hstack([one, dense]), np.hstack([one, pruned])) for one in (masks, masks[:, :0])
    )
    assert found.remark == ""
    for name in ("error", "cosine", "agreement", "kl", "same_answers"):
        assert getattr(found, name) == pytest.approx(getattr(whole, name), rel=1e-9), name
    one_side = verdict(np.hstack([masks, dense]), np.hstack([-masks, pruned]))
    assert (one_side.error, one_side.remark[:14]) == (None, "9 rows hold Na")


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e-36])
def test_small_numbers_differ_as_much_as_large_ones(scale):
    dense, pruned = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 2.0]])
    found = verdict(scale * dense, scale * pruned)
    assert found.cosine == pytest.approx((1 / np.sqrt(2) + 1) / 2, rel=1e-6)
    assert found.error == pytest.approx(verdict(dense, pruned).error, rel=1e-6)


def test_squares_of_very_large_numbers_do_not_overflow():
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((4, 1, 6))
    pruned = dense + rng.standard_normal((4, 1, 6)) / 10
    small, large = VerdictSum("y"), VerdictSum("y")
    small.add(dense, pruned)
    large.add(1e200 * dense, 1e200 * pruned)
    assert large.verdict().error == pytest.approx(small.verdict().error)
    assert large.verdict().cosine == pytest.approx(small.verdict().cosine)


def test_zeros_are_equal_to_zeros_and_to_nothing_else():
    zeros, ones = np.zeros((4, 3)), np.ones((4, 3))
    assert (verdict(zeros, zeros).cosine, verdict(zeros, zeros).error) == (1, 0)
    assert verdict(ones, zeros).cosine == verdict(zeros, ones).cosine == 0
