"""Hash and size of a model as a whole: its file, and every file of external data that it names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.protobuf_stream import pieces
from nm2trt.graph.storage.save import data_files
from nm2trt.hashes import sha256_bytes, sha256_file


def model_sha256(source: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a model's file, or with external data `model_hash`.

    Raises:
        InputError: The path is wrong.
        ModelError: The file is not a sound ONNX model.
    """
    path = Path(source)
    return files_sha256(load(path, leave_weights=True))(path)


def files_sha256(model: Model) -> Callable[[Path], str]:
    """Return `model_sha256`, for later, of the files of a model that may change in memory meanwhile."""
    beside = _beside(model)

    def hashed(path: Path) -> str:
        parts = [_digest(model, file) for file in (path, *beside)]
        return parts[0] if not beside else sha256_bytes("".join(parts).encode())

    return hashed


def model_hash(source: str | os.PathLike[str] | Model) -> str:
    """Return one hash over a model's file and all external data that it names; each file is read once.

    A model that was changed in memory is hashed as it would be written, with the files that it still reads.
    """
    model = load(source, leave_weights=True)
    if model.file is not None:
        parts = [model.file, *_beside(model)]
        return sha256_bytes("".join(_digest(model, file) for file in parts).encode())
    own = hashlib.sha256()
    for piece in pieces(model.proto):
        own.update(piece)
    parts = sorted(data_files(model))
    return sha256_bytes("".join([own.hexdigest(), *(_digest(model, file) for file in parts)]).encode())


def model_bytes(model: Model) -> int:
    """Return the size of a model that was read from a file, external data included as far as it is there."""
    path = model.path
    files = [*([] if path is None else [path]), *_beside(model)]
    return sum(file.stat().st_size for file in files if file.exists())


def _digest(model: Model, file: Path) -> str:
    if file.resolve() not in model.digests:
        model.digests[file.resolve()] = sha256_file(file)
        # Otherwise the hash would be of other weights than those that were judged or built.
        model.check_unchanged()
    return model.digests[file.resolve()]


def _beside(model: Model) -> list[Path]:
    """Return the files of external data; one that was opened without its weights names itself as one."""
    own = set() if model.path is None else {model.path.resolve()}
    return sorted(data_files(model) - own)
