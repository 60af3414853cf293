"""Files that are written whole or not at all, and paths that stay inside their folder."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import create, os_reason, put_in_place, rights_of, sync_folder
from nm2trt.locks import OutputLock, output_lock, undisturbed
from nm2trt.writer_marks import MARK, is_abandoned, writer_mark

# JSON of empty lists takes 27 times its size in memory.
_MOST_READ_BYTES = 1 << 26


def check_input(path: str | os.PathLike[str], what: str) -> Path:
    """Return `path` when it is a readable, non-empty regular file.

    Args:
        path: The file.
        what: What the file should be, for the message, e.g. `"an ONNX model"`.

    Raises:
        InputError: It is missing, a folder, empty, or may not be read.
    """
    path = Path(path)
    try:
        if path.is_dir():
            wrong = "is a folder; give the path of"
        elif not path.exists():
            wrong = "does not exist; give the path of"
        elif not path.is_file():
            wrong = "is not a regular file; give the path of"
        else:
            wrong = "" if path.stat().st_size else "is empty; it should be"
        if not wrong:
            path.open("rb").close()
            return path
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error
    raise InputError(f"{path} {wrong} {what} file")


def library_path(path: str | os.PathLike[str]) -> str:
    """Return a path for a library that opens it by itself, and takes only text.

    Raises:
        InputError: Its name is not UTF-8.
    """
    text = os.fspath(path)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{text} is not UTF-8, which the library that opens it needs; rename the file or its folder"
        ) from error
    return text


def read_regular(path: Path, *, most_bytes: int = _MOST_READ_BYTES) -> bytes:
    """Return the content of a regular file, e.g. one that another program may have put there.

    A pipe is not waited for, and a device is not read without end.

    Raises:
        OSError: It is missing, no regular file, too large, or may not be read.
    """
    with open_regular(path) as file:
        if os.fstat(file.fileno()).st_size > most_bytes:
            raise OSError(errno.EFBIG, f"it is larger than {most_bytes >> 20} MB", str(path))
        return file.read()


def read_input(path: str | os.PathLike[str], what: str, *, most_bytes: int = _MOST_READ_BYTES) -> bytes:
    """Return the content of a file that is read whole; a file of zeros may claim any size.

    Args:
        path: The file.
        what: As for `check_input`.
        most_bytes: Its largest size.

    Raises:
        InputError: As for `check_input`, or it is larger.
    """
    path = check_input(path, what)
    try:
        return read_regular(path, most_bytes=most_bytes)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}; see docs/limits.md") from error


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file to read; anything else is an OSError at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    except BaseException:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def check_output(path: str | os.PathLike[str], *, sources: Iterable[str | os.PathLike[str]] = ()) -> Path:
    """Return `path` when a file can be written there, so that long work is not done in vain.

    Args:
        path: The file to write.
        sources: Files that are read, which it may not replace; other words are ignored.

    Raises:
        OutputError: The folder is missing or read-only, `path` is a folder, a device or a pipe, or a source.
    """
    path = Path(path)
    try:
        folder = real_output(path).parent
        if path.is_dir():
            raise OutputError(f"{path} is a folder; give the path of a file to write")
        _check_no_device(path)
        if path.exists() and any(Path(one).is_file() and path.samefile(one) for one in sources):
            raise OutputError(f"{path} is an input, and would be replaced; choose another output path")
        if not folder.is_dir():
            raise OutputError(f"the folder {folder} does not exist; create it or choose another output path")
        _try_to_write(folder, path)
    except (OSError, ValueError) as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(
            f"{path} cannot be written: {os_reason(error)}; choose another output path"
        ) from error
    return path


def _check_no_device(path: Path) -> None:
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(
            f"{path} is not a regular file, and would be replaced; give the path of a file to write"
        )


def _try_to_write(folder: Path, path: Path) -> None:
    """Make a file in the folder: one without a name, if the file system has such files."""
    with contextlib.suppress(FileNotFoundError):
        (folder / _temporary_name(path)).lstat()  # finds out that a name is too long
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC))
    except (AttributeError, OSError):
        with undisturbed():
            probe = folder / _temporary_name(path)
            probe.open("xb").close()
            probe.unlink(missing_ok=True)


def real_output(path: str | os.PathLike[str]) -> Path:
    """Return the file that writing to `path` replaces: the one that a symbolic link leads to, else `path`.

    Raises:
        OutputError: The link leads to itself.
    """
    path = Path(path)
    real = Path(os.path.realpath(path)) if path.is_symlink() else path
    if real.is_symlink():
        raise OutputError(f"{path} is a link that leads to itself; choose another output path")
    return real


def suffixed(path: str | os.PathLike[str], suffix: str) -> Path:
    """Return the path of a file beside another one, which differs in its suffix.

    Raises:
        InputError: The path has no name, as "", "." and "/" have none.
    """
    path = Path(path)
    if not path.name:
        raise InputError(f"{path} is a folder; give the path of a file")
    return path.with_suffix(suffix)


def unnamed_output(path: Path, option: str = "-o") -> Path:
    """Return an output's path that nobody named; a link there may lead to the same folder only.

    Args:
        path: The output, which follows from another file's name.
        option: The option that names it.

    Raises:
        OutputError: It is a link to another folder.
    """
    if path.is_symlink() and Path(os.path.realpath(path)).parent != Path(os.path.realpath(path.parent)):
        raise OutputError(
            f"{path} is a link to another folder, and was not named; remove it, or name it with {option}"
        )
    return path


@contextlib.contextmanager
def atomic_path(
    target: str | os.PathLike[str],
    *,
    lock: OutputLock | None = None,
    follow: bool = True,
    like: os.stat_result | None = None,
    settle: bool = True,
) -> Iterator[Path]:
    """Yield an empty file beside `target`; on success it becomes `target`, on failure it vanishes.

    The file is flushed to disk before it is renamed, so after a crash `target` holds either its old or
    its new content. A replaced file keeps its mode and owner, and the links that lead to it. One process at a
    time writes a target; what a killed one left is removed first.

    Args:
        target: The file.
        lock: The held lock of the output that the file belongs to, e.g. of a model if it holds its weights;
            None takes the target's own.
        follow: Whether a symbolic link in the target's place is written through. A file that nobody named
            replaces it, e.g. in a cache's folder: whoever made the folder chose where the link leads.
        like: Owner and mode of a new file, e.g. those of the data file whose place it takes.
        settle: Flush the folder's entry too; without it a crash may bring the old file back, whole.

    Raises:
        OutputError: The file cannot be written, for want of a folder, rights or space.
        InputError: The block failed on another file.
    """
    real = real_output(target) if follow else Path(target)
    # Also a file that no command line names, such as a cache, may be a link to a device.
    _check_no_device(Path(target))
    with contextlib.nullcontext(lock) if lock is not None else output_lock(real.absolute()) as held:
        temporary = real.parent / _temporary_name(real)
        held.will_write(temporary)
        _remove_stale(real)
        try:
            rights = create(temporary, rights_of(real) or like)
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            put_in_place(temporary, real, rights)
            if settle:
                sync_folder(real.parent)
        except OSError as error:
            named, why = error.filename if isinstance(error.filename, str) else "", os_reason(error)
            if named and Path(named) not in (temporary, real, real.parent):
                raise InputError(f"{named} cannot be used: {why}; {target} was not changed") from error
            raise OutputError(f"{target} cannot be written: {why}; nothing was changed") from error
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()


def write_atomic(
    target: str | os.PathLike[str], data: bytes | str, *, follow: bool = True, settle: bool = True
) -> None:
    """Write `data` (text as UTF-8) to `target`, whole or not at all; the options are those of `atomic_path`.

    Raises:
        OutputError: The file cannot be written.
    """
    with atomic_path(target, follow=follow, settle=settle) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def within(root: str | os.PathLike[str], relative: str) -> Path:
    """Return the real path of `relative` below `root`.

    `root` is resolved first, so a model reached through a symlinked cache keeps its data file beside
    the real model. A `relative` that is absolute, climbs out, or is a link to a place outside is refused.

    Raises:
        InputError: The path leaves `root`.
    """
    base = Path(root).resolve()
    try:
        real = (base / relative).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{relative!r} is not a usable path below {base}") from error
    if not relative or Path(relative).is_absolute() or not real.is_relative_to(base):
        raise InputError(f"{relative!r} leaves the folder {base}; it is not read")
    return real


def _temporary_name(target: Path) -> str:
    return f".{target.name}.{writer_mark()}.tmp"


def _remove_stale(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.({MARK})\.tmp")
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            match = pattern.fullmatch(entry.name)
            if match and is_abandoned(match[1]):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()
