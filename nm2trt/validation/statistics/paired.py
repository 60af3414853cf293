"""Paired proportions: how two models' accuracies on the same samples differ, with an interval.

Only the samples on which one model is right and the other wrong carry information. Among n samples let
`gained` be those that only the candidate gets right and `lost` those that only the reference does:
the difference of the accuracies is (gained - lost) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from nm2trt.json_value import JsonValue

# Level of every interval.
CONFIDENCE = 0.95
_NEGLIGIBLE = 1e-17


@dataclass(frozen=True, slots=True)
class PairedDifference(JsonValue):
    """Difference of two accuracies on the same samples.

    Args:
        n: Samples.
        gained: Samples that only the candidate gets right.
        lost: Samples that only the reference gets right.
        difference: Candidate's accuracy minus the reference's, -1..1.
        low: Lower end of the interval.
        high: Upper end.
        confidence: The interval's level, e.g. 0.95.
        p_value: Exact McNemar test of "the two are equally accurate", two-sided.
        method: How the interval is computed.
    """

    n: int
    gained: int
    lost: int
    difference: float
    low: float
    high: float
    confidence: float
    p_value: float
    method: str = "Tango score interval, exact McNemar test"

    @classmethod
    def of(cls, *, n: int, gained: int, lost: int, confidence: float = CONFIDENCE) -> PairedDifference:
        """Compute the difference from the counts; `n` is at least 1."""
        low, high = score_interval(n=n, gained=gained, lost=lost, confidence=confidence)
        return cls(
            n=n,
            gained=gained,
            lost=lost,
            difference=(gained - lost) / n,
            low=low,
            high=high,
            confidence=confidence,
            p_value=mcnemar_exact(gained, lost),
        )


def mcnemar_exact(gained: int, lost: int) -> float:
    """Return the two-sided p-value of `gained` and `lost` coming from a fair coin."""
    flips, least = gained + lost, min(gained, lost)
    tail = share = 1.0  # sequences with at most `least` of the rarer side, over those with just as many
    for k in range(least, 0, -1):
        share *= k / (flips - k + 1)
        tail += share
        if share < tail * _NEGLIGIBLE:
            break
    ways = math.lgamma(flips + 1) - math.lgamma(least + 1) - math.lgamma(flips - least + 1)
    return min(1.0, 2 * tail * math.exp(ways - flips * math.log(2)))


def score_interval(*, n: int, gained: int, lost: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of the difference (Tango, Statistics in Medicine 17, 1998).

    It holds its level for small counts, for which the textbook interval of a difference has no width at all.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    estimate = (gained - lost) / n

    def score(delta: float) -> float:
        # The share of `lost`, were delta the true difference: the root of its likelihood equation.
        a = 2 * n
        b = (2 * n - gained + lost) * delta - gained - lost
        c = -lost * delta * (1 - delta)
        share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
        variance = n * (2 * share + delta * (1 - delta))
        gap = gained - lost - n * delta
        if variance <= 0:
            return math.copysign(math.inf, gap) if gap else 0.0
        return gap / math.sqrt(variance)

    low = _root(lambda delta: score(delta) - z, -1.0, estimate) if estimate > -1 else -1.0
    high = _root(lambda delta: score(delta) + z, estimate, 1.0) if estimate < 1 else 1.0
    return low, high


def wilson_interval(right: int, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share `right / n`."""
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, centre - half), min(1.0, centre + half)


def _root(falling: Callable[[float], float], low: float, high: float) -> float:
    """Halve the bracket around the zero of a falling function until floats run out."""
    for _ in range(100):
        middle = (low + high) / 2
        if falling(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2
