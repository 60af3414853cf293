"""Latency: interleaved timing, warm-up until it is stable, percentiles."""

from __future__ import annotations

import gc
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nm2trt.json_value import JsonValue

_WINDOW = 10
_STABLE = 0.05
_WINDOW_S = 0.1
_FEWEST_IN_A_WINDOW = 3


@dataclass(frozen=True, slots=True)
class Latency(JsonValue):
    """Latency of one callable.

    Args:
        p50_ms: Median.
        p90_ms: 90th percentile.
        p99_ms: 99th percentile.
        mean_ms: Mean.
        runs: Timed runs.
        p95_ms: 95th percentile.
        spread: Distance between the quartiles over the median; 0.02 is a quiet machine, 0.2 a busy one.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    runs: int
    p95_ms: float = 0.0
    spread: float = 0.0

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Summarise run times in seconds; there is at least one."""
        import numpy as np  # only here: who reports a time need not measure one

        ms = np.asarray(seconds, dtype=np.float64) * 1e3
        p25, p50, p75, p90, p95, p99 = (float(p) for p in np.percentile(ms, [25, 50, 75, 90, 95, 99]))
        spread = (p75 - p25) / p50 if p50 else 0.0
        return cls(p50, p90, p99, float(ms.mean()), len(ms), p95, spread)


@dataclass(frozen=True, slots=True)
class ServerTime(JsonValue):
    """A server's own time for requests, by its own statistics: what client and transport add is not in it.

    Args:
        requests: Requests that the server answered, all clients' together.
        mean_ms: Mean time per request in the server, from its arrival to its answer.
        queue_ms: Of it, waiting for a batch or an instance.
        input_ms: Of it, preparing inputs.
        infer_ms: Of it, in the model's backend.
        output_ms: Of it, preparing outputs.
    """

    requests: int
    mean_ms: float
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float

    @classmethod
    def pooled(cls, parts: Sequence[ServerTime]) -> ServerTime | None:
        """Return the means over the requests of several; None for no part."""
        if not parts:
            return None
        requests = sum(part.requests for part in parts)
        means = {
            name: sum(part.requests * getattr(part, name) for part in parts) / max(requests, 1)
            for name in ("mean_ms", "queue_ms", "input_ms", "infer_ms", "output_ms")
        }
        return cls(requests, **means)


@dataclass(frozen=True, slots=True)
class Clocked:
    """A call that is timed by a clock of its own, such as a GPU's, instead of this process's.

    Args:
        seconds: Makes the call and returns its time, in seconds.
    """

    seconds: Callable[[], float]

    def __call__(self) -> float:
        """Make the call."""
        return self.seconds()


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a warm-up went.

    Args:
        runs: Runs of each callable.
        stable: Whether the medians had settled; False if the limit came first.
    """

    runs: int
    stable: bool


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
    for taken in rounds(calls, runs):
        for name, one in taken.items():
            seconds[name].append(one)
    return {name: Latency.of(taken) for name, taken in seconds.items()}


def rounds(calls: Mapping[str, Callable[[], object]], count: int) -> Iterator[dict[str, float]]:
    """Call each in turn, `count` times; yield the seconds of each round, by name.

    The order rotates each round, so that no call always follows the same one.
    """
    names = list(calls)
    clock = time.perf_counter
    for index in range(count):
        shift = index % len(names)
        taken = {}
        with _no_collection():
            for name in names[shift:] + names[:shift]:
                call = calls[name]
                if isinstance(call, Clocked):
                    taken[name] = call.seconds()
                    continue
                start = clock()
                call()
                taken[name] = clock() - start
        yield taken


def warm_up(
    calls: Mapping[str, Callable[[], object]], *, least: int, most: int, most_s: float = 10.0
) -> WarmUp:
    """Run each in turn until its median over ten runs moves by less than 5 % from one ten to the next.

    Args:
        calls: Name to callable.
        least: Fewest runs of each.
        most: Most runs of each, stable or not.
        most_s: Longest warm-up beyond the fewest runs, in seconds.
    """
    started = time.perf_counter()
    window, done = _Window(calls), 0
    for taken in rounds(calls, most):
        window.add(taken)
        done += 1
        if done % _WINDOW:
            continue
        stable = window.settled()
        if done >= least and (stable or time.perf_counter() - started > most_s):
            return WarmUp(done, stable)
    return WarmUp(done, False)


class _Window:
    """The times of several callables since the medians were taken last."""

    def __init__(self, names: Iterable[str]) -> None:
        self.times: dict[str, list[float]] = {name: [] for name in names}
        self._medians: dict[str, float] = {}

    def add(self, taken: Mapping[str, float]) -> None:
        for name, one in taken.items():
            self.times[name].append(one)

    def settled(self) -> bool:
        """Tell whether each median moved by less than 5 % since the last call, and begin a new window."""
        from statistics import median

        before, self._medians = self._medians, {name: median(times) for name, times in self.times.items()}
        self.times = {name: [] for name in self.times}
        return bool(before) and all(
            abs(now - before[name]) <= _STABLE * before[name] for name, now in self._medians.items()
        )


def warm_up_for(
    calls: Mapping[str, Callable[[], object]], *, least_s: float, least: int, most_s: float = 10.0
) -> WarmUp:
    """Run each in turn for a while, then until the median over a tenth of a second moves by less than 5 %.

    A GPU that was idle raises its clocks within this time; until it has, every time is too long.

    Args:
        calls: Name to callable.
        least_s: Shortest warm-up, in seconds.
        least: Fewest runs of each.
        most_s: Longest warm-up beyond those, in seconds.
    """
    started = since = time.perf_counter()
    window, done = _Window(calls), 0
    while least_s > 0 or done < least:
        for taken in rounds(calls, 1):
            window.add(taken)
            done += 1
        now_s = time.perf_counter()
        enough = done >= least and now_s - started >= least_s
        if enough and now_s - started > least_s + most_s:
            return WarmUp(done, False)
        if now_s - since < _WINDOW_S or len(next(iter(window.times.values()))) < _FEWEST_IN_A_WINDOW:
            continue
        if window.settled() and enough:
            return WarmUp(done, True)
        since = now_s
    return WarmUp(done, True)


def blocks_in_turn(
    calls: Mapping[str, Callable[[], object]], *, blocks: int, runs: int, seconds: float
) -> list[dict[str, Latency]]:
    """Time several callables in turn, in blocks: a ratio is taken within each, so a drift falls on all alike.

    Args:
        calls: Name to callable.
        blocks: How many blocks.
        runs: Fewest runs of each, over all blocks.
        seconds: Shortest wall time of each, over all blocks.

    Returns:
        Latency by name, one mapping per block.
    """
    found = []
    for _ in range(blocks):
        taken: dict[str, list[float]] = {name: [] for name in calls}
        least, until = -(-runs // blocks), time.perf_counter() + seconds * len(calls) / blocks
        while len(next(iter(taken.values()))) < least or time.perf_counter() < until:
            # By as many rounds as there are callables, so that each has every place in the order as often.
            for one in rounds(calls, len(calls)):
                for name, value in one.items():
                    taken[name].append(value)
        found.append({name: Latency.of(own) for name, own in taken.items()})
    return found


def no_speed(conditions: Mapping[str, str]) -> str:
    """Return why a benchmark cannot show what zeros bring, from its conditions; "" if it can."""
    backends = [value for key, value in conditions.items() if key.startswith("backend of ")]
    if backends and all(value.startswith("ONNX Runtime") for value in backends):
        return "ONNX Runtime on a CPU has no sparse kernels: zeros bring no speed here"
    return ""


def peak_resident_bytes() -> int:
    """Return the most memory that this process has held resident, in bytes.

    On Linux from /proc: what getrusage says starts, in a child, at the memory of its parent.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector out of a round; what gathers is collected between rounds."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
