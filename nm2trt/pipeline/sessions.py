"""One door for whatever can be run: an ONNX model, an engine, a served model, an exported program."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import BackendError, InputError
from nm2trt.files import check_input

if TYPE_CHECKING:
    from nm2trt.backends.protocol import Session

__all__ = ["backend_of", "is_url", "open_session", "parse_shapes"]

_URL = re.compile(r"(https?|grpcs?)://", re.IGNORECASE)
_ENGINES = {b"vtrt": "TensorRT for RTX", b"ftrt": "TensorRT"}


def is_url(artefact: str | os.PathLike[str]) -> bool:
    """Tell a served model, `http://HOST:PORT/MODEL` or `grpc://HOST:PORT/MODEL`, from a file."""
    return isinstance(artefact, str) and _URL.match(artefact) is not None


def open_session(artefact: str | os.PathLike[str], *, threads: int = 0) -> Session:
    """Open something that can be run; close it, or use it as a context manager.

    Args:
        artefact: An ONNX model, which runs in ONNX Runtime on the CPU, or an exported PyTorch program, a
            `.pt2`, which runs in PyTorch on the CPU.
        threads: Threads within an operator of ONNX Runtime; 0 leaves it to the library.

    Raises:
        InputError: The file is missing or empty.
        ModelError: The model cannot be loaded.
        BackendError: Its library is missing, or nothing here runs it.
    """
    if is_url(artefact):
        raise BackendError(f"{artefact}: served models are not run yet; give a file")
    path = check_input(artefact, "an ONNX model, engine or .pt2")
    with path.open("rb") as file:
        product = _ENGINES.get(file.read(4))
    if product is not None:
        raise BackendError(f"{path} is an engine of {product}, which is not run yet; give its ONNX model")
    if path.suffix == ".pt2":
        from nm2trt.exporter.program import open_program

        return open_program(path)
    from nm2trt.backends.ort import open_onnx

    return open_onnx(path, threads=threads)


def backend_of(artefact: str | os.PathLike[str]) -> str:
    """Return what runs an artefact that `open_session` has opened, with its version, for a report."""
    from importlib import metadata

    if is_url(artefact):
        return f"a server, over {str(artefact).partition(':')[0].upper()}"
    path = Path(artefact)
    if path.suffix == ".pt2":
        return f"PyTorch {metadata.version('torch')} on the CPU"
    with path.open("rb") as file:
        product = _ENGINES.get(file.read(4))
    if product is not None:
        return f"{product} on the first GPU"
    return f"ONNX Runtime {metadata.version('onnxruntime')} on the CPU"


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
            raise InputError(f"{text!r} is no shape; write NAME:SIZES as in x:1x3x224x224")
        shapes[name] = tuple(int(size) for size in sizes.split("x"))
    return shapes
