"""Folders that are built aside and moved into place whole, so that a server never sees half of one.

Triton takes every folder in a repository for a model, hidden ones too, and ignores folders in a model that
are not numbers. So a new version is built inside its model, and a new model beside the repository; where that
is another file system or may not be written, inside the repository, which a server should then not poll.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import os_reason, sync_folder
from nm2trt.writer_marks import MARK, is_abandoned, writer_mark

_MARK = "nm2trt"
_CHUNK_BYTES = 1 << 20


@contextlib.contextmanager
def as_output_error(what: Path) -> Iterator[None]:
    """Turn an OSError into an OutputError, which says that what is served is unchanged.

    Args:
        what: What could not be written.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{what} cannot be written: {os_reason(error)}; what is served is unchanged"
        ) from error


def is_real_folder(path: Path) -> bool:
    """Tell whether `path` is a folder and no link to one.

    Raises:
        InputError: It is something else: a link, a file, a pipe.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "no folder"
        raise InputError(
            f"{path} is {kind}; a model that nm2trt deploy places is a folder of its own, so remove it"
        )
    return True


@contextlib.contextmanager
def staged(root: Path, model: Path) -> Iterator[Path]:
    """Yield a new, empty folder to build in; what is left of it at the end is removed.

    Args:
        root: The repository.
        model: The model's folder; if it exists, the new folder lies in it.
    """
    suffix = f"{_MARK}-{writer_mark()}"
    folder = model / f".{suffix}" if model.is_dir() else _aside(root, suffix)
    folder.mkdir(mode=0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def move_away(root: Path, folder: Path) -> None:
    """Take a version, or a whole model, out of the repository in one step, and remove it."""
    suffix = f"{_MARK}-{writer_mark()}"
    away = _aside(root, suffix) if folder.parent == root else folder.with_name(f".{suffix}")
    folder.rename(away)
    sync_folder(folder.parent)
    shutil.rmtree(away, ignore_errors=True)


def clear_stale(root: Path, model: Path) -> None:
    """Remove what killed processes left."""
    places = [(model, ""), (root, ""), (root.parent, f".{root.name}")]
    for folder, prefix in places:
        pattern = re.compile(rf"{re.escape(prefix)}\.{_MARK}-({MARK})")
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(folder)):
                match = pattern.fullmatch(entry.name)
                if match and entry.is_dir(follow_symlinks=False) and is_abandoned(match[1]):
                    shutil.rmtree(entry.path, ignore_errors=True)


def copy_file(source: Path, target: Path) -> str:
    """Copy a file to a new one, flushed to disk, and return the SHA-256 of what was copied."""
    import hashlib

    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(_CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def write_file(target: Path, data: bytes) -> None:
    """Write a new file, flushed to disk."""
    with target.open("xb") as writer:
        writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())


def _aside(root: Path, suffix: str) -> Path:
    beside = root.parent / f".{root.name}.{suffix}"
    with contextlib.suppress(OSError):
        if root.parent.stat().st_dev == root.stat().st_dev and os.access(root.parent, os.W_OK):
            return beside
    return root / f".{suffix}"
