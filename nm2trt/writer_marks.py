"""Marks in the names of unfinished files and folders: which process writes them, and whether it has gone."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import platform
from pathlib import Path

MARK = r"[0-9a-f]{8}-[0-9]+-[0-9a-f]{8}"  # what `writer_mark` returns


def writer_mark() -> str:
    """Return a mark for the name of something unfinished: this machine, this process, and a random part."""
    return f"{_machine()}-{os.getpid()}-{os.urandom(4).hex()}"


def is_abandoned(mark: str) -> bool:
    """Tell whether the process that made a `writer_mark` has gone.

    A process of another machine, or of a container with its own process numbers, counts as alive: both may
    write to one shared folder.
    """
    machine, _, rest = mark.partition("-")
    return machine == _machine() and not _is_alive(int(rest.partition("-")[0]))


@functools.cache
def _machine() -> str:
    space = ""
    with contextlib.suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


def _is_alive(pid: int) -> bool:
    """Tell whether a process runs, whoever it belongs to."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    # In a container whose first process reaps none, one that was killed stays as a zombie.
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1] not in ("Z", "X")
    return True
