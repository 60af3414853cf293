"""The build path that TensorRT and TensorRT for RTX share; the library's module is passed in."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.backends import _trt_cache
from nm2trt.backends._trt_versions import VersionRow, network_flags
from nm2trt.backends._trt_watch import logger, monitor_class, recorded, stoppable
from nm2trt.backends._trt_words import dtype_name, first_error, in_words, parser_failure
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine, Network, TensorSpec
from nm2trt.errors import BackendError, InputError, ModelError
from nm2trt.files import check_input, library_path
from nm2trt.limits.run_watch import watched
from nm2trt.progress import Bar, bar

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt

_DRIVER_TOO_OLD = "the NVIDIA driver is missing or too old for it; update the driver"


@dataclass(frozen=True, slots=True)
class Library:
    """An imported TensorRT-like library.

    Args:
        module: Its module object.
        product: Its name for messages, e.g. "TensorRT for RTX 1.7.1.116".
        row: What its version has.
        configure: Called with the module, the builder configuration and the options, for what only this
            library has.
        make_context: Called with the module and an engine; returns its execution context, or None.
    """

    module: Any
    product: str
    row: VersionRow
    configure: Callable[[Any, Any, BuildOptions], None]
    make_context: Callable[[Any, Any], Any] = lambda _, engine: engine.create_execution_context()


@dataclass(frozen=True, slots=True)
class ParsedNetwork:
    """A `Network`, with what the library needs to stay alive while it is built.

    Args:
        model: The file that was parsed.
        inputs: See `Network.inputs`.
        outputs: See `Network.outputs`.
        layers: Type of layer and dtype of an output of it, for every pair that occurs.
        builder: The library's builder.
        network: The library's network.
        parser: The library's parser, which owns the memory of the weights.
        log: Messages of the parser.
    """

    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    layers: frozenset[tuple[str, str]]
    builder: tensorrt.Builder = field(repr=False)
    network: tensorrt.INetworkDefinition = field(repr=False)
    parser: tensorrt.OnnxParser = field(repr=False)
    log: tuple[str, ...] = field(repr=False)

    @property
    def dtypes(self) -> frozenset[str]:
        """Every dtype that a layer gives."""
        return frozenset(dtype for _, dtype in self.layers)


def parse(library: Library, model: Path, plugins: Sequence[Path] = ()) -> ParsedNetwork:
    """Read an ONNX file into a network, strongly typed if the version can; see `Backend.parse`."""
    with bar(f"parse {model.name}"):
        return stoppable(lambda _: _parse(library, model, plugins), f"{model} was parsed")


def fix(library: Library, parsed: ParsedNetwork, shapes: Mapping[str, tuple[int, ...]]) -> ParsedNetwork:
    """Fix inputs to full-rank shapes; see `Backend.fix`."""
    network = parsed.network
    for tensor in map(network.get_input, range(network.num_inputs)):
        if tensor.name in shapes:
            tensor.shape = library.module.Dims(list(shapes[tensor.name]))
    inputs, outputs = _tensors(library, network)
    return replace(parsed, inputs=inputs, outputs=outputs)


def check(library: Library, options: BuildOptions) -> None:
    """Raise if the library's version lacks an option; see `Backend.check`."""
    if options.timing_cache is not None and not library.row.timing_cache:
        raise BackendError(
            f"{library.product} has no timing cache: kernels are chosen on the GPU that loads the engine; "
            "leave --timing-cache out"
        )
    # The flag came within the 10.x releases, later than the first.
    if options.strict_nans and not hasattr(library.module.BuilderFlag, "STRICT_NANS"):
        raise BackendError(
            f"{library.product} has no strict NaNs, later releases of TensorRT have; leave --strict-nans out"
        )


def build(library: Library, network: ParsedNetwork, options: BuildOptions) -> Engine:
    """Build an engine with progress shown; see `Backend.build`."""
    with bar(f"build {network.model.name}", 1.0) as shown:
        return stoppable(
            lambda stop: _build(library, network, options, shown, stop),
            f"an engine was built from {network.model}",
        )


def load_plugins(library: Library, registry: tensorrt.IPluginRegistry, plugins: Sequence[Path]) -> None:
    """Load shared libraries of operators into the library's registry, which is the process's own.

    Raises:
        InputError: A file is missing.
        BackendError: The library cannot load one.
    """
    for plugin in plugins:
        check_input(plugin, "a plugin library")
        with recorded(library.module) as log:
            try:
                handle = registry.load_library(str(plugin.resolve()))
            except (RuntimeError, ValueError) as error:
                raise BackendError(f"{library.product} cannot load the plugin {plugin}: {error}") from error
        if handle is None:
            raise BackendError(f"{library.product} cannot load the plugin {plugin}: {first_error(log)}")


def own(network: Network) -> ParsedNetwork:
    """Return a network that came from here.

    Raises:
        BackendError: It came from elsewhere.
    """
    if not isinstance(network, ParsedNetwork):
        raise BackendError("the network comes from another backend; parse the model with this one")
    return network


def needed_flags(library: Library, parsed: ParsedNetwork) -> tuple[str, ...]:
    """Return the `BuilderFlag`s that the graph's own types need; () if networks are strongly typed."""
    if not library.row.type_flags:
        return ()
    dtypes = parsed.dtypes | {spec.dtype for spec in (*parsed.inputs, *parsed.outputs)}
    # A network that is not strongly typed says of quantised tensors what they were before.
    if {"QUANTIZE", "DEQUANTIZE"} & {kind for kind, _ in parsed.layers}:
        dtypes |= {"int8"}
    return tuple(flag for dtype, flag in library.row.type_flags.items() if dtype in dtypes)


def _parse(library: Library, model: Path, plugins: Sequence[Path]) -> ParsedNetwork:
    trt = library.module
    # By path, so that external data is found; resolved, so that it is looked for beside the real file
    # when the model is a link into a cache.
    path = library_path(model.resolve())
    with recorded(trt) as log:
        builder: tensorrt.Builder = create(library, lambda: trt.Builder(logger(trt)), log)
        if plugins:
            load_plugins(library, builder.get_plugin_registry(), plugins)
        network = builder.create_network(network_flags(trt, library.row))
        parser = trt.OnnxParser(network, logger(trt))
        # A parser cannot be told to end, but the command that waits for it can be ended.
        with watched(lambda: None):
            parsed = parser.parse_from_file(path)
        if not parsed:
            raise parser_failure(library.product, model, parser, log)
        if network.num_outputs == 0:
            raise ModelError(f"{model} has no outputs; export the model again")
        inputs, outputs = _tensors(library, network)
        layers = frozenset(_layers(library, network))
    return ParsedNetwork(model, inputs, outputs, layers, builder, network, parser, tuple(log))


def _build(
    library: Library, parsed: ParsedNetwork, options: BuildOptions, shown: Bar, stop: threading.Event
) -> Engine:
    trt = library.module
    with recorded(trt) as log:
        config: tensorrt.IBuilderConfig = create(library, parsed.builder.create_builder_config, log)
        # Kept in a variable: the library does not own the monitor.
        monitor = monitor_class(trt)(shown, stop) if library.row.progress else None
        if monitor is not None:
            config.progress_monitor = monitor
        _configure(library, config, parsed, options, log)
        with _trt_cache.shared(library.product, config, options.timing_cache, log):
            start = time.perf_counter()
            plan = parsed.builder.build_serialized_network(parsed.network, config)
            build_ms = (time.perf_counter() - start) * 1e3
            if plan is None:
                said, most = first_error(log), options.workspace_bytes
                reason = in_words(said)
                if most is not None and re.search("workspace|OutOfMemory", said):
                    reason = f"{said}; {most} bytes of workspace are too few, give more or none"
                raise BackendError(f"{library.product} could not build {parsed.model}: {reason}")
    shown.update(1.0, 1.0)
    return Engine(memoryview(plan), (*parsed.log, *log), build_ms)


def _configure(
    library: Library,
    config: tensorrt.IBuilderConfig,
    parsed: ParsedNetwork,
    options: BuildOptions,
    log: list[str],
) -> None:
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for name in needed_flags(library, parsed):
        config.set_flag(getattr(trt.BuilderFlag, name))
    if options.sparsity != "disable":
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if options.strict_nans:
        config.set_flag(trt.BuilderFlag.STRICT_NANS)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.effort is not None:
        config.builder_optimization_level = options.effort
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    for ranges in options.profiles:
        profile = parsed.builder.create_optimization_profile()
        for shapes in ranges:
            # `Dims` and no tuples: every version takes them, and the type stubs know nothing else.
            profile.set_shape(
                shapes.input, *(trt.Dims(list(shape)) for shape in (shapes.min, shapes.opt, shapes.max))
            )
        if config.add_optimization_profile(profile) < 0:
            raise BackendError(f"{library.product} refused a profile of {parsed.model}: {first_error(log)}")
    library.configure(trt, config, options)


def create(library: Library, make: Callable[[], Any], log: Sequence[str]) -> Any:
    """Make one of the library's objects that need a device.

    Raises:
        BackendError: The library cannot, e.g. because the driver is too old for it.
    """
    failed: Exception | None = None
    try:
        made = make()
    except (TypeError, RuntimeError) as error:
        # Without a device, TensorRT's factories return a null pointer, which arrives as a TypeError.
        made, failed = None, error
    reason = first_error(log)
    started = re.search(r"CUDA initialization failure with error: (\d+)", reason)
    # TensorRT's runtime returns an object all the same, and ends the process when that is used.
    if made is None or started:
        why = f" ({_DRIVER_TOO_OLD})" if started and started[1] == "35" else ""
        raise BackendError(f"{library.product} cannot start: {reason}{why}") from failed
    return made


def _tensors(
    library: Library, network: tensorrt.INetworkDefinition
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    inputs = tuple(_spec(library, network.get_input(index)) for index in range(network.num_inputs))
    outputs = tuple(_spec(library, network.get_output(index)) for index in range(network.num_outputs))
    return inputs, outputs


def _spec(library: Library, tensor: tensorrt.ITensor) -> TensorSpec:
    if tensor.is_shape_tensor and tensor.is_network_input:
        raise InputError(
            f"input {tensor.name!r} decides shapes inside the model; make it a constant before building for "
            f"{library.product}"
        )
    # The library makes up a name of its own for a free size that the model calls "-1".
    names = map(tensor.get_dimension_name, range(len(tensor.shape)))
    shape = tuple(
        int(size) if size >= 0 else (name if name and not name.startswith("trt_dynamic_dim_") else None)
        for size, name in zip(tensor.shape, names, strict=True)
    )
    return TensorSpec(tensor.name, dtype_name(tensor.dtype), shape)


def _layers(library: Library, network: tensorrt.INetworkDefinition) -> set[tuple[str, str]]:
    trt = library.module
    found: set[tuple[str, str]] = set()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        kind = str(layer.type).rpartition(".")[2]
        found.update((kind, dtype_name(layer.get_output(i).dtype)) for i in range(layer.num_outputs))
        if kind == "ATTENTION_INPUT" and hasattr(trt, "IAttentionInputLayer"):
            # Attention of opset 23 and newer: a builder without a fused kernel for it refuses it otherwise.
            layer.__class__ = trt.IAttentionInputLayer
            boundary: Any = layer
            boundary.attention.decomposable = True
        if library.row.type_flags and kind in ("CONVOLUTION", "DECONVOLUTION"):
            # Its weights are not a layer of their own; the class must be set for its attributes to be there.
            layer.__class__ = trt.IConvolutionLayer if kind == "CONVOLUTION" else trt.IDeconvolutionLayer
            convolution: Any = layer
            found.add((kind, str(convolution.kernel.dtype)))
    return found
