"""Sessions of whatever can be run: an ONNX model, an engine, a served model, an exported program."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.backends import address
from nm2trt.errors import InputError, ModelError
from nm2trt.files import check_input
from nm2trt.installed import installed_version

if TYPE_CHECKING:
    from nm2trt.backends.protocol import Session


def is_url(artefact: str | os.PathLike[str]) -> bool:
    """Tell a served model, `http://HOST:PORT/MODEL` or `grpc://HOST:PORT/MODEL`, from a file."""
    return isinstance(artefact, str) and address.is_url(artefact)


def is_recorded(artefact: str | os.PathLike[str]) -> bool:
    """Tell a `.json`, what Polygraphy or trtexec recorded, from what can be run."""
    return not is_url(artefact) and Path(artefact).suffix.lower() == ".json"


def open_session(artefact: str | os.PathLike[str], *, threads: int = 0) -> Session:
    """Open something that can be run; close it, or use it as a context manager.

    Args:
        artefact: An ONNX model, which runs in ONNX Runtime on the CPU; an exported PyTorch program, a `.pt2`,
            which runs in PyTorch on the CPU; an engine, which runs in its own library; or the address of a
            served model, `http://HOST:PORT/MODEL` or `grpc://HOST:PORT/MODEL`, with `+shm` after the protocol
            if tensors shall travel in system shared memory.
        threads: Threads within an operator of ONNX Runtime; 0 leaves it to the library.

    Raises:
        InputError: The file is missing or empty, or the address cannot be read.
        ModelError: The model cannot be loaded.
        BackendError: Its library is missing or refuses it, or there is no GPU for it.
        ServerError: The server cannot be reached.
    """
    if is_url(artefact):
        from nm2trt.backends.triton import open_triton

        return open_triton(str(artefact))
    from nm2trt.backends.choice import identify, load_backend

    path = check_input(artefact, "an ONNX model, engine or .pt2")
    kind = identify(path)
    if kind is not None:
        return load_backend(kind).open(path)
    if path.suffix == ".pt2":
        from nm2trt.exporter.program import open_program

        return open_program(path)
    from nm2trt.backends.ort import open_onnx

    _check_model(path)
    return open_onnx(path, threads=threads)


def _check_model(path: Path) -> None:
    """Refuse what ONNX Runtime takes minutes to unfold, or ends the process at, instead of refusing it."""
    from nm2trt.graph.analysis.scopes import check_unfolding
    from nm2trt.graph.analysis.sound_nodes import check_nodes
    from nm2trt.graph.storage.model import load

    try:
        model = load(path, leave_weights=True)
    except ModelError:
        return  # ONNX Runtime says what it cannot load
    check_unfolding(model)
    check_nodes(model)


def backend_of(artefact: str | os.PathLike[str]) -> str:
    """Return what runs an artefact that `open_session` has opened, with its version, for a report."""
    if is_url(artefact):
        parsed = address.parse_url(str(artefact))
        memory = ", tensors in shared memory" if parsed.shared_memory else ""
        return f"a server, over {parsed.scheme.partition('+')[0].upper()}{memory}"
    from nm2trt.backends.choice import identify, load_backend

    path = Path(artefact)
    kind = identify(path)
    if kind is None and path.suffix == ".pt2":
        return f"PyTorch {installed_version('torch')} on the CPU"
    if kind in (None, "ort"):
        return f"ONNX Runtime {installed_version('onnxruntime')} on the CPU"
    return f"{kind} {load_backend(kind).version} on the first GPU"


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return shapes by input name from texts as in "x:1x3x224x224".

    Raises:
        InputError: A text cannot be read.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        # The name may hold colons, the shape none.
        name, colon, sizes = text.rpartition(":")
        if not colon or not name or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", sizes):
            raise InputError(f"{text!r} is not a shape; write NAME:SIZES as in x:1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes
