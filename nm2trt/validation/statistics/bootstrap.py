"""Paired bootstrap: an interval for any metric, by drawing the samples again and again with replacement.

Both models are scored on the same draw, so what makes a sample hard for both does not widen the interval.
The interval is that between percentiles of the redrawn differences; for n below about 50 it is too narrow.
Where every draw gives the same difference, redrawing says nothing: the interval then reaches as far to both
sides as that of a share of which none of n was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nm2trt.json_value import JsonValue
from nm2trt.validation.metrics.scoring import SampleScores, Scores
from nm2trt.validation.statistics.paired import CONFIDENCE, score_interval

Floats = npt.NDArray[np.float64]
_RESAMPLES = 2000
_SET_RESAMPLES = 200
_MOST_DRAWN = 1 << 21
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class BootstrapDifference(JsonValue):
    """Difference of two models' scores on the same samples.

    Args:
        n: Samples.
        difference: Candidate's score minus the reference's.
        low: Lower end of the interval.
        high: Upper end.
        confidence: The interval's level, e.g. 0.95.
        method: How the interval is computed.
    """

    n: int
    difference: float
    low: float
    high: float
    confidence: float
    method: str


@dataclass(frozen=True, slots=True)
class BootstrapIntervals:
    """Intervals from one set of draws.

    Args:
        candidate: Ends of the interval of the candidate's score.
        reference: Ends of the interval of the reference's.
        paired: The difference.
    """

    candidate: tuple[float, float]
    reference: tuple[float, float]
    paired: BootstrapDifference


def bootstrap_intervals(candidate: Scores, reference: Scores, *, seed: int = 0) -> BootstrapIntervals:
    """Return 95 % bootstrap intervals of two scores and of their difference.

    Args:
        candidate: The candidate's scores.
        reference: The reference's, of the same samples in the same order.
        seed: Seed of the draws: the same scores give the same intervals.
    """
    n = len(candidate)
    rng = np.random.default_rng(seed)
    quick = isinstance(candidate, SampleScores) and isinstance(reference, SampleScores)
    resamples = _RESAMPLES if quick else _SET_RESAMPLES
    values = np.empty((resamples, 2))
    done = 0
    while done < resamples:
        size = min(resamples - done, max(1, _MOST_DRAWN // n))
        draws = rng.integers(0, n, (size, n))
        for column, scores in enumerate((candidate, reference)):
            values[done : done + size, column] = _values(scores, draws)
        done += size
    ends = [100 * (1 - CONFIDENCE) / 2, 100 * (1 + CONFIDENCE) / 2]
    low, high = (float(end) for end in np.percentile(values[:, 0] - values[:, 1], ends))
    method = f"paired bootstrap, {resamples} draws, percentiles"
    difference = candidate.value() - reference.value()
    reach = score_interval(n=n, gained=0, lost=0)
    # Sums of the same numbers in another order differ in their last digits.
    if max(abs(low - difference), abs(high - difference)) <= _ROUNDING * max(1.0, abs(candidate.value())):
        low, high = difference + reach[0], difference + reach[1]
        method = "every draw differs alike: score interval of a share of which none of n was seen"
    return BootstrapIntervals(
        candidate=_ends(values[:, 0], ends, reach),
        reference=_ends(values[:, 1], ends, reach),
        paired=BootstrapDifference(n, difference, low, high, CONFIDENCE, method),
    )


def _values(scores: Scores, draws: npt.NDArray[np.int64]) -> Floats:
    if not isinstance(scores, SampleScores):
        return np.asarray([scores.value(draw.astype(np.intp)) for draw in draws])
    totals: Floats = scores.values[draws].sum(axis=1)
    if scores.weights is None:
        means: Floats = totals / draws.shape[1]
        return means
    weights = scores.weights[draws].sum(axis=1)
    # A draw of only empty labels says nothing of the rate.
    rates: Floats = np.where(weights > 0, totals / np.where(weights > 0, weights, 1.0), scores.value())
    return rates


def _ends(values: Floats, ends: list[float], reach: tuple[float, float]) -> tuple[float, float]:
    low, high = (float(end) for end in np.percentile(values, ends))
    if high - low > _ROUNDING * max(1.0, abs(high)):
        return low, high
    # Neither below nothing nor above everything, if the score itself is not.
    return max(low + reach[0], min(low, 0.0)), min(high + reach[1], max(high, 1.0))
