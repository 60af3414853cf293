"""Replacement of a file by a complete one: mode, owner, and hard links stay. Folders of outputs."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from nm2trt.errors import OutputError
from nm2trt.locks import undisturbed

_COPY_BYTES = 1 << 20
_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
}


def put_in_place(temporary: Path, target: Path, like: os.stat_result) -> None:
    """Replace a file; its mode and owner stay, and its content changes under all of its names.

    Args:
        temporary: The complete file.
        target: The file to replace, or a new name.
        like: Owner and mode of a new file, whatever those of the temporary file are by now.
    """
    old = rights_of(target)
    if old is not None and old.st_nlink > 1:
        _overwrite(temporary, target)
        return
    copy_rights(temporary, old or like)
    temporary.replace(target)


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries to disk, so that a rename in it survives a crash."""
    # Some file systems refuse fsync on a folder; the rename itself has been done by then.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rights_of(*paths: Path) -> os.stat_result | None:
    """Return the owner and the mode of the first of these files that is there.

    A link is passed over: one in the place of an output is replaced, and what it leads to keeps its rights.
    """
    for path in paths:
        with contextlib.suppress(OSError):
            if stat.S_ISREG((found := path.lstat()).st_mode):
                return found
    return None


def create(path: Path, rights: os.stat_result | None) -> os.stat_result:
    """Make an empty file, and return the rights that it should have once it is complete.

    Args:
        path: The file, which is not there yet.
        rights: Those of an old file. Until `copy_rights` gives them, nobody else may read it.
            None keeps what the umask and the folder give to a new file.
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
    os.close(os.open(path, flags, 0o666 if rights is None else 0o600))
    return path.stat() if rights is None else rights


def copy_rights(path: Path, old: os.stat_result) -> None:
    """Give a new file the owner and the mode of the one that it replaces."""
    new = path.stat()
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.chown(path, old.st_uid, old.st_gid)
    # Not set-user-id: the content is new. Some file systems have one mode for all files and refuse to set it.
    mode = stat.S_IMODE(old.st_mode) & 0o777
    if stat.S_IMODE(new.st_mode) != mode:
        path.chmod(mode)


def _overwrite(source: Path, target: Path) -> None:
    """Copy a file into one that has several names, since a rename would part them."""
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


def check_output_folder(folder: Path, instead: str) -> None:
    """Check that a folder can be written or made, so that long work is not done in vain.

    Args:
        folder: The folder.
        instead: What the error tells to do.

    Raises:
        OutputError: A file or a link to a missing folder is in its place or above it, or rights are missing.
    """
    nearest = _nearest(folder)
    if not nearest.is_dir():
        raise OutputError(f"{folder} cannot be made: {_in_the_way(nearest)}; {instead}")
    try:
        with tempfile.TemporaryDirectory(prefix=".nm2trt-", dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {os_reason(error)}; {instead}") from error


def make_output_folder(folder: Path, instead: str, *, what: str = "") -> None:
    """Make a folder and those above it, if they are missing.

    Args:
        folder: The folder.
        instead: What the error tells to do.
        what: Words that the error says before the path, with a space at the end.

    Raises:
        OutputError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        nearest = _nearest(folder)
        reason = os_reason(error) if nearest.is_dir() else _in_the_way(nearest)
        raise OutputError(f"{what}{folder} cannot be made: {reason}; {instead}") from error


def clear_folder(folder: Path, *, but: str = "") -> None:
    """Remove a folder and what is in it, as far as that is possible; a link is removed, and not followed.

    Args:
        folder: The folder; it need not be there.
        but: Name of an entry that is kept, and the folder with it.
    """
    with contextlib.suppress(OSError):
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink()
            return
        for entry in list(os.scandir(folder)):
            if entry.is_dir(follow_symlinks=False) and entry.name != but:
                shutil.rmtree(entry.path, ignore_errors=True)
            elif entry.name != but:
                Path(entry.path).unlink()
        if not but:
            folder.rmdir()


def _nearest(folder: Path) -> Path:
    """Return the folder, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))


def _in_the_way(path: Path) -> str:
    """Say what stands where a folder should be."""
    if path.is_symlink() and not path.exists():
        return f"{path} is a link that leads nowhere"
    return f"{path} is not a folder"


def os_reason(error: Exception) -> str:
    """Return why a file could not be read or written, in words."""
    if not isinstance(error, OSError):
        return str(error)
    if isinstance(error, shutil.Error):  # copytree's: source, target and "[Errno 28] words" of each file
        number = re.match(r"\[Errno (\d+)", str(error.args[0][0][-1]))
        error = OSError(int(number[1]), os.strerror(int(number[1]))) if number else error
    return _REASONS.get(error.errno or 0) or error.strerror or str(error)
