"""Replacement of a file by one that is complete: mode, owner, and hard links stay."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path

from nm2trt.locks import undisturbed

_COPY_BYTES = 1 << 20


def put_in_place(temporary: Path, target: Path) -> None:
    """Replace a file; its mode and owner stay, and its content changes under all of its names."""
    try:
        old = target.lstat()
    except FileNotFoundError:
        temporary.replace(target)
        return
    # A link here is one not to be followed: what it leads to keeps its rights for itself.
    if stat.S_ISLNK(old.st_mode):
        temporary.replace(target)
        return
    if old.st_nlink > 1:
        _overwrite(temporary, target)
        return
    copy_rights(temporary, old)
    temporary.replace(target)


def copy_rights(path: Path, old: os.stat_result) -> None:
    """Give a new file the owner and the mode of the one that it replaces."""
    new = path.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    # Not set-user-id: the content is new.
    path.chmod(stat.S_IMODE(old.st_mode) & 0o777)


def _overwrite(source: Path, target: Path) -> None:
    """Copy a file into one that has several names, since a rename would part them."""
    import shutil  # only here: it takes time to import

    with source.open("rb") as reader, target.open("r+b") as writer, undisturbed():
        size = os.fstat(reader.fileno()).st_size
        if size:
            _reserve(writer.fileno(), size)
        shutil.copyfileobj(reader, writer, _COPY_BYTES)
        writer.truncate()
        writer.flush()
        os.fsync(writer.fileno())


def _reserve(descriptor: int, size: int) -> None:
    """Find out that the disk is full while the old content is still there."""
    before = os.fstat(descriptor).st_size
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            os.ftruncate(descriptor, before)
            raise
        # Some file systems cannot reserve space.
