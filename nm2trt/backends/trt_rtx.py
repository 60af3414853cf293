"""TensorRT for RTX, ahead of time: engines for other machines' GPUs, built without one.

The only module that imports `tensorrt_rtx`. The headers of its plans are read here too, which needs no
library.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nm2trt.backends import _trt_session, _trt_shared
from nm2trt.backends._trt_versions import VersionRow, row_of
from nm2trt.backends.choice import DEFAULT_TARGETS
from nm2trt.backends.options import BuildOptions
from nm2trt.backends.protocol import Engine, Network
from nm2trt.errors import BackendError, InputError
from nm2trt.extras import names_the_extra
from nm2trt.figures import counted
from nm2trt.json_value import JsonValue

KIND = (
    "TensorRT for RTX plan: runs only in the TensorRT-RTX runtime, "
    "not in TensorRT nor in Triton's TensorRT backend"
)
MAGIC = b"vtrt"

# The plan's header as observed in plans of these versions; NVIDIA documents none of it.
_KNOWN_FORMAT = 2
_KNOWN_VERSIONS = ("1.7.",)
_HEADER = struct.Struct("<4s4xI4xQ4B4xI20xQ")
_FIRST_FP8 = 89
_TARGET_BITS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")


class RtxBackend:
    """TensorRT for RTX; a `Backend`.

    Args:
        module: The imported `tensorrt_rtx`.
    """

    name = "trt-rtx"
    kind = KIND
    suffix = ".rtx"
    device = ""
    has_profiles = True
    has_timing_cache = False

    def __init__(self, module: Any) -> None:
        self._module = module
        self.version = str(module.__version__)
        product = f"TensorRT for RTX {self.version}"
        row = row_of(self.name, self.version)
        self._library = _trt_shared.Library(module, product, row, _set_targets, _specialised_context)

    @property
    def row(self) -> VersionRow:
        """What this version has."""
        return self._library.row

    @property
    def max_opset(self) -> int | None:
        """See `Backend.max_opset`."""
        return self._library.row.max_opset

    @property
    def targets(self) -> tuple[str, ...]:
        """Every compute capability that the library builds for."""
        names = (name for name in self._module.ComputeCapability.__members__ if name.startswith("SM"))
        return tuple(sorted((name.lower() for name in names), key=lambda name: int(name[2:])))

    def choose_targets(self, targets: tuple[str, ...]) -> tuple[str, ...]:
        """See `Backend.choose_targets`; the default is Ampere, sm80 and sm86."""
        for target in targets:
            if target not in self.targets:
                known = ", ".join(self.targets)
                raise InputError(f"{self._library.product} cannot build for {target}; it builds for {known}")
        return targets or DEFAULT_TARGETS

    def check(self, options: BuildOptions, network: Network | None = None) -> None:
        """See `Backend.check`."""
        _trt_shared.check(self._library, options)
        if network is not None:
            self._check_types(_trt_shared.own(network), options.targets)

    def parse(self, model: Path, plugins: Sequence[Path] = ()) -> Network:
        """See `Backend.parse`."""
        return _trt_shared.parse(self._library, model, plugins)

    def fix(self, network: Network, shapes: Mapping[str, tuple[int, ...]]) -> Network:
        """See `Backend.fix`."""
        return _trt_shared.fix(self._library, _trt_shared.own(network), shapes)

    def build(self, network: Network, options: BuildOptions) -> Engine:
        """See `Backend.build`."""
        return _trt_shared.build(self._library, _trt_shared.own(network), options)

    def open(self, path: Path, plugins: Sequence[Path] = ()) -> _trt_session.EngineSession:
        """See `Backend.open`."""
        header = read_header(path)
        built = header.version + (f" for {', '.join(header.targets)}" if header.targets else "")
        return _trt_session.open_engine(self._library, path, plugins, built=built, here=self.version)

    def _check_types(self, network: _trt_shared.ParsedNetwork, targets: tuple[str, ...]) -> None:
        """Refuse what the builder itself only refuses half-way, and in words about its own source."""
        without_fp8 = [target for target in targets if int(target[2:]) < _FIRST_FP8]
        if without_fp8 and "float8_e4m3fn" in network.dtypes:
            raise BackendError(
                f"{network.model} has FP8 tensors, which {', '.join(without_fp8)} cannot compute; choose "
                f"--target sm{_FIRST_FP8} or later, or quantise to int8"
            )
        if "sm75" in targets and ("MATRIX_MULTIPLY", "float32") in network.layers:
            raise BackendError(
                f"{network.model} has fp32 matrix products, which {self._library.product} does not do on "
                "sm75; leave sm75 out, or export in fp16"
            )


def load() -> RtxBackend:
    """Import the library.

    Raises:
        BackendMissingError: It is not installed, or does not load on this machine.
    """
    with names_the_extra("tensorrt_rtx"):
        import tensorrt_rtx
    return RtxBackend(tensorrt_rtx)


@dataclass(frozen=True, slots=True)
class PlanHeader(JsonValue):
    """What the first bytes of a plan say.

    Args:
        version: The library that built it, e.g. "1.7.1.116".
        file_bytes: Size that the file should have; None if the layout is not known.
        targets: Compute capabilities that it holds; None if the layout is not known.
        weights_bytes: Size of its weights; None if the layout is not known.
    """

    version: str
    file_bytes: int | None
    targets: tuple[str, ...] | None
    weights_bytes: int | None


def read_header(path: str | os.PathLike[str]) -> PlanHeader:
    """Read a plan's header, without the library and without loading the plan.

    Only versions whose layout was observed are taken apart; of another, only the version is reported.

    Raises:
        InputError: The file is not a plan of TensorRT for RTX, or is cut short.
    """
    path = Path(path)
    with path.open("rb") as file:
        head = file.read(_HEADER.size)
    if head[:4] != MAGIC:
        raise InputError(f"{path} is not a plan of TensorRT for RTX; its first bytes are {head[:4]!r}")
    if len(head) < _HEADER.size:
        raise InputError(
            f"{path} is cut short: {counted(len(head), 'byte is', 'bytes are')} less than a plan's "
            "header; build it again"
        )
    _, layout, size, *version, mask, weights = _HEADER.unpack(head)
    text = ".".join(str(part) for part in version)
    if layout != _KNOWN_FORMAT or not text.startswith(_KNOWN_VERSIONS):
        return PlanHeader(text, None, None, None)
    actual = path.stat().st_size
    if actual != size:
        raise InputError(f"{path} is damaged: it has {actual} bytes, its header says {size}; build it again")
    targets = tuple(name for bit, name in enumerate(_TARGET_BITS) if mask >> bit & 1)
    return PlanHeader(text, size, targets, weights)


def _set_targets(trt: Any, config: Any, options: BuildOptions) -> None:
    config.num_compute_capabilities = len(options.targets)
    for index, target in enumerate(options.targets):
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)


def _specialised_context(trt: Any, engine: Any) -> Any:
    """Return a context that compiles the kernels for new shapes before it runs them.

    By default the library runs slower fallback kernels until a compilation in the background has ended, and
    whoever times the engine then would time those.
    """
    strategies = getattr(trt, "DynamicShapesKernelSpecializationStrategy", None)
    if strategies is None or not hasattr(engine, "create_runtime_config"):
        return engine.create_execution_context()
    config = engine.create_runtime_config()
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    return engine.create_execution_context(config)
