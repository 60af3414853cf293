"""Watching a TensorRT library at work: its messages, its progress, stopping it, and the engine inspector.

Parsing and building run in a thread of their own: the library lets go of the interpreter there, so the
caller's thread can take Ctrl-C and ask the builder, through its progress monitor, to stop.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from nm2trt.errors import Interrupted
from nm2trt.progress import BUILDER_THREAD, Bar

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt

T = TypeVar("T")


def stoppable(work: Callable[[threading.Event], T], doing: str) -> T:
    """Run `work` in a thread and wait; Ctrl-C sets its event, and the wait goes on until it has ended."""
    stop, begun, done = threading.Event(), threading.Event(), threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        begun.set()
        try:
            results.append(work(stop))
        except BaseException as error:  # handed to the waiting thread, which raises it
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=run, name=BUILDER_THREAD).start()
        _wait(done)
    except KeyboardInterrupt:
        stop.set()
        # It may have come before the thread had begun; then there is nothing to wait for. If it comes
        # again, it leaves this wait, and the command line ends the process at once.
        if begun.wait(1.0):
            _wait(done)
        raise Interrupted(f"stopped while {doing}; nothing was written") from None
    if errors:
        raise errors[0]
    return results[0]


def _wait(done: threading.Event) -> None:
    # Not Thread.join, which before Python 3.13 takes an interrupted thread for an ended one; and in short
    # waits, because a signal that the system hands to another thread does not end an endless one.
    while not done.wait(0.1):
        pass


@functools.cache
def logger(trt: Any) -> Any:
    """Return the module's one logger: the library keeps the first and ignores every later one."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the module is only known at run time
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.sinks: dict[int, list[str]] = {}

        def log(self, severity: Any, message: str) -> None:
            line = f"{str(severity).rpartition('.')[2].lower()}: {message}"
            own = self.sinks.get(threading.get_ident())
            # A thread of the library's own cannot be matched to a build; every one under way gets its lines.
            for sink in [own] if own is not None else list(self.sinks.values()):
                sink.append(line)

    return Logger()


@contextlib.contextmanager
def recorded(trt: Any) -> Iterator[list[str]]:
    """Collect the library's messages of this thread; a block within a block gives its own to both."""
    sinks, thread = logger(trt).sinks, threading.get_ident()
    outer, log = sinks.get(thread), list[str]()
    sinks[thread] = log
    try:
        yield log
    finally:
        if outer is None:
            del sinks[thread]
        else:
            outer += log
            sinks[thread] = outer


def layer_clock(trt: Any, totals: dict[str, float]) -> Any:
    """Return a profiler of the library that adds up the times of the layers, in milliseconds."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]  # the module is only known at run time
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            totals[layer_name] = totals.get(layer_name, 0.0) + ms

    return Profiler()


def inspect_engine(
    trt: Any, engine: tensorrt.ICudaEngine, context: tensorrt.IExecutionContext | None = None
) -> str:
    """Return what the inspector says of every layer, as JSON.

    Args:
        trt: The library's module.
        engine: The engine; built without detailed profiling verbosity it tells names only.
        context: Its execution context, if shapes are known and TensorRT for RTX has chosen kernels.
    """
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON) or "")


@functools.cache
def monitor_class(trt: Any) -> Any:
    """Return the module's progress monitor: it is made with a bar to fill and an event that stops."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Turns nested phases into one share of the whole, and says no once the user has stopped."""

        def __init__(self, shown: Bar, stop: threading.Event) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, _Phase] = {}
            self.shown, self.stop, self.share = shown, stop, 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = _Phase(parent_phase, max(1, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            phase = self.phases.pop(phase_name, None)
            outer = self.phases.get(phase.parent or "") if phase is not None else None
            if outer is not None:
                outer.finished += 1

        def step_complete(self, phase_name: str, step: int) -> bool:
            phase = self.phases.get(phase_name)
            if phase is not None:
                phase.done, phase.finished = step + 1.0, 0
                self.share = max(self.share, _share(self.phases, phase))
                self.shown.update(self.share, 1.0, f"build: {phase_name[:1].lower()}{phase_name[1:]}")
            return not self.stop.is_set()

    return Monitor


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: float = 0.0
    finished: int = 0  # phases that have begun and ended inside the step under way


def _share(phases: dict[str, _Phase], phase: _Phase) -> float:
    """Return how much of the outermost phase is done.

    How many phases will run inside one step is not announced, so each takes half of what is left of it.
    """
    share = min(1.0, phase.done / phase.steps)
    while phase.parent is not None and (outer := phases.get(phase.parent)) is not None and outer is not phase:
        share = min(1.0, (outer.done + 1 - 0.5 ** (outer.finished + share)) / outer.steps)
        phase = outer
    return share
