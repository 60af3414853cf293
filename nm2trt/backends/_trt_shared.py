"""The build path that TensorRT and TensorRT for RTX share; the library's module is passed in."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nm2trt.backends._trt_watch import logger, monitor_class, recorded, stoppable
from nm2trt.backends._trt_words import clean, dtype_name, first_error
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine, TensorSpec
from nm2trt.errors import BackendError, ModelError
from nm2trt.progress import Bar, bar

__all__ = ["Library", "ParsedNetwork", "build", "parse"]


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
        return stoppable(lambda _: _parse(library, model), f"{model} was parsed")


def build(library: Library, network: ParsedNetwork, options: BuildOptions) -> Engine:
    """Build an engine with progress shown; see `Backend.build`."""
    with bar(f"build {network.model.name}", 1.0) as shown:
        return stoppable(
            lambda stop: _build(library, network, options, shown, stop),
            f"an engine was built from {network.model}",
        )


def _parse(library: Library, model: Path) -> ParsedNetwork:
    trt = library.module
    with recorded(trt) as log:
        builder = _create(library, lambda: trt.Builder(logger(trt)), log)
        strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
        parser = trt.OnnxParser(network, logger(trt))
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
    with recorded(trt) as log:
        config = _create(library, parsed.builder.create_builder_config, log)
        # Kept in a variable: the library does not own the monitor.
        monitor = monitor_class(trt)(shown, stop)
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
                raise BackendError(
                    f"{library.product} refused a profile of {parsed.model}: {first_error(log)}"
                )
        library.configure(trt, config, options)
        start = time.perf_counter()
        plan = parsed.builder.build_serialized_network(parsed.network, config)
        build_ms = (time.perf_counter() - start) * 1e3
    if plan is None:
        reason = first_error(log)
        if options.workspace_bytes is not None and re.search("workspace|OutOfMemory", reason):
            reason += f"; {options.workspace_bytes} bytes of workspace are too few, give more or none"
        raise BackendError(f"{library.product} could not build {parsed.model}: {reason}")
    shown.update(1.0, 1.0)
    return Engine(memoryview(plan), (*parsed.log, *log), build_ms)


def _create(library: Library, create: Callable[[], Any], log: list[str]) -> Any:
    try:
        made = create()
    except (TypeError, RuntimeError) as error:
        # Without a device, TensorRT's factories return a null pointer, which arrives as a TypeError.
        raise BackendError(f"{library.product} cannot start: {first_error(log)}") from error
    if made is None:
        raise BackendError(f"{library.product} cannot start: {first_error(log)}")
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
    return TensorSpec(tensor.name, dtype_name(tensor.dtype), shape)


def _parser_failure(library: Library, model: Path, parser: Any, log: list[str]) -> BackendError | ModelError:
    if parser.num_errors == 0:
        return BackendError(f"{library.product} cannot read {model}: {first_error(log)}")
    error = parser.get_error(0)
    code = str(error.code()).rpartition(".")[2]
    if code == "MODEL_DESERIALIZE_FAILED":
        return ModelError(
            f"{model} is not a readable ONNX file: it is damaged, cut short or of another format"
        )
    reason = clean(error.desc())
    if reason in ("", "false") or "Plugin not found" in reason:
        reason = "it has no implementation of this operator; export the model without it"
    operator, node = error.node_operator(), error.node_name()
    if not operator:
        # Not of one node, e.g. external data that is missing: the log's first error names the cause.
        return ModelError(f"{library.product} cannot read {model}: {first_error(log)}")
    where = f"node {node!r}" if node else f"node number {error.node()}"
    return BackendError(f"{library.product} refuses {where}, operator {operator}, of {model}: {reason}")
