"""Clocks of the twin build: device time, CUDA graph and host to host, in blocks that the engines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median

from nm2trt.arrays import Arrays
from nm2trt.backends.protocol import DeviceRuns, DeviceTimed, Session
from nm2trt.engine.twin.report import ClockReport, Comparison
from nm2trt.measure import Clocked, Latency, WarmUp, blocks_in_turn, warm_up_for

BLOCKS = 10
# (faster, slower) in the reading "this over that".
_PAIRS = (("sparse-on", "sparse-off"), ("sparse-on", "dense"), ("sparse-off", "dense"))
_TIMES = {
    "device": "device time: CUDA events around bursts of inferences, data on the device",
    "graph": "device time of a CUDA graph of the inference, replayed in bursts",
    "host": "host to host: copies of inputs and outputs included, no CUDA graph",
    "pinned": "host to host: copies from and to pinned memory included, no CUDA graph",
}
# A device clock that reads this much more than the graph's counts the host's launches, not the kernels.
_LAUNCH_BOUND = 1.2


@dataclass(frozen=True, slots=True)
class Effort:
    """How long engines are timed.

    Args:
        runs: Fewest timed runs of each; on a GPU a run is a burst of inferences.
        warmup: Fewest runs of each before, not timed.
        seconds: Shortest time that each is timed for; half of it by each further clock.
        warmup_seconds: Shortest warm-up; beyond it, it lasts until the medians settle.
    """

    runs: int
    warmup: int
    seconds: float
    warmup_seconds: float


@dataclass(frozen=True, slots=True)
class Clocks:
    """What the clocks said.

    Args:
        clock: The first clock, "device" or "host".
        time: What it measures, in words.
        latencies: Latency by the engine's name.
        comparisons: The engines' speeds.
        warm: How the warm-up went.
        before: The machine's clocks, power and temperature before.
        after: The same after.
        others: The same engines by other clocks.
        notes: What the user should know; one sentence each.
    """

    clock: str
    time: str
    latencies: Mapping[str, Latency]
    comparisons: tuple[Comparison, ...]
    warm: WarmUp
    before: Mapping[str, str]
    after: Mapping[str, str]
    others: tuple[ClockReport, ...]
    notes: tuple[str, ...]

    def of(self, name: str) -> dict[str, Latency]:
        """Return the latency of one engine by clock: "device", "host" and "graph", as far as known."""
        return {self.clock: self.latencies[name], **{o.clock: o.latencies[name] for o in self.others}}


def clock_sessions(
    sessions: Mapping[str, Session],
    feeds: Arrays,
    effort: Effort,
    state: Callable[[], Mapping[str, str]],
) -> Clocks:
    """Time sessions in turn on the same feeds, by the GPU's clock if all have one.

    Raises:
        BackendError: A session failed.
    """
    on_device = _on_device(sessions, feeds)
    clock = "device" if on_device else "host"
    calls: dict[str, Callable[[], object]] = {}
    for name, session in sessions.items():
        calls[name] = Clocked(on_device[name].device_seconds) if on_device else partial(session.run, feeds)
    before = state()
    warm = warm_up_for(calls, least_s=effort.warmup_seconds, least=effort.warmup)
    blocks = blocks_in_turn(calls, blocks=BLOCKS, runs=effort.runs, seconds=effort.seconds)
    after = state()
    latencies = {name: _middle([block[name] for block in blocks]) for name in calls}
    others, notes = _other_clocks(on_device, effort)
    return Clocks(
        clock,
        _TIMES[clock],
        latencies,
        _comparisons(blocks),
        warm,
        before,
        after,
        others,
        (*notes, *_launch_bound(latencies, others)),
    )


def _on_device(sessions: Mapping[str, Session], feeds: Arrays) -> dict[str, DeviceRuns]:
    """Return what times the sessions by the GPU's clock; {} unless all can be: two clocks give no ratio."""
    timed = {name: session for name, session in sessions.items() if isinstance(session, DeviceTimed)}
    if len(timed) < len(sessions):
        return {}
    return {name: session.on_device(feeds) for name, session in timed.items()}


def _other_clocks(
    on_device: Mapping[str, DeviceRuns], effort: Effort
) -> tuple[tuple[ClockReport, ...], tuple[str, ...]]:
    """Time the engines host to host from pinned memory, and as CUDA graphs if all can be captured."""
    if not on_device:
        return (), ()
    clocks = {"host": {name: Clocked(runs.host_seconds) for name, runs in on_device.items()}}
    refused = [f"{name}: {runs.no_graph}" for name, runs in on_device.items() if runs.no_graph]
    if not refused:
        clocks["graph"] = {name: Clocked(runs.graph_seconds) for name, runs in on_device.items()}
    notes = (f"not timed as a CUDA graph, {refused[0]}",) if refused else ()
    found = []
    for clock, calls in clocks.items():
        warm_up_for(calls, least_s=effort.warmup_seconds / 2, least=min(effort.warmup, 5))
        blocks = blocks_in_turn(calls, blocks=BLOCKS, runs=effort.runs // 4, seconds=effort.seconds / 2)
        latencies = {name: _middle([block[name] for block in blocks]) for name in calls}
        time = _TIMES["pinned" if clock == "host" else clock]
        found.append(ClockReport(clock, time, latencies, _comparisons(blocks)))
    return tuple(found), notes


def _launch_bound(latencies: Mapping[str, Latency], others: Sequence[ClockReport]) -> tuple[str, ...]:
    for graph in (other for other in others if other.clock == "graph"):
        for name, latency in latencies.items():
            replayed_ms = graph.latencies[name].p50_ms
            if latency.p50_ms > _LAUNCH_BOUND * replayed_ms:
                sentence = (
                    f"the GPU waits for the host to launch kernels: {name} takes {latency.p50_ms:.3f} ms, "
                    f"as a CUDA graph {replayed_ms:.3f} ms; read the graph's figures"
                )
                return (sentence,)
    return ()


def _comparisons(blocks: Sequence[Mapping[str, Latency]]) -> tuple[Comparison, ...]:
    medians = {name: [block[name].p50_ms for block in blocks] for name in blocks[0]}
    return tuple(_compare(name, other, medians) for name, other in _PAIRS if {name, other} <= medians.keys())


def _middle(blocks: Sequence[Latency]) -> Latency:
    """Return the block whose median is the middle one, with the runs of all."""
    chosen = sorted(blocks, key=lambda block: block.p50_ms)[len(blocks) // 2]
    return replace(chosen, runs=sum(block.runs for block in blocks))


def _compare(name: str, other: str, medians: Mapping[str, Sequence[float]]) -> Comparison:
    ratios = [theirs / own for own, theirs in zip(medians[name], medians[other], strict=True)]
    return Comparison(name, other, median(ratios), min(ratios), max(ratios))
