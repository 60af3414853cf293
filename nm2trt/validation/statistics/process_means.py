"""Interval of a speed ratio that was measured in several processes."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Student's t at 97.5 %, for 1 degree of freedom and up; the normal distribution's is the limit.
_T = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
    2.2010, 2.1788, 2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860,
    2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


def ratio_interval(ratios: Sequence[float]) -> tuple[float, float, float]:
    """Return the geometric mean of the ratios of several processes, and its 95 % interval by Student's t.

    Runs of one process share its memory layout, its clocks and its neighbours, so that their scatter says
    nothing of what another process would find; each process counts as one observation.

    Args:
        ratios: One positive ratio per process, two or more.
    """
    logs = [math.log(one) for one in ratios]
    count = len(logs)
    mean = math.fsum(logs) / count
    variance = math.fsum((one - mean) ** 2 for one in logs) / (count - 1)
    # Beyond the table the last entry is a little too wide, never too narrow.
    half = _T[min(count - 2, len(_T) - 1)] * math.sqrt(variance / count)
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)
