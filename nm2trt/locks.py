"""Locks of outputs: one for each file, with the list of what its writer has not finished; one for a folder.

The lock of a file is on `.NAME.lock` beside the output; a writer that ends removes that file. A writer that
is killed leaves it with the names of the files that it was making, so that the next writer can remove them.
The lock of a folder leaves no file and dies with the process.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from nm2trt.errors import InputError

_MOST_LIST_BYTES = 1 << 20
_SILENT_SECONDS = 1.0
_held = threading.local()
_tell: list[Callable[[str], None]] = []


def on_waiting(tell: Callable[[str], None] | None) -> None:
    """Set what is told which output is waited for, from a second on; None tells nobody.

    Args:
        tell: Takes a sentence; a thread of its own calls it.
    """
    _tell[:] = [] if tell is None else [tell]


class OutputLock:
    """The lock of one output; `output_lock` takes and releases it.

    Args:
        target: The output.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self._path = target.with_name(f".{target.name}.lock")
        self._descriptor: int | None = None
        self._listed: list[str] = []

    def will_write(self, path: Path) -> None:
        """List a file beside the output that goes at the end of the lock, unless the output mentions it.

        So a data file goes if the model that names it was not written, and an old one if the model that named
        it was replaced. If the process is killed, the next writer of the output removes what is listed.

        Args:
            path: `.NAME.….tmp`, `NAME.data` or `NAME.HEX.data`; other names are never removed.
        """
        self._listed.append(path.name)
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(self._descriptor, os.fsencode(path.name) + b"\n")

    def take(self) -> None:
        """Wait for the lock; without locks in the file system, or rights in the folder, do without."""
        # Only waiting can be interrupted, so that no lock is left that nobody knows of.
        with contextlib.suppress(OSError):
            if self._try(fcntl.LOCK_EX | fcntl.LOCK_NB):
                return
            with _told(f"another command writes {self.target}; waiting until it ends"):
                while not self._try(fcntl.LOCK_EX | fcntl.LOCK_NB):
                    descriptor = _open(self._path)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX)
                    finally:
                        os.close(descriptor)

    def _try(self, operation: int) -> bool:
        """Take the lock if it is free; false if another holds it, or a killed writer had left it."""
        with undisturbed():
            descriptor = _open(self._path)
            try:
                fcntl.flock(descriptor, operation)
                status = os.fstat(descriptor)
                if status.st_nlink and status.st_size == 0 and os.access(self._path, os.W_OK):
                    self._descriptor, descriptor = descriptor, -1
                    return True
                if status.st_nlink:
                    _clear(self._path, self.target)
            except BlockingIOError:
                pass
            finally:
                if descriptor >= 0:
                    os.close(descriptor)
        return False

    def release(self) -> None:
        """Remove what is listed, and the lock file."""
        with contextlib.suppress(OSError):
            _remove(self.target, self._listed)
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._descriptor)


@contextlib.contextmanager
def output_lock(target: Path) -> Iterator[OutputLock]:
    """Wait until no other process or thread writes an output, and hold it; a thread may hold it twice.

    Args:
        target: The output, without links in its name.
    """
    mine: dict[Path, OutputLock] = _held.__dict__.setdefault("locks", {})
    if target in mine:
        yield mine[target]
        return
    lock = OutputLock(target)
    try:
        lock.take()
        mine[target] = lock
        yield lock
    finally:
        with undisturbed():
            mine.pop(target, None)
            lock.release()


@contextlib.contextmanager
def one_writer(folder: Path, *, busy: str = "") -> Iterator[None]:
    """Let one process at a time work in a folder.

    Args:
        folder: The folder.
        busy: What the error says if another process works there; "" waits for it.

    Raises:
        InputError: Another process works there, and `busy` is given.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if busy:
                raise InputError(busy) from error
            with _told(f"another command works in {folder}; waiting until it ends"):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            pass  # a network file system may know no locks
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _told(sentence: str) -> Iterator[None]:
    """Tell what is waited for if the block lasts; most waits end before anybody wonders."""
    if not _tell:
        yield
        return
    timer = threading.Timer(_SILENT_SECONDS, _tell[0], [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended, if it runs in the main thread."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _open(path: Path) -> int:
    flags = os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        return os.open(path, flags | os.O_RDWR, 0o666)
    except PermissionError:
        # The lock of another user, who writes there now or was killed; it can be waited for all the same.
        return os.open(path, flags & ~os.O_CREAT | os.O_RDONLY)


def _clear(path: Path, target: Path) -> None:
    """Remove what a killed writer had listed, then its list."""
    # A pipe in its place is not waited for, and a link is not followed.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        _remove(target, [os.fsdecode(name) for name in (file.read(_MOST_LIST_BYTES) or b"").split(b"\n")])
    path.unlink()


def _remove(target: Path, names: Sequence[str]) -> None:
    own = re.escape(target.name)
    temporary = re.compile(rf"\.{own}\.[^/]*\.tmp")
    data = re.compile(rf"{own}(\.[0-9a-f]+)?\.data")
    for name in dict.fromkeys(names):
        if temporary.fullmatch(name) or (data.fullmatch(name) and not _mentions(target, name)):
            with contextlib.suppress(OSError):
                target.with_name(name).unlink()
            with contextlib.suppress(OSError):  # it was being rewritten itself, under a lock of its own
                _clear(target.with_name(f".{name}.lock"), target.with_name(name))


def _mentions(target: Path, name: str) -> bool:
    try:
        with target.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(os.fsencode(name)) >= 0
    except (FileNotFoundError, ValueError):  # missing, or empty
        return False
    except OSError:
        return True
