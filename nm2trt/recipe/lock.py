"""One run at a time in one folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from nm2trt.errors import InputError

__all__ = ["one_run"]


@contextlib.contextmanager
def one_run(folder: Path) -> Iterator[None]:
    """Let one process at a time work in a run's folder; the lock leaves no file and dies with the process.

    Raises:
        InputError: Another process works there.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another nm2trt run works in {folder}; wait for it, or choose another folder with -o"
            ) from error
        except OSError:
            pass  # a network file system may know no locks
        yield
    finally:
        os.close(descriptor)
