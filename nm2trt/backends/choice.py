"""The backends: their names, which of them made a file, and which one builds when none is named."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError
from nm2trt.files import check_input
from nm2trt.installed import installed_version
from nm2trt.nm.eligibility import Place

if TYPE_CHECKING:
    from nm2trt.backends.protocol import Backend

# What engines of TensorRT for RTX are built for if no target is named: Ampere.
DEFAULT_TARGETS = ("sm80", "sm86")
# Name -> its module, the library that the module imports, and (offset, bytes) that its files have. An offset
# begins a flatbuffer, and its identifier follows.
BACKENDS: dict[str, tuple[str, str, int, bytes]] = {
    "trt": ("nm2trt.backends.trt", "tensorrt", 0, b"ftrt"),
    "trt-rtx": ("nm2trt.backends.trt_rtx", "tensorrt_rtx", 0, b"vtrt"),
    "ort": ("nm2trt.backends.ort", "onnxruntime", 4, b"ORTM"),
}
PRODUCTS = {"trt": "TensorRT", "trt-rtx": "TensorRT for RTX", "ort": "ONNX Runtime"}


def load_backend(name: str) -> Backend:
    """Import a backend's library.

    Args:
        name: "trt", "trt-rtx" or "ort".

    Raises:
        InputError: The name is not a backend's.
        BackendMissingError: Its library is not installed, or does not load here.
    """
    if name not in BACKENDS:
        raise InputError(f"backend {name!r} is unknown; choose {', '.join(BACKENDS)}")
    backend: Backend = importlib.import_module(BACKENDS[name][0]).load()
    return backend


def choose_backend(name: str | None = None) -> Backend:
    """Return the builder that was named, or else TensorRT if it and a GPU are here, or else TensorRT for RTX.

    Raises:
        InputError: The name is not a backend's.
        BackendMissingError: Its library is not installed, or does not load here.
    """
    return load_backend(_chosen(name))


def place_of(name: str | None = None, targets: tuple[str, ...] | str | None = None) -> Place:
    """Return what `build` would build for here, without importing an engine library.

    Args:
        name: The builder; None takes the one that `choose_backend` would.
        targets: Architectures, also as text such as "sm80,sm86"; None or () takes the builder's own choice:
            the GPU that is here, or Ampere.

    Raises:
        InputError: The name is not a backend's, or a target has another form.
    """
    if isinstance(targets, str):
        from nm2trt.backends.options import parse_targets

        targets = parse_targets(targets)
    builder = _chosen(name)
    if builder not in BACKENDS:
        raise InputError(f"backend {builder!r} is unknown; choose {', '.join(BACKENDS)}")
    if not targets and builder == "trt-rtx":
        targets = DEFAULT_TARGETS
    if not targets and builder == "trt":
        targets = _here()
    return Place(builder, _installed_version(BACKENDS[builder][1]), targets or ())


def _here() -> tuple[str, ...]:
    """Return the architecture of the first GPU that is here, if there is one."""
    from nm2trt.backends.cuda import probe_gpus  # only here: it takes time to import

    return tuple(gpu.target for gpu in probe_gpus()[0][:1])


def _chosen(name: str | None) -> str:
    if name is not None:
        return name
    proper = importlib.util.find_spec(BACKENDS["trt"][1]) is not None and _here()
    return "trt" if proper else "trt-rtx"


def _installed_version(module: str) -> str:
    """Return the version of the distribution that holds a library; "" if it is not installed."""
    return installed_version(module, *(f"{module}_cu{major}" for major in (13, 12, 11)))


def identify(path: Path) -> str | None:
    """Return which backend's engine a file is by its first bytes; None for any other file, ONNX included.

    Raises:
        InputError: The file is missing, a folder, empty, or may not be read.
    """
    with check_input(path, "an engine or ONNX model").open("rb") as file:
        return engine_kind(file.read(16))


def engine_kind(data: bytes | memoryview) -> str | None:
    """Return which backend's engine begins with these bytes, 16 or more; None for anything else."""
    for name, (_, _, offset, magic) in BACKENDS.items():
        if data[offset : offset + len(magic)] == magic:
            return name
    return None
