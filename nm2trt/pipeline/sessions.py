"""One door for whatever can be run: an ONNX model, an engine, a served model, an exported program."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from nm2trt.errors import BackendError
from nm2trt.files import check_input

if TYPE_CHECKING:
    from nm2trt.backends.protocol import Session

__all__ = ["is_url", "open_session"]

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
