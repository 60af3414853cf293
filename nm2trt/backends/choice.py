"""Which backends there are, which of them made a file, and which one builds when none is named."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path

from nm2trt.backends.cuda import probe_gpus
from nm2trt.backends.options import DEFAULT_TARGETS
from nm2trt.backends.protocol import Backend
from nm2trt.errors import InputError
from nm2trt.files import check_input
from nm2trt.installed import installed_version
from nm2trt.nm.eligibility import Place

# Name -> its module, the library that the module imports, and (offset, bytes) that its files have.
BACKENDS: dict[str, tuple[str, str, int, bytes]] = {
    "trt": ("nm2trt.backends.trt", "tensorrt", 0, b"ftrt"),
    "trt-rtx": ("nm2trt.backends.trt_rtx", "tensorrt_rtx", 0, b"vtrt"),
    "ort": ("nm2trt.backends.ort", "onnxruntime", 4, b"ORTM"),
}


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


def place_of(name: str | None = None, targets: tuple[str, ...] = ()) -> Place:
    """Return what `build` would build for here, without importing an engine library.

    Args:
        name: The builder; None takes the one that `choose_backend` would.
        targets: Architectures; () takes the builder's own choice: the GPU that is here, or Ampere.

    Raises:
        InputError: The name is not a backend's.
    """
    builder = _chosen(name)
    if builder not in BACKENDS:
        raise InputError(f"backend {builder!r} is unknown; choose {', '.join(BACKENDS)}")
    if not targets and builder == "trt-rtx":
        targets = DEFAULT_TARGETS
    if not targets and builder == "trt":
        targets = tuple(gpu.target for gpu in probe_gpus()[0][:1])
    return Place(builder, _installed_version(BACKENDS[builder][1]), targets)


def _chosen(name: str | None) -> str:
    if name is not None:
        return name
    proper = importlib.util.find_spec(BACKENDS["trt"][1]) is not None and probe_gpus()[0]
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
        head = file.read(16)
    for name, (_, _, offset, magic) in BACKENDS.items():
        if head[offset : offset + len(magic)] == magic:
            return name
    return None
