"""Latency: interleaved timing, warm-up, percentiles."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Latency", "interleaved", "peak_resident_bytes"]


@dataclass(frozen=True, slots=True)
class Latency:
    """Latency of one callable.

    Args:
        p50_ms: Median.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Mean.
        runs: Timed runs.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise run times in seconds."""
        ms = np.asarray(seconds, dtype=np.float64) * 1e3
        p50, p90, p99 = np.percentile(ms, [50, 90, 99])
        return cls(float(p50), float(p90), float(p99), float(ms.mean()), len(ms))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def interleaved(calls: Mapping[str, Callable[[], object]], *, runs: int, warmup: int) -> dict[str, Latency]:
    """Time several callables in turn, so that a change of the machine's load falls on all of them.

    Args:
        calls: Name to callable.
        runs: Timed runs of each.
        warmup: Runs of each before, not timed.

    Returns:
        Latency by name.
    """
    for _ in range(warmup):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Latency.of(taken) for name, taken in seconds.items()}


def peak_resident_bytes() -> int:
    """Return the most memory that this process has held resident, in bytes.

    On Linux from /proc: what getrusage says starts, in a child, at the memory of its parent.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
