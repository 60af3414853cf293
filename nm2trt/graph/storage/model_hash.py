"""Hash and size of a model as a whole: its file, and every file of external data that it names."""

from __future__ import annotations

import os
from pathlib import Path

from nm2trt.files import sha256_bytes, sha256_file
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.save import data_files

__all__ = ["model_bytes", "model_hash", "model_sha256"]


def model_sha256(source: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a model's file, or with external data `model_hash`.

    Raises:
        InputError: The path is wrong.
        ModelError: The file is no sound ONNX model.
    """
    path = Path(source)
    return model_hash(path) if _beside(load(path, leave_weights=True)) else sha256_file(path)


def model_hash(source: str | os.PathLike[str]) -> str:
    """Return one hash over a model's file and all external data that it names."""
    path = Path(source)
    parts = [sha256_file(path), *(sha256_file(file) for file in _beside(load(path, leave_weights=True)))]
    return sha256_bytes("".join(parts).encode())


def model_bytes(model: Model) -> int:
    """Return the size of a model that was read from a file, external data included as far as it is there."""
    path = model.path
    files = [*([] if path is None else [path]), *_beside(model)]
    return sum(file.stat().st_size for file in files if file.exists())


def _beside(model: Model) -> list[Path]:
    """Return the files of external data; one that was opened without its weights names itself as one."""
    own = set() if model.path is None else {model.path.resolve()}
    return sorted(data_files(model) - own)
