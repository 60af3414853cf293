"""Latency and throughput of several sessions, measured in turn in one process."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from nm2trt.arrays import Arrays
from nm2trt.backends.batch_axes import batch_size, has_free_batch
from nm2trt.backends.protocol import DeviceTimed, ServerTimed, Session
from nm2trt.errors import BackendError, InputError, Nm2trtError, restated
from nm2trt.measure import Clocked, Latency, ServerTime, WarmUp, rounds, warm_up, warm_up_for
from nm2trt.progress import bar
from nm2trt.validation.latency.benchmark import Benchmark, Ratio, Timing
from nm2trt.validation.latency.machine_state import machine_conditions, machine_state

MakeFeeds = Callable[[Session, int], Arrays]
_MOST_WARM_UP = 10
_ORDER = "interleaved, in one process"
_TRANSFERS = "host to host: every run takes its inputs from main memory and leaves its outputs there"
_DEVICE = (
    "none: the GPU's own time, by CUDA events around a burst of inferences on data that lies on the device"
)
# An idle GPU needs about this long to raise its clocks.
_WARM_UP_S = 0.5
# Requests whose time in the server is asked for after the timed runs, in which asking would take time.
_SERVER_RUNS = 100


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
        warmup: Fewest runs of each before; up to ten times as many if the medians do not settle.
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
        asked = min(runs, _SERVER_RUNS)
        steps = runs + asked * sum(isinstance(session, ServerTimed) for session in sessions.values())
        with bar("timing", steps * len(batches)) as shown:
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
                    shown.update(position * steps + index + 1, description="timing")
                told = partial(shown.update, description="server ms")
                collected.served(_server_times(sessions, timed, asked, told, position * steps + runs))
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
    """Return what runs a session on the same feeds again and again, checked once if it can be.

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
        self._server: list[Mapping[str, ServerTime]] = []
        self.warm_runs, self.stable = 0, True

    @property
    def any(self) -> bool:
        return any(values for group in self._times for values in group.values())

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._sizes.append(dict(sizes))
        self._times.append({name: [] for name in sizes})
        self._server.append({})

    def warmed(self, warm: WarmUp) -> None:
        self.warm_runs, self.stable = max(self.warm_runs, warm.runs), self.stable and warm.stable

    def add(self, taken: Mapping[str, float]) -> None:
        for name, seconds in taken.items():
            self._times[-1][name].append(seconds)

    def served(self, times: Mapping[str, ServerTime]) -> None:
        self._server[-1] = times

    def result(self) -> tuple[tuple[Timing, ...], tuple[Ratio, ...]]:
        timings, ratios = [], []
        for sizes, times, server in zip(self._sizes, self._times, self._server, strict=True):
            present = [name for name in self._order if times.get(name)]
            for name in present:
                ms = tuple(round(1e3 * seconds, 6) for seconds in times[name])
                latency = Latency.of(times[name])
                timings.append(Timing(name, sizes[name], latency, ms, server=server.get(name)))
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


def _server_times(
    sessions: Mapping[str, Session],
    calls: Mapping[str, Callable[[], object]],
    requests: int,
    told: Callable[[float], None],
    done: int,
) -> dict[str, ServerTime]:
    """Return the own time of each session's server; one session after another, as they may share a server.

    A server that keeps no statistics is left out: they are an extension of the protocol.

    Args:
        sessions: The sessions by name.
        calls: What sends one request, by the session's name.
        requests: Requests to each.
        told: Told after each request how much is done.
        done: What is done before.
    """
    sent = itertools.count(done + 1)

    def repeat(call: Callable[[], object]) -> None:
        for _ in range(requests):
            call()
            told(next(sent))

    found: dict[str, ServerTime] = {}
    for name, session in sessions.items():
        if name in calls and isinstance(session, ServerTimed):
            with contextlib.suppress(BackendError):
                own = session.server_time(partial(repeat, calls[name]), requests)
                found |= {} if own is None else {name: own}
    return found


def _graphs(sessions: Mapping[str, Session]) -> dict[str, str]:
    captured = [name for name, session in sessions.items() if getattr(session, "cuda_graphs", False)]
    return {"CUDA graphs": f"in {', '.join(captured)}" if captured else "none"}
