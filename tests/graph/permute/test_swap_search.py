"""The search for an order of channels, held against every permutation and every single swap."""

import itertools

import numpy as np
import pytest

from nm2trt.graph.permute.swap_search import kept_saliency, search_order
from nm2trt.nm.pattern import NMPattern


def kept_slowly(saliency, order, n, m):
    total = 0.0
    for row in np.asarray(saliency, np.float64):
        for start in range(0, len(order), m):
            total += sum(sorted((row[c] for c in order[start : start + m]), reverse=True)[:n])
    return total


def best_of_all(saliency, n, m):
    """The most that any of all permutations keeps, eight channels at most."""
    orders = np.array(list(itertools.permutations(range(saliency.shape[1]))))
    groups = np.sort(saliency[:, orders].reshape(len(saliency), len(orders), -1, m), axis=-1)
    return groups[..., m - n :].sum((0, 2, 3), dtype=np.float64).max()


def some_saliency(rows, channels, seed):
    return np.abs(np.random.default_rng(seed).standard_normal((rows, channels))).astype(np.float32) ** 2


@pytest.mark.parametrize(("n", "m", "channels"), [(2, 4, 8), (1, 2, 6), (3, 4, 8), (1, 3, 6), (2, 3, 6)])
def test_gain_lies_near_the_best_of_all_permutations(n, m, channels):
    gains = bests = 0.0
    for seed in range(12):
        saliency = some_saliency(5, channels, seed)
        order = search_order(saliency, NMPattern(n, m), seed=seed)
        assert sorted(order) == list(range(channels))
        before, after = kept_slowly(saliency, range(channels), n, m), kept_slowly(saliency, order, n, m)
        best = best_of_all(saliency, n, m)
        assert before <= after + 1e-5
        assert after <= best + 1e-5
        gains, bests = gains + after - before, bests + best - before
    assert gains >= 0.9 * bests


@pytest.mark.parametrize(("n", "m", "channels"), [(2, 4, 24), (4, 8, 32), (1, 4, 16), (2, 5, 20), (1, 1, 4)])
def test_no_single_swap_is_left_that_keeps_more(n, m, channels):
    saliency = some_saliency(7, channels, 3)
    order = search_order(saliency, NMPattern(n, m), rounds=2000)
    kept = kept_slowly(saliency, order, n, m)
    for a, b in itertools.combinations(range(channels), 2):
        swapped = order.copy()
        swapped[[a, b]] = order[[b, a]]
        assert kept_slowly(saliency, swapped, n, m) <= kept * (1 + 1e-5)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 2), (3, 5), (4, 8), (2, 2)])
def test_kept_saliency_is_the_sum_of_the_largest(n, m):
    saliency = some_saliency(6, 2 * m, 1)
    saliency[2] = 1.0  # ties
    assert kept_saliency(saliency, NMPattern(n, m)) == pytest.approx(
        kept_slowly(saliency, range(2 * m), n, m), rel=1e-6
    )


def test_strong_channels_that_share_groups_are_spread():
    saliency = np.full((3, 16), 0.01, np.float32)
    saliency[:, :8] = 1.0  # two groups of four strong channels lose half of them
    order = search_order(saliency, NMPattern(2, 4))
    assert ((order.reshape(4, 4) < 8).sum(1) == 2).all()


def test_what_is_best_already_stays_and_nothing_moves_without_reason():
    saliency = np.tile(np.array([[9, 8, 0, 0]], np.float32), (3, 4))
    for case, pattern in (
        (saliency, NMPattern(2, 4)),
        (np.ones((3, 16)), NMPattern(2, 4)),
        (saliency, NMPattern(4, 4)),
    ):
        assert search_order(case, pattern).tolist() == list(range(16))
    assert search_order(saliency[:, :4], NMPattern(2, 4)).tolist() == [0, 1, 2, 3]
    assert search_order(saliency[:0], NMPattern(2, 4)).tolist() == list(range(16))


def test_the_same_seed_gives_the_same_order_and_another_may_not():
    saliency = some_saliency(32, 64, 5)
    orders = [search_order(saliency, NMPattern(2, 4), seed=seed).tolist() for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_many_rows_are_sampled_and_the_whole_never_keeps_less():
    saliency = some_saliency(5000, 32, 6)
    order = search_order(saliency, NMPattern(2, 4))
    assert kept_saliency(saliency[:, order], NMPattern(2, 4)) >= kept_saliency(saliency, NMPattern(2, 4))
