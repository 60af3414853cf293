"""Intervals of ratios over processes: the quantiles, and how often they hold."""

import math

import numpy as np
import pytest

from nm2trt.validation.statistics.process_means import _T, ratio_interval


def student_share(t, degrees):
    """Share of Student's distribution below t, its density integrated by Simpson's rule."""
    x = np.linspace(0.0, t, 20001)
    scale = math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(degrees * math.pi)
    density = scale * (1 + x * x / degrees) ** (-(degrees + 1) / 2)
    weights = np.ones(len(x))
    weights[1:-1:2], weights[2:-1:2] = 4, 2
    return 0.5 + float(density @ weights) * (x[1] - x[0]) / 3


@pytest.mark.parametrize("degrees", range(1, 31))
def test_quantiles(degrees):
    assert student_share(_T[degrees - 1], degrees) == pytest.approx(0.975, abs=1e-5)


def test_two_processes_by_hand():
    # The mean of the logs is log(2); both lie log(2) from it, so the standard error is log(2).
    assert ratio_interval([1.0, 4.0]) == pytest.approx((2.0, 2.0 ** (1 - 12.7062), 2.0 ** (1 + 12.7062)))


def test_equal_ratios_have_an_interval_of_no_width():
    assert ratio_interval([1.25] * 6) == pytest.approx((1.25, 1.25, 1.25))


@pytest.mark.parametrize("processes", [2, 3, 6, 40])
def test_a_model_against_itself_covers_one_as_often_as_it_should(processes):
    """Each process shifts all its runs: runs are many and agree, yet only processes say how far off they are."""
    rng = np.random.default_rng(0)
    held = alone = 0
    for _ in range(400):
        shifts = rng.normal(0.0, 0.05, processes)
        runs = np.exp(shifts[:, None] + rng.normal(0.0, 0.01, (processes, 50)))
        _, low, high = ratio_interval(np.median(runs, axis=1))
        held += low <= 1 <= high
        drawn = np.median(runs[0][rng.integers(0, 50, (50, 50))], axis=1)
        alone += np.quantile(drawn, 0.025) <= 1 <= np.quantile(drawn, 0.975)
    assert held >= 0.92 * 400
    assert alone < 0.5 * 400  # which is why one process gives no interval
