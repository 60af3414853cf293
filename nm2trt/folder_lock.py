"""A lock on a folder, which leaves no file and dies with the process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nm2trt.errors import InputError


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
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError as error:
            raise InputError(busy) from error
        except OSError:
            pass  # a network file system may know no locks
        yield
    finally:
        os.close(descriptor)
