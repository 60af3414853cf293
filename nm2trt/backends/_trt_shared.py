"""The build path that TensorRT and TensorRT for RTX share; the library's module is passed in.

Parsing and building run in a thread of their own: the library lets go of the interpreter there, so the
caller's thread can take Ctrl-C and ask the builder, through its progress monitor, to stop.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine, TensorSpec
from nm2trt.errors import BackendError, Interrupted, ModelError
from nm2trt.progress import Bar, bar

__all__ = ["Library", "ParsedNetwork", "build", "parse"]

T = TypeVar("T")

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "E8M0": "float8_e8m0fnu",
    "FP4": "float4_e2m1fn",
    "INT4": "int4",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
}


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT-like library.

    Args:
        module: Its module object.
        product: Its name for messages, e.g. "TensorRT for RTX 1.7.1.116".
        configure: Called with the module, the builder configuration and the options, for what only this
            library has.
    """

    module: Any
    product: str
    configure: Callable[[Any, Any, BuildOptions], None]


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """A `Network`, with what the library needs to stay alive while it is built.

    Args:
        model: The file that was parsed.
        inputs: See `Network.inputs`.
        outputs: See `Network.outputs`.
        builder: The library's builder.
        network: The library's network.
        parser: The library's parser, which owns the memory of the weights.
        log: Messages of the parser.
    """

    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    builder: Any = field(repr=False)
    network: Any = field(repr=False)
    parser: Any = field(repr=False)
    log: tuple[str, ...] = field(repr=False)


def parse(library: Library, model: Path) -> ParsedNetwork:
    """Read an ONNX file into a strongly typed network; see `Backend.parse`."""
    with bar(f"parse {model.name}"):
        return _stoppable(lambda _: _parse(library, model), f"{model} was parsed")


def build(library: Library, network: ParsedNetwork, options: BuildOptions) -> Engine:
    """Build an engine with progress shown; see `Backend.build`."""
    with bar(f"build {network.model.name}", 1.0) as shown:
        return _stoppable(
            lambda stop: _build(library, network, options, shown, stop),
            f"an engine was built from {network.model}",
        )


def _parse(library: Library, model: Path) -> ParsedNetwork:
    trt = library.module
    with _recorded(trt) as log:
        builder = _create(library, lambda: trt.Builder(_logger(trt)), log)
        strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
        parser = trt.OnnxParser(network, _logger(trt))
        # By path, so that external data is found; resolved, so that it is looked for beside the real file
        # when the model is a link into a cache.
        if not parser.parse_from_file(str(model.resolve())):
            raise _parser_failure(library, model, parser, log)
        if network.num_outputs == 0:
            raise ModelError(f"{model} has no outputs; export the model again")
        inputs = tuple(_spec(library, network.get_input(i)) for i in range(network.num_inputs))
        outputs = tuple(_spec(library, network.get_output(i)) for i in range(network.num_outputs))
    return ParsedNetwork(model, inputs, outputs, builder, network, parser, tuple(log))


def _build(
    library: Library, parsed: ParsedNetwork, options: BuildOptions, shown: Bar, stop: threading.Event
) -> Engine:
    trt = library.module
    with _recorded(trt) as log:
        config = _create(library, parsed.builder.create_builder_config, log)
        # Kept in a variable: the library does not own the monitor.
        monitor = _monitor_class(trt)(shown, stop)
        config.progress_monitor = monitor
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if options.sparsity != "disable":
            config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
        if options.workspace_bytes is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
        for ranges in options.profiles:
            profile = parsed.builder.create_optimization_profile()
            for shapes in ranges:
                profile.set_shape(shapes.input, shapes.min, shapes.opt, shapes.max)
            if config.add_optimization_profile(profile) < 0:
                raise BackendError(f"{library.product} refused a profile of {parsed.model}: {_reason(log)}")
        library.configure(trt, config, options)
        start = time.perf_counter()
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        build_ms = (time.perf_counter() - start) * 1e3
    if plan is None:
        reason = _reason(log)
        if options.workspace_bytes is not None and re.search("workspace|OutOfMemory", reason):
            reason += f"; {options.workspace_bytes} bytes of workspace are too few, give more or none"
        raise BackendError(f"{library.product} could not build {parsed.model}: {reason}")
    shown.update(1.0, 1.0)
    return Engine(memoryview(plan), (*parsed.log, *log), build_ms)


def _stoppable(work: Callable[[threading.Event], T], doing: str) -> T:
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
        threading.Thread(target=run, name="nm2trt-builder").start()
        _wait(done)
    except KeyboardInterrupt:
        stop.set()
        # It may have come before the thread had begun; then there is nothing to wait for. If it comes
        # again, it leaves this wait, and the builder ends by itself.
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
def _logger(trt: Any) -> Any:
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
def _recorded(trt: Any) -> Iterator[list[str]]:
    """Collect the library's messages of this thread."""
    sinks = _logger(trt).sinks
    log: list[str] = []
    sinks[threading.get_ident()] = log
    try:
        yield log
    finally:
        del sinks[threading.get_ident()]


@functools.cache
def _monitor_class(trt: Any) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # as above
        """Turns nested phases into one share of the whole, and says no once the user has stopped."""

        def __init__(self, shown: Bar, stop: threading.Event) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, _Phase] = {}
            self.shown, self.stop, self.share = shown, stop, 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.phases[phase_name] = _Phase(parent_phase, max(1, num_steps))

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phase = self.phases.get(phase_name)
            if phase is not None:
                phase.done = step + 1.0
                self.share = max(self.share, _share(self.phases, phase))
                self.shown.update(self.share, 1.0)
            return not self.stop.is_set()

    return Monitor


@dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: float = 0.0


def _share(phases: dict[str, _Phase], phase: _Phase) -> float:
    """Return how much of the outermost phase is done; an inner phase is one step of its parent."""
    share = min(1.0, phase.done / phase.steps)
    while phase.parent is not None and (outer := phases.get(phase.parent)) is not None and outer is not phase:
        share = min(1.0, (outer.done + share) / outer.steps)
        phase = outer
    return share


def _create(library: Library, create: Callable[[], Any], log: list[str]) -> Any:
    try:
        made = create()
    except (TypeError, RuntimeError) as error:
        # Without a device, TensorRT's factories return a null pointer, which arrives as a TypeError.
        raise BackendError(f"{library.product} cannot start: {_reason(log)}") from error
    if made is None:
        raise BackendError(f"{library.product} cannot start: {_reason(log)}")
    return made


def _spec(library: Library, tensor: Any) -> TensorSpec:
    if tensor.is_shape_tensor and tensor.is_network_input:
        raise BackendError(
            f"input {tensor.name!r} decides shapes inside the model; make it a constant before building for "
            f"{library.product}"
        )
    shape = tuple(
        int(size) if size >= 0 else (tensor.get_dimension_name(axis) or None)
        for axis, size in enumerate(tensor.shape)
    )
    dtype = str(tensor.dtype).rpartition(".")[2]
    return TensorSpec(tensor.name, _DTYPES.get(dtype, dtype.lower()), shape)


def _parser_failure(library: Library, model: Path, parser: Any, log: list[str]) -> BackendError | ModelError:
    if parser.num_errors == 0:
        return BackendError(f"{library.product} cannot read {model}: {_reason(log)}")
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    if code == "MODEL_DESERIALIZE_FAILED":
        return ModelError(
            f"{model} is not a readable ONNX file: it is damaged, cut short or of another format"
        )
    reason = _clean(error.desc())
    if reason in ("", "false") or "Plugin not found" in reason:
        reason = "it has no implementation of this operator; export the model without it"
    operator, node = error.node_operator(), error.node_name()
    if not operator:
        # Not of one node, e.g. external data that is missing: the log's first error names the cause.
        return ModelError(f"{library.product} cannot read {model}: {_reason(log)}")
    where = f"node {node!r}" if node else f"node number {error.node()}"
    return BackendError(f"{library.product} refuses {where}, operator {operator}, of {model}: {reason}")


def _reason(log: list[str]) -> str:
    """Return the first error in the library's log, without its decoration."""
    for line in log:
        severity, _, message = line.partition(": ")
        if severity in ("error", "internal_error"):
            return _clean(message)
    return "the library gave no reason"


def _clean(message: str) -> str:
    """Take source positions and error codes off a message."""
    message = " ".join(message.split())
    # The compiler's own errors come as a chain "[file:line: function] text; [...] text ...": the first
    # names the cause.
    chain = re.match(r"Myelin \(\[[^]]*\] (.*?)(; \[|\)?$)", message)
    if chain:
        message = chain[1]
    for noise in (
        r"Assertion failed: (\S+: )?",
        r"(\[?\w+\.(cpp|h)[:\]]\S*\s*)+",
        r"I\w+::\w+: ",
        r"Error Code \d+: ",
    ):
        message = re.sub(f"^{noise}", "", message)
    return message.strip().rstrip(".") or "the library gave no reason"
