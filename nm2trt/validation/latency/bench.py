"""Latency and throughput of several sessions, measured in turn in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.backends.batch_axes import batch_size, has_free_batch
from nm2trt.backends.protocol import DeviceTimed, Session
from nm2trt.errors import InputError, Nm2trtError, restated
from nm2trt.json_value import named
from nm2trt.measure import Clocked, Latency, WarmUp, no_speed, rounds, warm_up, warm_up_for
from nm2trt.progress import bar
from nm2trt.tables import Column, Result, Row, Table
from nm2trt.validation.latency.machine_state import machine_conditions, machine_state

__all__ = ["Benchmark", "Ratio", "Timing", "bench_sessions", "prepared", "ratio_of"]

Arrays = Mapping[str, npt.NDArray[Any]]
MakeFeeds = Callable[[Session, int], Arrays]
_MOST_WARM_UP = 10
_ORDER = "interleaved, in one process"
_TRANSFERS = "host to host: every run takes its inputs from main memory and leaves its outputs there"
_DEVICE = (
    "none: the GPU's own time, by CUDA events around a burst of inferences on data that lies on the device"
)
# An idle GPU needs about this long to raise its clocks.
_WARM_UP_S = 0.5


@dataclass(frozen=True, slots=True)
class Timing:
    """One session at one batch size.

    Args:
        name: The session, e.g. its path.
        batch: Samples in a run; None where the source does not say.
        latency: A run, from host to host; if every session has the GPU's clock, the GPU's own time.
        samples_ms: Every timed run, in order.
        source: "measured here", or who took the times.
    """

    name: str
    batch: int | None
    latency: Latency
    samples_ms: tuple[float, ...]
    source: str = "measured here"

    @property
    def per_second(self) -> float | None:
        """Samples a second, one run after another, at the median latency."""
        return None if self.batch is None else 1e3 * self.batch / self.latency.p50_ms

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            **named(self, "name batch source per_second"),
            **self.latency.to_json(),
            "samples_ms": list(self.samples_ms),
        }


@dataclass(frozen=True, slots=True)
class Ratio:
    """How much longer one session takes than another.

    Args:
        name: The session.
        base: The one that it is divided by.
        batch: Samples in a run.
        p50: Ratio of the medians, over several processes their geometric mean; below 1 is faster than `base`.
        low: Lower end of its 95 % interval; None for one process, whose runs cannot tell what another finds.
        high: Upper end.
        processes: The ratio in each process; () for one.
    """

    name: str
    base: str
    batch: int | None
    p50: float
    low: float | None = None
    high: float | None = None
    processes: tuple[float, ...] = ()

    @property
    def sentence(self) -> str:
        """The ratio with its interval, in words."""
        batch = "" if self.batch is None else f", batch {self.batch}"
        found = f"{self.name} / {self.base}{batch}: p50 ratio {self.p50:.3f}"
        if self.low is None or self.high is None:
            return f"{found}; one process gives no interval: see nm2trt bench --processes 6"
        count = len(self.processes)
        return f"{found}, 95 % interval {self.low:.3f} to {self.high:.3f} over {count} processes"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {**asdict(self), "processes": list(self.processes)}


@dataclass(frozen=True, slots=True, repr=False)
class Benchmark(Result):
    """Latencies taken under the same conditions.

    Args:
        timings: One a session and batch size.
        ratios: Each session over the first, at each batch size.
        warmup: Runs of each before those that were timed, and whether the medians had settled.
        conditions: What the numbers depend on and does not change in a run.
        before: Load, clocks, temperature and power before.
        after: The same, after.
        stopped: Why it ended early, or "".
        notes: What the reader should know.
    """

    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]
    warmup: WarmUp
    conditions: Mapping[str, str]
    before: Mapping[str, str]
    after: Mapping[str, str]
    stopped: str = ""
    notes: tuple[str, ...] = ()

    def label(self, timing: Timing) -> str:
        """Return the timing's name, with the batch where the name alone does not tell."""
        alike = sum(other.name == timing.name for other in self.timings)
        return timing.name if alike == 1 else f"{timing.name} (batch {timing.batch})"

    def tables(self) -> tuple[Table, ...]:
        """Return percentiles and throughput, one row per session and batch size."""
        headers = ("batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "spread", "samples/s", "runs")
        rows = (
            Row(
                (
                    timing.name,
                    "-" if timing.batch is None else str(timing.batch),
                    *(f"{value:.3f}" for value in (t.p50_ms, t.p90_ms, t.p95_ms, t.p99_ms)),
                    f"{t.spread:.1%}",
                    "-" if timing.per_second is None else f"{timing.per_second:.1f}",
                    str(t.runs),
                )
            )
            for timing in self.timings
            for t in (timing.latency,)
        )
        columns = (Column("model", "name"), *(Column(header, "number") for header in headers))
        return (Table(columns, tuple(rows), "Latency", "models", apart=True),)

    def remarks(self) -> tuple[str, ...]:
        """Return the ratios, and whether the times say anything about speed on a GPU."""
        warning = no_speed(self.conditions)
        return (*(ratio.sentence for ratio in self.ratios), *([warning] if warning else []))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "latencies": {self.label(timing): timing.to_json() for timing in self.timings},
            "batch": {self.label(timing): timing.batch for timing in self.timings},
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "warmup": {"runs": self.warmup.runs, "stable": self.warmup.stable},
            "conditions": dict(self.conditions),
            "state": {"before": dict(self.before), "after": dict(self.after)},
            "stopped": self.stopped,
            "notes": list(self.notes),
        }


def bench_sessions(
    sessions: Mapping[str, Session],
    feeds: MakeFeeds,
    *,
    runs: int,
    warmup: int,
    batches: Sequence[int] = (1,),
    conditions: Mapping[str, str] | None = None,
) -> Benchmark:
    """Time sessions turn by turn, at each batch size.

    If every session has a GPU's clock (`DeviceTimed`), times are the GPU's own, the mean of a burst of
    inferences per run, as `prove` takes them; otherwise all are wall times from host to host, since two
    clocks give no ratio.

    Args:
        sessions: Name to open session.
        feeds: Makes the inputs of a session for a batch size; they are made once.
        runs: Timed runs of each, at each batch size.
        warmup: Fewest runs of each before; up to ten times as many where the medians do not settle.
        batches: Batch sizes; a session whose batch is fixed runs its own, once.
        conditions: What to add to the conditions, e.g. the backends and their versions.

    Raises:
        InputError: `runs` or a batch size is less than 1, or `warmup` negative.
        DataError: The samples do not fit a session.
        BackendError: A session fails; rounds before it are in `error.partial`.
        Interrupted: The user stopped it; likewise.
    """
    if runs < 1 or warmup < 0 or not batches or min(batches) < 1:
        sizes = ", ".join(map(str, batches))
        raise InputError(
            f"{runs} runs of batch {sizes} after {warmup} cannot be timed; give 1, 1 and 0 or more"
        )
    on_device = bool(sessions) and all(isinstance(session, DeviceTimed) for session in sessions.values())
    before = machine_state()
    collected = _Collected(list(sessions))
    every = {
        **machine_conditions(),
        "order": _ORDER,
        "transfers": _DEVICE if on_device else _TRANSFERS,
        **_graphs(sessions),
        **(conditions or {}),
    }

    def result(stopped: str = "") -> Benchmark:
        return Benchmark(
            *collected.result(),
            WarmUp(collected.warm_runs, collected.stable),
            every,
            before,
            machine_state(),
            stopped,
        )

    try:
        with bar("timing", runs * len(batches)) as shown:
            for position, batch in enumerate(batches):
                calls, shapes = _calls(sessions, feeds, batch, position == 0, on_device)
                every.update(shapes if position == 0 else {})
                if not calls:
                    continue
                collected.begin({key: size for key, (size, _) in calls.items()})
                timed = {key: call for key, (_, call) in calls.items()}
                if warmup and on_device:
                    collected.warmed(warm_up_for(timed, least_s=_WARM_UP_S, least=warmup))
                elif warmup:
                    collected.warmed(warm_up(timed, least=warmup, most=_MOST_WARM_UP * max(warmup, 2)))
                for index, taken in enumerate(rounds(timed, runs)):
                    collected.add(taken)
                    shown.update(position * runs + index + 1)
    except (Nm2trtError, KeyboardInterrupt) as error:
        if not collected.any:
            raise
        why = str(error) or "stopped by the user"
        raised = restated(error, f"{why}; the runs before it are kept")
        raised.partial = result(why)
        if raised is error:
            raise
        raise raised from error
    return result()


def prepared(session: Session, feeds: Arrays, *, on_device: bool = False) -> Callable[[], object]:
    """Return what runs a session on the same feeds again and again, checked once where it can be.

    A session on a GPU is timed by the GPU's clock if `on_device`, else from and to pinned memory.
    """
    if isinstance(session, DeviceTimed):
        runs = session.on_device(feeds)
        return Clocked(runs.device_seconds if on_device else runs.host_seconds)
    prepare: Callable[[Arrays], Callable[[], object]] | None = getattr(session, "prepare", None)
    return partial(session.run, feeds) if prepare is None else prepare(feeds)


def ratio_of(
    name: str, base: str, batch: int | None, times: Sequence[float], others: Sequence[float]
) -> Ratio:
    """Return the ratio of two medians; one process gives it no interval."""
    return Ratio(name, base, batch, float(np.median(times) / np.median(others)))


class _Collected:
    """Times by session and batch size, as they come."""

    def __init__(self, names: Sequence[str]) -> None:
        self._order = list(names)
        self._sizes: list[dict[str, int]] = []
        self._times: list[dict[str, list[float]]] = []
        self.warm_runs, self.stable = 0, True

    @property
    def any(self) -> bool:
        return any(values for group in self._times for values in group.values())

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._sizes.append(dict(sizes))
        self._times.append({name: [] for name in sizes})

    def warmed(self, warm: WarmUp) -> None:
        self.warm_runs, self.stable = max(self.warm_runs, warm.runs), self.stable and warm.stable

    def add(self, taken: Mapping[str, float]) -> None:
        for name, seconds in taken.items():
            self._times[-1][name].append(seconds)

    def result(self) -> tuple[tuple[Timing, ...], tuple[Ratio, ...]]:
        timings, ratios = [], []
        for sizes, times in zip(self._sizes, self._times, strict=True):
            present = [name for name in self._order if times.get(name)]
            for name in present:
                ms = tuple(round(1e3 * seconds, 6) for seconds in times[name])
                timings.append(Timing(name, sizes[name], Latency.of(times[name]), ms))
            base = self._order[0]
            ratios += [
                ratio_of(name, base, sizes[name], times[name], times[base])
                for name in present
                if base in present and name != base and sizes[name] == sizes[base]
            ]
        return tuple(timings), tuple(ratios)


def _calls(
    sessions: Mapping[str, Session],
    feeds: MakeFeeds,
    batch: int,
    first: bool,
    on_device: bool,
) -> tuple[dict[str, tuple[int, Callable[[], object]]], dict[str, str]]:
    """Return the batch and the call of each session, and what samples it is fed, as conditions.

    A session whose batch is fixed takes part once.
    """
    calls: dict[str, tuple[int, Callable[[], object]]] = {}
    shapes = {}
    for name, session in sessions.items():
        if not first and not has_free_batch(session.inputs):
            continue
        made = feeds(session, batch)
        size = batch_size(session.inputs, made)
        calls[name] = (size, prepared(session, made, on_device=on_device))
        shapes[f"samples of {name}"] = ", ".join(
            f"{key} {'x'.join(map(str, array.shape[1:])) or 'of one number'}" for key, array in made.items()
        )
    return calls, shapes


def _graphs(sessions: Mapping[str, Session]) -> dict[str, str]:
    captured = [name for name, session in sessions.items() if getattr(session, "cuda_graphs", False)]
    return {"CUDA graphs": f"in {', '.join(captured)}" if captured else "none"}
