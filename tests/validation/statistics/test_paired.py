"""Paired proportions against brute force: the likelihood on a grid, the coin, the coverage."""

import itertools
import math

import numpy as np
import pytest

from nm2trt.validation.statistics.paired import (
    PairedDifference,
    mcnemar_exact,
    score_interval,
    wilson_interval,
)


def score_on_a_grid(n, gained, lost, delta):
    """Tango's statistic, its nuisance share found by maximising the likelihood on a fine grid."""
    low, high = max(0.0, -delta), (1 - delta) / 2
    shares = np.linspace(low, high, 400_001)[1:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = (n - gained - lost) * np.log(1 - 2 * shares - delta)
        likelihood += gained * np.log(shares + delta) if gained else 0
        likelihood += lost * np.log(shares) if lost else 0
    share = shares[np.nanargmax(likelihood)]
    return (gained - lost - n * delta) / math.sqrt(n * (2 * share + delta * (1 - delta)))


@pytest.mark.parametrize(
    ("n", "gained", "lost"), [(44, 0, 1), (100, 12, 5), (397, 4, 9), (30, 15, 15), (20, 0, 0)]
)
def test_ends_of_the_interval_score_z(n, gained, lost):
    low, high = score_interval(n=n, gained=gained, lost=lost)
    assert low < (gained - lost) / n < high
    assert score_on_a_grid(n, gained, lost, low) == pytest.approx(1.95996, abs=2e-3)
    assert score_on_a_grid(n, gained, lost, high) == pytest.approx(-1.95996, abs=2e-3)


def test_interval_agrees_with_mcnemars_statistic_at_zero():
    # The score of delta = 0 is McNemar's (gained - lost) / sqrt(gained + lost).
    for gained, lost in itertools.product(range(25), repeat=2):
        low, high = score_interval(n=60, gained=gained, lost=lost)
        significant = (gained - lost) ** 2 > 1.959964**2 * (gained + lost)
        assert significant == (low > 0 or high < 0), (gained, lost)


def test_interval_mirrors_when_the_models_change_places():
    low, high = score_interval(n=50, gained=7, lost=2)
    assert score_interval(n=50, gained=2, lost=7) == pytest.approx((-high, -low))


def test_interval_has_width_without_any_disagreement():
    low, high = score_interval(n=100, gained=0, lost=0)
    assert -0.05 < low < -0.03
    assert high == pytest.approx(-low)


@pytest.mark.parametrize(("gained", "lost"), [(5, 0), (0, 5)], ids=["all-gained", "all-lost"])
def test_interval_stays_within_one(gained, lost):
    low, high = score_interval(n=5, gained=gained, lost=lost)
    assert -1 <= low <= (gained - lost) / 5 <= high <= 1


def test_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    n, gain, loss = 80, 0.06, 0.03
    counts = rng.multinomial(n, [gain, loss, 1 - gain - loss], size=1500)
    kinds, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    covered = 0
    for (gained, lost), repeated in zip(kinds.tolist(), times.tolist(), strict=True):
        low, high = score_interval(n=n, gained=gained, lost=lost)
        covered += repeated * (low <= gain - loss <= high)
    assert 0.93 < covered / 1500 < 0.975


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 9), (10, 4)])
def test_mcnemar_counts_every_sequence_of_flips(gained, lost):
    flips = gained + lost
    extreme = sum(
        min(sum(coins), flips - sum(coins)) <= min(gained, lost)
        for coins in itertools.product((0, 1), repeat=flips)
    )
    assert mcnemar_exact(gained, lost) == pytest.approx(extreme / 2**flips)


def test_mcnemar_survives_large_counts():
    assert mcnemar_exact(3000, 3000) == 1.0
    assert 0 < mcnemar_exact(2900, 3100) < 0.02


def test_wilson_interval_solves_its_equation():
    low, high = wilson_interval(390, 397)
    for end in (low, high):
        assert abs(390 / 397 - end) / math.sqrt(end * (1 - end) / 397) == pytest.approx(1.95996, abs=1e-4)
    assert wilson_interval(10, 10)[1] == 1.0


def test_difference_states_counts_and_direction():
    paired = PairedDifference.of(n=200, gained=3, lost=8)
    assert paired.difference == pytest.approx(-0.025)
    assert paired.to_json()["n"] == 200
    assert paired.p_value == mcnemar_exact(3, 8)


def test_mcnemar_of_very_many_flips_is_the_normal_tail():
    # 2 (1 - Phi(z)), with the correction for counts: z = (|gained - lost| - 1) / sqrt(gained + lost).
    z = (3000 - 1) / math.sqrt(1_003_000)
    assert mcnemar_exact(500_000, 503_000) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-4)
