"""TensorRT proper, 8.6, 10 and 11: engines for the GPU at hand, built on it.

The only module that imports `tensorrt`. No function of the library that touches a device is called before the
driver was asked: without one, TensorRT 8.6 and the lean runtime end the process.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.backends import _trt_session, _trt_shared
from nm2trt.backends._trt_versions import VersionRow, row_of
from nm2trt.backends._trt_watch import inspect_engine, logger, recorded
from nm2trt.backends._trt_words import first_error, of_the_machine
from nm2trt.backends.cuda import probe_gpus, require_gpu
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine, Network
from nm2trt.errors import BackendMissingError, InputError
from nm2trt.extras import install_line, names_the_extra
from nm2trt.figures import counted
from nm2trt.json_value import JsonValue

if TYPE_CHECKING:
    import tensorrt

KIND = (
    "TensorRT engine: runs in the TensorRT version that built it, on the kind of GPU it was built on, "
    "and in Triton's TensorRT backend of that version"
)
MAGIC = b"ftrt"

# The head of an engine as NVIDIA's own trtexec reads it: tag, version of the layout, and at 24 the library's.
_HEADER = struct.Struct("<4sI16x4B")
_KNOWN_LAYOUT = 0
_LIBRARY_TACTICS = ("CUBLAS", "CUBLAS_LT", "CUDNN")


class TrtBackend:
    """TensorRT; a `Backend`.

    Args:
        module: The imported `tensorrt`.

    Raises:
        BackendMissingError: The version is not supported.
    """

    name = "trt"
    kind = KIND
    suffix = ".engine"
    has_profiles = True
    has_timing_cache = True

    def __init__(self, module: Any) -> None:
        self._module = module
        self.version = str(module.__version__)
        product = f"TensorRT {self.version}"
        self._library = _trt_shared.Library(module, product, row_of(self.name, self.version), _set_tactics)

    @property
    def device(self) -> str:
        """See `Backend.device`."""
        gpus, _ = probe_gpus()
        return gpus[0].name if gpus else ""

    @property
    def row(self) -> VersionRow:
        """What this version has."""
        return self._library.row

    @property
    def max_opset(self) -> int | None:
        """See `Backend.max_opset`."""
        return self._library.row.max_opset

    def choose_targets(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """See `Backend.choose_targets`; the one target is the GPU that is here."""
        gpu = require_gpu(f"building with {self._library.product}", "--backend trt-rtx builds without one")
        if targets not in ((), (gpu.target,)):
            raise InputError(
                f"{self._library.product} builds for the GPU that is here, {gpu.target}, and not for "
                f"{', '.join(targets)}; build there, or choose --backend trt-rtx"
            )
        return (gpu.target,)

    def check(self, options: BuildOptions, network: Network | None = None) -> None:  # noqa: ARG002 - as yet
        """See `Backend.check`."""
        _trt_shared.check(self._library, options)

    def parse(self, model: Path, plugins: Sequence[Path] = ()) -> Network:
        """See `Backend.parse`."""
        require_gpu(f"building with {self._library.product}", "--backend trt-rtx builds without one")
        return _trt_shared.parse(self._library, model, plugins)

    def fix(self, network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Network:
        """See `Backend.fix`."""
        return _trt_shared.fix(self._library, _trt_shared.own(network), shapes)

    def build(self, network: Network, options: BuildOptions) -> Engine:
        """See `Backend.build`; the inspector is asked which tactic each layer of the engine runs."""
        built = _trt_shared.build(self._library, _trt_shared.own(network), options)
        layers, why_not = _inspected(self._library, built.data, options.plugins)
        return replace(built, layers=layers, log=(*built.log, *([f"warning: {why_not}"] if why_not else [])))

    def open(self, path: Path, plugins: Sequence[Path] = ()) -> _trt_session.EngineSession:
        """See `Backend.open`."""
        header = read_header(path)
        return _trt_session.open_engine(
            self._library, path, plugins, built=header.version or "unknown", here=self.version
        )


def load() -> TrtBackend:
    """Import the library.

    Raises:
        BackendMissingError: It is not installed, does not load on this machine, or is of another version.
    """
    with names_the_extra("tensorrt"):
        import tensorrt
    if not hasattr(tensorrt, "__version__"):
        why = "TensorRT is installed as an empty package of that name"
        raise BackendMissingError(f"{why}: {install_line('trt')}")
    return TrtBackend(tensorrt)


@dataclass(frozen=True, slots=True)
class EngineHeader(JsonValue):
    """What the first bytes of an engine say.

    Args:
        version: The library that built it, e.g. "8.6.0.12"; None if the layout is not known.
    """

    version: str | None


def read_header(path: str | os.PathLike[str]) -> EngineHeader:
    """Read an engine's header, without the library and without loading the engine.

    Raises:
        InputError: The file is not an engine of TensorRT, or is cut short.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if head[:4] != MAGIC:
        raise InputError(f"{path} is not an engine of TensorRT; its first bytes are {head[:4]!r}")
    if len(head) < _HEADER.size:
        raise InputError(
            f"{path} is cut short: {counted(len(head), 'byte is', 'bytes are')} less than an engine's "
            "header; build it again"
        )
    _, layout, *version = _HEADER.unpack(head)
    return EngineHeader(".".join(map(str, version)) if layout == _KNOWN_LAYOUT else None)


def _inspected(
    library: _trt_shared.Library, plan: memoryview, plugins: Sequence[Path] = ()
) -> tuple[str, str]:
    """Load a plan that was just built, and inspect it.

    Args:
        library: The library.
        plan: The serialized engine.
        plugins: Shared libraries of operators that it needs.

    Returns:
        The inspector's JSON and "", or "" and a sentence that says why it could not be asked.
    """
    trt = library.module
    with recorded(trt) as log:
        runtime = _trt_shared.create(library, lambda: trt.Runtime(logger(trt)), log)
        if plugins:
            _trt_shared.load_plugins(library, runtime.get_plugin_registry(), plugins)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return "", f"the engine could not be loaded again to be inspected: {of_the_machine(first_error(log))}"
    text = inspect_engine(trt, engine)
    return text, "" if text else f"the inspector of {library.product} says nothing of the engine"


def _set_tactics(trt: Any, config: tensorrt.IBuilderConfig, options: BuildOptions) -> None:
    if not options.library_tactics:
        sources = config.get_tactic_sources()
        for name in _LIBRARY_TACTICS:
            source = getattr(trt.TacticSource, name, None)
            sources &= ~(0 if source is None else 1 << int(source))
        config.set_tactic_sources(sources)
