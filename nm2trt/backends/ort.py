"""ONNX Runtime on the CPU: the reference that every other backend is compared with.

As a builder it writes models of its own `.ort` format: the graph optimised ahead of time, weights inside.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.feeds import check_feeds
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Closing, Engine, Network, TensorSpec
from nm2trt.errors import BackendError, InputError, ModelError, first_line
from nm2trt.extras import names_the_extra
from nm2trt.files import check_input, library_path
from nm2trt.installed import installed_version
from nm2trt.limits.bounds import bounds
from nm2trt.limits.run_watch import watched
from nm2trt.onnx_bytes.optimiser_faults import BREAKING, ONE_ROUND
from nm2trt.onnx_bytes.turned_products import crashing_optimisers
from nm2trt.progress import bar

KIND = "ONNX Runtime model in its .ort format: runs in ONNX Runtime, where zeros bring no speed"

# Errors arrive as exceptions; the library's own log would write a model's names to the terminal as they are.
_FATAL = 4

# What stands around the sentence of a message: the library's own code, the node, a place in its sources.
_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?")
_NODE = re.compile(r"Non-zero status code returned while running (\S+) node\. Name:'(.*?)' Status Message: ")
_PLACE = re.compile(r"(/\S+\.(?:cc|cu|h):\d+ .*?\) (const )?|\w+\.(cc|h):\d+ \w+ )(.*? was false\. (?=\S))?")

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int16)": "int16",
    "tensor(uint16)": "uint16",
    "tensor(int32)": "int32",
    "tensor(uint32)": "uint32",
    "tensor(int64)": "int64",
    "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}


class OrtSession(Closing):
    """An ONNX model open in ONNX Runtime; a `Session`."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(value) for value in session.get_inputs())
        self.outputs = tuple(_spec(value) for value in session.get_outputs())

    def run(self, feeds: Arrays) -> dict[str, Array]:
        """Run one batch; see `Session.run`."""
        check_feeds(self.inputs, feeds)
        options = _import().RunOptions()
        options.log_severity_level = _FATAL
        with watched(lambda: setattr(options, "terminate", True)) as watch:
            try:
                results = self._session.run(None, dict(feeds), options)
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed: {watch.reason or _reason(error)}") from error
        return {spec.name: _array(result) for spec, result in zip(self.outputs, results, strict=True)}

    def prepare(self, feeds: Arrays) -> Callable[[], object]:
        """Run feeds once, and return what runs them as often as it is called, for timing.

        The runs that follow are not watched, which would take time of theirs.

        Raises:
            DataError: A feed does not fit.
            BackendError: The run fails, or reaches a bound.
        """
        self.run(feeds)
        run, fed = self._session.run, dict(feeds)

        def call() -> object:
            try:
                return run(None, fed)
            except Exception as error:
                raise BackendError(f"ONNX Runtime failed: {_reason(error)}") from error

        return call

    def close(self) -> None:
        """Free the session."""
        self._session = None


@dataclass(frozen=True, slots=True)
class OrtNetwork:
    """A `Network`: an ONNX model that ONNX Runtime has taken.

    Args:
        model: The file.
        inputs: See `Network.inputs`.
        outputs: See `Network.outputs`.
    """

    model: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class OrtBackend:
    """ONNX Runtime on the CPU; a `Backend`."""

    name = "ort"
    kind = KIND
    suffix = ".ort"
    device = ""
    max_opset = None
    has_profiles = False
    has_timing_cache = False

    def __init__(self) -> None:
        _import()
        self.version = installed_version("onnxruntime")

    def choose_targets(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """See `Backend.choose_targets`; ONNX Runtime builds for this CPU only."""
        if targets:
            raise InputError(f"ONNX Runtime runs on the CPU; leave --target {','.join(targets)} out")
        return ()

    def check(self, options: BuildOptions, network: Network | None = None) -> None:  # noqa: ARG002
        """See `Backend.check`; ONNX Runtime takes none of the options, so any that is set is refused."""
        asked = options.asked()
        if "sparsity" in asked:
            raise BackendError(
                "ONNX Runtime has no sparse kernels, so --sparsity would change nothing; leave it out, or "
                "build with --backend trt-rtx"
            )
        if asked:
            raise BackendError(f"ONNX Runtime has no {asked[0].replace('_', ' ')} to set; leave it out")

    def parse(self, model: Path, plugins: Sequence[Path] = ()) -> Network:  # noqa: ARG002 - refused by check
        """See `Backend.parse`."""
        with open_onnx(model, optimize=False) as session:
            return OrtNetwork(model, session.inputs, session.outputs)

    def fix(self, network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Network:  # noqa: ARG002
        """See `Backend.fix`."""
        raise BackendError("ONNX Runtime fixes no shapes; export the model with static ones")

    def build(self, network: Network, options: BuildOptions) -> Engine:  # noqa: ARG002 - it has no options
        """See `Backend.build`."""
        if not isinstance(network, OrtNetwork):
            raise BackendError("the network comes from another backend; parse the model with this one")
        onnxruntime = _import()
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = _FATAL
        # The highest level that ties the file to no kind of CPU.
        settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        settings.add_session_config_entry("session.save_model_format", "ORT")
        with bar(f"build {network.model.name}"), tempfile.TemporaryDirectory(prefix="nm2trt-") as folder:
            built = Path(folder) / "model.ort"
            settings.optimized_model_filepath = str(built)
            start = time.perf_counter()
            _session(onnxruntime, str(network.model), settings, str(network.model))
            build_ms = (time.perf_counter() - start) * 1e3
            return Engine(memoryview(built.read_bytes()), (), build_ms)

    def open(self, path: Path, plugins: Sequence[Path] = ()) -> OrtSession:  # noqa: ARG002 - has none
        """See `Backend.open`; an ONNX model is taken as well."""
        return open_onnx(check_input(path, "an ONNX Runtime or ONNX model"))


def load() -> OrtBackend:
    """Import the library.

    Raises:
        BackendMissingError: It is not installed.
    """
    return OrtBackend()


def open_onnx(
    model: str | os.PathLike[str] | bytes,
    *,
    threads: int = 0,
    optimize: bool = True,
    weights_folder: Path | None = None,
    flush_denormals: bool = False,
    in_order: bool = False,
) -> OrtSession:
    """Open an ONNX model (or one in the `.ort` format), by path or as bytes, on the CPU.

    Args:
        model: The model.
        threads: Threads within an operator; 0 leaves it to ONNX Runtime.
        optimize: Let ONNX Runtime rewrite the graph first; False runs it node by node as it stands.
        weights_folder: Where the external data of a model given as bytes lies.
        flush_denormals: Take numbers below the normal range of floats, which are slow, for zero.
        in_order: Run the nodes in the order of the file, as far as their inputs allow.

    Raises:
        BackendMissingError: onnxruntime is not installed.
        ModelError: ONNX Runtime cannot load the model.
    """
    onnxruntime = _import()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = _FATAL
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_cpu_mem_arena = False  # it takes twice the memory, to save time in later runs
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if weights_folder is not None:
        key = "session.model_external_initializers_file_folder_path"
        options.add_session_config_entry(key, library_path(weights_folder))
    if isinstance(model, bytes):
        return OrtSession(_session(onnxruntime, model, options, "the model"))
    name = library_path(Path(model))
    return OrtSession(_session(onnxruntime, name, options, name))


def _import() -> Any:
    # Version 1.31 warns in red as it loads if it cannot store the identifier of its telemetry, as in a
    # container whose file system is read-only.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with names_the_extra("onnxruntime"):
        import onnxruntime
    # Allocators and other parts without a session write to a log of their own.
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def _session(onnxruntime: Any, source: str | bytes, options: Any, name: str) -> Any:
    options.add_session_config_entry(*ONE_ROUND)
    plain = options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    crashing = [] if plain else crashing_optimisers(source)

    def load(without: Sequence[str]) -> Any:
        how = {"disabled_optimizers": without} if without else {}
        return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"], **how)

    def cancel() -> None:
        if hasattr(options, "set_load_cancellation_flag"):  # since 1.22
            options.set_load_cancellation_flag(True)

    with watched(cancel) as watch:
        try:
            try:
                return load(crashing)
            except Exception as error:
                without = [name for words, name in BREAKING.items() if words in str(error)]
                if not without:
                    raise
                return load([*crashing, *without])
        except Exception as error:
            why = watch.reason or _reason(error)
            raise ModelError(f"ONNX Runtime cannot load {name}: {why}") from error


def _array(result: Any) -> Array:
    if not isinstance(result, list):
        return np.asarray(result)
    # A sequence, whose parts need not have one shape.
    sequence = np.empty(len(result), dtype=object)
    sequence[:] = result
    return sequence


def _spec(value: Any) -> TensorSpec:
    return TensorSpec(value.name, _DTYPES.get(value.type, value.type), tuple(value.shape))


def _reason(error: Exception) -> str:
    words = str(error).strip()
    if isinstance(error, MemoryError) or "bad_alloc" in words or "Failed to allocate memory" in words:
        most = bounds().run_bytes
        limit = "the machine has free" if most is None else f"the {most / (1 << 30):g} GB of --run-memory"
        detail = f" ({words.splitlines()[0][-300:]})" if words else ""
        return f"it asks for more memory than {limit}{detail}"
    said = _CODE.sub("", first_line(error))
    node = next(reversed([*_NODE.finditer(said)]), None)  # the innermost, e.g. in the body of an If
    sentence = _PLACE.sub("", said[node.end() if node else 0 :], count=1)
    if node is None:
        return sentence
    where = f"node {node[2]!r}, operator {node[1]}" if node[2] else f"one of the {node[1]} nodes"
    return f"{where}: {sentence}"
