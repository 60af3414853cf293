"""The twin build: what did sparsity bring, all else equal?

Three engines are built one after the other, with the same options, targets and profiles:

| name         | weights               | sparse weights flag |
|--------------|-----------------------|---------------------|
| `dense`      | dense                 | off                 |
| `sparse-off` | sparse                | off                 |
| `sparse-on`  | sparse                | on                  |

The first two should take the same time: a difference there is the machine's, not sparsity's. On a GPU all
three run in turn, in blocks; of each block the ratio of medians is taken, so that clocks that drift fall on
all of them. Without a GPU everything up to the timing is done, and the rest reads `not measured`.

Times are the GPU's own, by events around bursts of inferences on data that lies on the device, since that is
what sparse kernels change. The wall time with copies from and to pinned memory, and the time as a CUDA graph,
stand beside it. A session that has no such clock is timed host to host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, runtime_checkable

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.cuda import probe_gpus
from nm2trt.backends.feeds import random_feeds
from nm2trt.backends.protocol import Backend, Session
from nm2trt.engine.build_result import BuildResult
from nm2trt.engine.evidence.layer_names import is_region, onnx_nodes
from nm2trt.engine.ladder.ladder import sparse_share, with_evidence, with_layer_times
from nm2trt.engine.ladder.requirement import read_evidence
from nm2trt.engine.twin.clocks import BLOCKS, Clocks, Effort, clock_sessions
from nm2trt.engine.twin.layer_changes import layer_changes
from nm2trt.engine.twin.report import LayerDelta, TwinReport, Variant
from nm2trt.errors import BackendError, BackendMissingError


@runtime_checkable
class _TimesLayers(Protocol):
    def layer_times(self, feeds: Arrays, *, runs: int) -> dict[str, float]:
        """Return the mean time of every layer, in milliseconds, by its name in the engine."""


@runtime_checkable
class _TellsLayers(Protocol):
    def layers_json(self) -> str:
        """Return the engine inspector's JSON."""


def compare_twins(
    builds: Mapping[str, BuildResult],
    backend: Backend,
    *,
    dense_model: str = "",
    kept: bool = True,
    effort: Effort,
    state: Callable[[], Mapping[str, str]] = dict,
) -> TwinReport:
    """Time three engines that were built, if this machine can run them.

    Args:
        builds: `dense`, `sparse-off` and `sparse-on`, in this order.
        backend: What built them.
        dense_model: The dense ONNX model, or "" if the zeros were filled in.
        kept: Whether the files stay where they are.
        effort: How long they are timed.
        state: Returns the machine's clocks, power and temperature, as texts by name.

    Raises:
        BackendError: There is a GPU, and an engine cannot be loaded or fails, e.g. for lack of memory; the
            report without times is in `error.partial`.
    """
    on = builds["sparse-on"]
    feeds = feeds_of(on)
    share, unknown = sparse_share(on.ladder)
    report = TwinReport(
        model=str(on.model),
        dense_model=dense_model,
        backend=on.backend,
        backend_version=on.backend_version,
        measured=False,
        why_not="",
        device="",
        clocks_before={},
        clocks_after={},
        conditions={},
        feeds={name: array.shape for name, array in feeds.items()},
        variants=tuple(_variant(name, result, kept) for name, result in builds.items()),
        comparisons=(),
        layers=(),
        ladder=on.ladder,
        sparse_share=share,
        forecast=on.forecast,
        notes=tuple(dict.fromkeys((*on.notes, *([unknown] if unknown else [])))),
    )
    with contextlib.ExitStack() as stack:
        try:
            sessions = _opened(builds, backend, stack)
            report = _asked(report, sessions["sparse-on"], on)
            clocks = clock_sessions(sessions, feeds, effort, state)
            return _timed(report, clocks, sessions, feeds)
        except BackendMissingError as error:
            return replace(report, why_not=str(error))
        except BackendError as error:
            error.partial = replace(report, why_not=str(error))
            raise


def _opened(
    builds: Mapping[str, BuildResult], backend: Backend, stack: contextlib.ExitStack
) -> dict[str, Session]:
    sessions: dict[str, Session] = {}
    for name, result in builds.items():
        sessions[name] = stack.enter_context(_open(name, result, backend, beside=tuple(sessions)))
    return sessions


def _open(name: str, result: BuildResult, backend: Backend, *, beside: tuple[str, ...]) -> Session:
    try:
        return backend.open(result.engine)
    except BackendMissingError:
        raise
    except BackendError as error:
        loaded = f" beside {' and '.join(beside)}" if beside else ""
        raise BackendError(f"the engine {name!r} cannot be loaded{loaded}: {error}") from error


def _asked(report: TwinReport, session: Session, on: BuildResult) -> TwinReport:
    """Fill the ladder's upper rungs from what the engine that ran says of its tactics.

    A build for TensorRT for RTX cannot know them, and that for TensorRT may have been told less.
    """
    layers = session.layers_json() if isinstance(session, _TellsLayers) else ""
    if not layers:
        return report
    evidence = read_evidence(on.log, layers, builder=on.backend, version=on.backend_version)
    ladder = with_evidence(report.ladder, evidence)
    known, unknown = sparse_share(report.ladder)
    share, still_unknown = sparse_share(ladder)
    if share is None and known is not None:
        return report
    notes = [note for note in report.notes if note != unknown]
    notes += [*evidence.notes, *([still_unknown] if still_unknown else [])]
    return replace(report, ladder=ladder, sparse_share=share, notes=tuple(dict.fromkeys(notes)))


def feeds_of(result: BuildResult) -> dict[str, Array]:
    """Return inputs of the shapes that an engine is optimised for, the same every time."""
    shapes = {shape.input: shape.shape for shape in result.options.static_shapes}
    shapes |= {given.input: given.opt for given in next(iter(result.options.profiles), ())}
    return random_feeds(result.inputs, batch=1, free=1, shapes=shapes)


def _variant(name: str, result: BuildResult, kept: bool) -> Variant:
    return Variant(
        name,
        result.options.sparsity,
        str(result.engine) if kept else "",
        result.engine_bytes,
        result.engine_sha256,
        round(result.build_ms, 3),
    )


def _timed(report: TwinReport, clocks: Clocks, sessions: Mapping[str, Session], feeds: Arrays) -> TwinReport:
    gpus = probe_gpus()[0]
    warm = clocks.warm
    # The profiler slows an engine for good, so its layers come last.
    off, on = _layer_times(sessions, feeds)
    return replace(
        report,
        measured=True,
        device=gpus[0].name if gpus else "",
        clocks_before=clocks.before,
        clocks_after=clocks.after,
        conditions={
            "runs": str(clocks.latencies["dense"].runs),
            "warm-up": f"{warm.runs}{'' if warm.stable else ', and the times had not settled'}",
            "order": f"in turn, {BLOCKS} blocks",
            "time": clocks.time,
        },
        variants=tuple(
            replace(variant, latency=clocks.latencies[variant.name]) for variant in report.variants
        ),
        comparisons=clocks.comparisons,
        notes=(*report.notes, *clocks.notes, *layer_changes(off, on)),
        clock=clocks.clock,
        other_clocks=clocks.others,
        layers=_deltas(off, on),
        ladder=with_layer_times(report.ladder, _by_node(off, on)),
    )


def _layer_times(
    sessions: Mapping[str, Session], feeds: Arrays
) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return the time of every layer in ms, without the flag and with it; {} if not all are known."""
    off, on = sessions["sparse-off"], sessions["sparse-on"]
    if isinstance(off, _TimesLayers) and isinstance(on, _TimesLayers):
        with contextlib.suppress(BackendError):
            return off.layer_times(feeds, runs=20), on.layer_times(feeds, runs=20)
    return {}, {}


def _deltas(off: Mapping[str, float], on: Mapping[str, float]) -> tuple[LayerDelta, ...]:
    shared = [LayerDelta(name, off[name], ms) for name, ms in on.items() if name in off]
    return tuple(sorted(shared, key=lambda delta: -delta.saved_ms))


def _by_node(off: Mapping[str, float], on: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Return the layers' times by the ONNX nodes that both engines name, regions of many nodes left out."""
    sums = []
    for times in (off, on):
        found: dict[str, float] = {}
        for name, ms in times.items():
            for node in () if is_region(name) else onnx_nodes(name):
                found[node] = found.get(node, 0.0) + ms
        sums.append(found)
    return {node: (ms, sums[1][node]) for node, ms in sums[0].items() if node in sums[1]}
