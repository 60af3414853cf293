"""An engine and its manifest, written so that they fit at every instant and after every crash.

They are two files, so no single rename can replace both. The manifest is therefore written first, describing
the new engine and, under `previous`, the one that it replaces; then the engine is renamed into place; then
the manifest is written again without `previous`.

Most of the time is the disk's. So it begins to write the engine while the record is made, and goes on while
the manifest is written.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import os_reason
from nm2trt.files import atomic_path, read_regular, real_output, write_atomic
from nm2trt.hashes import sha256_bytes, sha256_file
from nm2trt.locks import output_lock
from nm2trt.manifest import SCHEMA, Json, Manifest, manifest_path, records_of

# So much is written before the disk is asked to begin.
_CHUNK_BYTES = 1 << 23
# A file that changed less than this long before it was read may change again without a later time.
_CLOCK_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class EngineDigest:
    """The hash of an engine that a build will replace, taken while the builder works.

    Args:
        stamp: Device, inode, size and times of the file that was read.
        sha256: The hash.
    """

    stamp: tuple[int, ...]
    sha256: str


def digest_of(engine: Path) -> EngineDigest | None:
    """Hash the engine that a build will replace; None if it is missing, or if it changed a moment ago."""
    now = time.time_ns()
    with contextlib.suppress(OSError, InputError):
        stamp = _stamp(engine)
        if engine.is_file() and now - max(stamp[-2:]) > _CLOCK_NS:
            return EngineDigest(stamp, sha256_file(engine))
    return None


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


class UnfinishedPair:
    """An engine that is being written, and the record that its writer has to set.

    Attributes:
        manifest: The record; `pair_writer` fills in hash and size.
    """

    manifest: Manifest


@contextlib.contextmanager
def pair_writer(
    engine: str | os.PathLike[str], data: bytes | memoryview, old: EngineDigest | None = None
) -> Iterator[UnfinishedPair]:
    """Write an engine while the block makes its record, then put both in place of the pair that is there.

    If the block fails, nothing is changed.

    Args:
        engine: The engine's path.
        data: Its bytes.
        old: What `digest_of` found there before; it is used if the file is still the same.

    Raises:
        OutputError: The folder is missing or read-only, or the disk is full; the old pair is unchanged.
    """
    engine = Path(engine)
    path = manifest_path(engine)
    if real_output(path) == manifest_path(real_output(engine)):
        path = real_output(path)  # two links that lead to another pair
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

    pair = UnfinishedPair()
    with output_lock(real_output(engine).absolute()), ThreadPoolExecutor(3) as workers:
        digest = workers.submit(sha256_bytes, data)
        earlier = workers.submit(_current_record, engine, path, old)
        before, replaced = _present(path), _opened(engine)
        inode = None
        try:
            with atomic_path(engine) as temporary:
                copied = workers.submit(_copy, data, temporary)
                yield pair
                copied.result()
                inode = temporary.stat().st_ino
                size = memoryview(data).nbytes
                pair.manifest = replace(pair.manifest, engine_sha256=digest.result(), engine_bytes=size)
                text = _dumps(pair.manifest.to_json())
                write_atomic(path, _with_previous(text, earlier.result()), follow=False)
        except BaseException:
            if inode is None or not _is_inode(engine, inode):
                _restore(path, before)
            raise
        finally:
            if replaced is not None:
                workers.submit(os.close, replaced)  # the system then frees the file, which takes a while
        # If this fails or a crash undoes it, the pair with `previous` stands, which is valid too.
        with contextlib.suppress(OutputError):
            write_atomic(path, text, follow=False, settle=False)


def _copy(data: bytes | memoryview, file: Path) -> None:
    view = memoryview(data).cast("B")
    with file.open("wb", buffering=0) as raw:
        for start in range(0, len(view), _CHUNK_BYTES):
            chunk = view[start : start + _CHUNK_BYTES]
            done = 0
            while done < len(chunk):
                done += raw.write(chunk[done:])
            if hasattr(os, "posix_fadvise"):
                # The disk begins to write; pages that are not written yet stay in memory.
                with contextlib.suppress(OSError):
                    os.posix_fadvise(raw.fileno(), start, len(chunk), os.POSIX_FADV_DONTNEED)


def _opened(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None


def _current_record(engine: Path, path: Path, old: EngineDigest | None) -> dict[str, Any] | None:
    """Return the record of the engine that is there now; only its hash if no manifest describes it."""
    if not engine.is_file():
        return None
    digest = old.sha256 if old is not None and old.stamp == _stamp(engine) else sha256_file(engine)
    with contextlib.suppress(InputError):
        for record in records_of(path):
            if record.get("engine_sha256") == digest:
                return record
    return {"schema": SCHEMA, "engine_sha256": digest, "built_elsewhere": True}


def _restore(path: Path, before: bytes | None) -> None:
    with contextlib.suppress(OSError, OutputError):
        if before is None:
            path.unlink()
        elif _read_bytes(path) != before:
            write_atomic(path, before, follow=False)


def _is_inode(path: Path, inode: int) -> bool:
    try:
        return path.stat().st_ino == inode
    except OSError:
        return False


def _present(path: Path) -> bytes | None:
    """Return what is there, None if nothing is.

    Raises:
        OutputError: It cannot be read, so a build that fails could not bring it back.
    """
    try:
        return read_regular(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise OutputError(f"{path} cannot be replaced: {os_reason(error)}") from error


def _read_bytes(path: Path) -> bytes | None:
    try:
        return read_regular(path)
    except OSError:
        return None


def _dumps(record: Json) -> str:
    return json.dumps(record, indent=2) + "\n"


def _with_previous(text: str, previous: Json | None) -> str:
    """Return what `_dumps` makes of a record with `previous` as its last key, from the text of the record."""
    inner = json.dumps(previous, indent=2).replace("\n", "\n  ")
    start = text.removesuffix("\n}\n")
    return f'{start},\n  "previous": {inner}\n}}\n'
