"""A watch over runs in ONNX Runtime: one that takes too long, or nearly all memory, is told to end."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nm2trt.bounds import bounds

__all__ = ["Watch", "watched"]

_INTERVAL_S = 0.1
_LEAST_FREE = 0.02  # share of the machine's memory
_MEMORY = Path("/proc/meminfo")


@dataclass(eq=False)
class Watch:
    """One watched run.

    Args:
        end: Tells the library to end the run.
        limit_s: Longest time.

    Attributes:
        reason: Why the run was told to end; "" if it was not.
    """

    end: Callable[[], None]
    limit_s: float
    reason: str = ""
    started: float = field(default_factory=time.monotonic)


_lock = threading.Condition()
_watches: list[Watch] = []
_thread: threading.Thread | None = None


@contextlib.contextmanager
def watched(end: Callable[[], None]) -> Iterator[Watch]:
    """Watch the run in the block.

    Args:
        end: Tells the library to end the run; called from another thread.
    """
    global _thread
    watch = Watch(end, bounds().run_seconds)
    with _lock:
        _watches.append(watch)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_look, name="nm2trt-run-watch", daemon=True)
            _thread.start()
        _lock.notify()
    try:
        yield watch
    finally:
        with _lock:
            _watches.remove(watch)


def _look() -> None:
    while True:
        with _lock:
            while not _watches:
                _lock.wait()
        time.sleep(_INTERVAL_S)
        scarce = is_memory_scarce()
        with _lock:
            for watch in _watches:
                if not watch.reason and time.monotonic() - watch.started > watch.limit_s:
                    watch.reason = f"the run took longer than {watch.limit_s:g} s (nm2trt --run-time)"
                elif not watch.reason and scarce:
                    watch.reason = "the run left less than 2 % of the machine's memory free"
                if watch.reason:
                    watch.end()


def is_memory_scarce() -> bool:
    """Tell whether less than 2 % of the machine's memory is free, swap included."""
    try:
        fields = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        total, free, swap = (
            int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable", "SwapFree")
        )
    except (OSError, ValueError, KeyError, IndexError):
        return False
    return free + swap < total * _LEAST_FREE
