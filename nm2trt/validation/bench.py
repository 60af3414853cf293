"""Latency of several open sessions, measured in turn in one process."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.protocol import Session
from nm2trt.errors import InputError
from nm2trt.measure import Latency, interleaved
from nm2trt.validation.data import LabelledSet, fit_to

__all__ = ["Benchmark", "bench_sessions"]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Latencies taken under the same conditions.

    Args:
        latencies: By session name; a run is one batch, host to host.
        batch: Samples in a run, by session name.
        warmup: Runs of each before, not timed.
        conditions: What else the numbers depend on: machine, cores, what runs the models.
    """

    latencies: Mapping[str, Latency]
    batch: Mapping[str, int]
    warmup: int
    conditions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "latencies": {name: latency.to_json() for name, latency in self.latencies.items()},
            "batch": dict(self.batch),
            "warmup": self.warmup,
            "conditions": dict(self.conditions),
        }


def bench_sessions(
    sessions: Mapping[str, Session],
    data: LabelledSet,
    *,
    runs: int,
    warmup: int,
    batch: int = 1,
    conditions: Mapping[str, str] | None = None,
) -> Benchmark:
    """Time one batch of real samples on each session, turn by turn.

    Args:
        sessions: Name to open session.
        data: Samples; the first `batch` of them are fed (repeated where there are fewer).
        runs: Timed runs of each.
        warmup: Runs of each before, not timed.
        batch: Samples in a run; a session whose batch is fixed runs its own.
        conditions: What to add to the conditions, e.g. the backend and its version.

    Raises:
        InputError: `runs` or `batch` is less than 1, or `warmup` negative.
        DataError: The samples do not fit a session.
    """
    if runs < 1 or batch < 1 or warmup < 0:
        raise InputError(
            f"{runs} runs of batch {batch} after {warmup} cannot be timed; give 1, 1 and 0 or more"
        )
    feeds = {name: _one_batch(session, data, batch) for name, session in sessions.items()}
    calls = {name: _call(session, feeds[name]) for name, session in sessions.items()}
    return Benchmark(
        latencies=interleaved(calls, runs=runs, warmup=warmup),
        batch={name: len(next(iter(fed.values()))) for name, fed in feeds.items()},
        warmup=warmup,
        conditions={
            "machine": platform.machine(),
            "cores": str(len(os.sched_getaffinity(0))),
            "order": "interleaved",
            **(conditions or {}),
        },
    )


def _one_batch(session: Session, data: LabelledSet, batch: int) -> dict[str, npt.NDArray[Any]]:
    fitted = fit_to(session, data)
    picked = np.arange(fitted.batch if fitted.fixed else batch) % len(data)
    return {name: np.ascontiguousarray(array[picked]) for name, array in fitted.arrays.items()}


def _call(session: Session, feeds: Mapping[str, npt.NDArray[Any]]) -> Callable[[], object]:
    return lambda: session.run(feeds)
