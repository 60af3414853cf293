"""Paired bootstrap intervals: how often they cover the truth, and that pairing counts."""

import numpy as np
import pytest

from nm2trt.validation.metrics.scoring import SampleScores
from nm2trt.validation.statistics.bootstrap import bootstrap_intervals
from nm2trt.validation.statistics.paired import score_interval


class SetScores:
    """A metric that is not a mean over samples: the median."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def value(self, picked=None):
        return float(np.median(self.values if picked is None else self.values[picked]))


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        hard = rng.normal(0, 1, 80)
        a, b = hard + rng.normal(0.2, 0.3, 80), hard
        paired = bootstrap_intervals(SampleScores(a), SampleScores(b)).paired
        covered += paired.low <= 0.2 <= paired.high
    assert 0.89 <= covered / 200 <= 0.99


def test_what_makes_a_sample_hard_for_both_does_not_widen_the_interval():
    rng = np.random.default_rng(0)
    hard, noise = rng.normal(0, 1, 200), rng.normal(0, 0.1, 200)
    together = bootstrap_intervals(SampleScores(hard + noise), SampleScores(hard)).paired
    apart = bootstrap_intervals(SampleScores(hard + noise), SampleScores(rng.permutation(hard))).paired
    assert together.high - together.low < 0.3 * (apart.high - apart.low)


def test_half_width_is_that_of_the_normal_interval_for_large_n():
    rng = np.random.default_rng(1)
    values = rng.normal(0.5, 0.2, 5000)
    found = bootstrap_intervals(SampleScores(values), SampleScores(np.zeros(5000)))
    half = 1.96 * values.std() / np.sqrt(5000)
    assert (found.paired.high - found.paired.low) / 2 == pytest.approx(half, rel=0.1)
    low, high = found.reference  # all zeros: not certainly zero
    assert (low, high) == (0.0, pytest.approx(score_interval(n=5000, gained=0, lost=0)[1]))


def test_ratio_metrics_divide_sums_and_not_means():
    values, weights = np.array([1.0, 0.0, 5.0]), np.array([1.0, 1.0, 98.0])
    assert SampleScores(values, weights).value() == 0.06
    found = bootstrap_intervals(SampleScores(values, weights), SampleScores(np.zeros(3), weights))
    assert found.paired.difference == 0.06
    assert found.paired.low <= 0.06 <= found.paired.high


def test_no_difference_is_no_certainty():
    same = SampleScores(np.full(100, 0.25), np.full(100, 2.0))
    paired = bootstrap_intervals(same, same).paired
    low, high = score_interval(n=100, gained=0, lost=0)
    assert (paired.low, paired.high) == (low, high)
    assert "every draw differs alike" in paired.method


def test_any_metric_of_a_set_is_redrawn():
    rng = np.random.default_rng(0)
    b = rng.normal(0, 1, 150)
    found = bootstrap_intervals(SetScores(b + 1), SetScores(b)).paired
    assert found.difference == pytest.approx(1.0)
    assert (found.low, found.high) == pytest.approx((1.0, 1.0), abs=1e-9) or "every draw" in found.method


def test_the_same_scores_give_the_same_interval():
    rng = np.random.default_rng(0)
    a, b = SampleScores(rng.random(50)), SampleScores(rng.random(50))
    assert bootstrap_intervals(a, b) == bootstrap_intervals(a, b)
    assert bootstrap_intervals(a, b, seed=1) != bootstrap_intervals(a, b)


@pytest.mark.parametrize("offset", [0.1, 1e-16], ids=["constant", "rounding"])
def test_draws_that_differ_by_rounding_are_no_certainty(offset):
    values = np.random.default_rng(0).random(8)
    paired = bootstrap_intervals(SampleScores(values + offset), SampleScores(values)).paired
    assert paired.high - paired.low > 0.5
    assert "every draw differs alike" in paired.method
