"""A watch over calls of ONNX Runtime or a parser: one that takes too much time or memory is told to end.

While a call is watched, the process cannot allocate more memory than the machine has free: an operator that
asks for more fails at once, and does not bring the machine down.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from nm2trt.limits.bounds import bounds

_INTERVAL_S = 0.1
_GRACE_S = 10.0  # for the operator at work to end, after the call was told to
_LEAST_FREE = 0.02  # share of the machine's memory
_MEMORY, _PROCESS = Path("/proc/meminfo"), Path("/proc/self/statm")
_DATA_PAGES = 5  # place in the latter


@dataclass(eq=False)
class Watch:
    """One watched run.

    Args:
        end: Tells the library to end the run.
        limit_s: Longest time.

    Attributes:
        reason: Why the run was told to end; "" if it was not.
        told: When it was told.
    """

    end: Callable[[], None]
    limit_s: float
    reason: str = ""
    told: float = 0.0
    started: float = field(default_factory=time.monotonic)


_lock = threading.Condition()
_watches: list[Watch] = []
_thread: threading.Thread | None = None
_give_up: Callable[[str], None] | None = None
_stopped: Callable[[], bool] | None = None
_former_limit: tuple[int, int] | None = None


def on_overdue(give_up: Callable[[str], None]) -> None:
    """Set what is called with the reason if one operator works on long after its call was told to end.

    Nothing can end such an operator but the end of the process, which a command may choose and a library
    may not. It is called from another thread.
    """
    global _give_up
    _give_up = give_up


def on_stop(stopped: Callable[[], bool] | None) -> None:
    """Set what tells, once, that the user has stopped the command; the calls under way are told to end then.

    It is asked from another thread: Python handles a signal only when the library has returned.
    """
    global _stopped
    with _lock:
        _stopped = stopped


@contextlib.contextmanager
def watched(end: Callable[[], None]) -> Iterator[Watch]:
    """Watch the call in the block.

    Args:
        end: Tells the library to end the call; called from another thread.
    """
    global _thread
    watch = Watch(end, bounds().run_seconds)
    with _lock:
        if not _watches:
            _limit_memory()
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
            if not _watches:
                _lift_limit()


def _part_from_parent() -> None:
    # A forked child has none of the parent's threads, runs and pipes; another thread may have held the lock.
    global _lock, _thread, _stopped
    _lock, _thread, _stopped = threading.Condition(), None, None
    _watches.clear()


os.register_at_fork(after_in_child=_part_from_parent)


def _look() -> None:
    while True:
        with _lock:
            while not _watches:
                _lock.wait()
        time.sleep(_INTERVAL_S)
        scarce = is_memory_scarce()
        with _lock:
            stopped = _stopped is not None and _stopped()
            for watch in _watches:
                if stopped:
                    watch.end()
                _look_at(watch, time.monotonic(), scarce=scarce)


def _look_at(watch: Watch, now: float, *, scarce: bool) -> None:
    if not watch.reason and now - watch.started > watch.limit_s:
        watch.reason = f"the run took longer than {watch.limit_s:g} s (nm2trt --run-time)"
    elif not watch.reason and scarce:
        watch.reason = "the run left less than 2 % of the machine's memory free"
    if watch.reason:
        watch.told = watch.told or now
        watch.end()
        if _give_up is not None and now - watch.told > _GRACE_S:
            _give_up(watch.reason)


def is_memory_scarce() -> bool:
    """Tell whether less than 2 % of the machine's memory is free, swap included."""
    found = _kilobytes(_MEMORY, "MemTotal", "MemAvailable", "SwapFree")
    return found is not None and found[1] + found[2] < found[0] * _LEAST_FREE


def _limit_memory() -> None:
    """Let the process allocate what a run may take, or the machine has free, and no more."""
    global _former_limit
    free, used = _kilobytes(_MEMORY, "MemAvailable", "SwapFree"), _data_bytes()
    if free is None or used is None:
        return
    import resource

    former = resource.getrlimit(resource.RLIMIT_DATA)
    most = bounds().run_bytes
    limit = (sum(free) << 10 if most is None else min(most, sum(free) << 10)) + used
    lower = limit if former[0] == resource.RLIM_INFINITY else min(limit, former[0])
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (lower, former[1]))
        _former_limit = former


def _lift_limit() -> None:
    global _former_limit
    if _former_limit is not None:
        import resource

        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_DATA, _former_limit)
        _former_limit = None


def _kilobytes(path: Path, *names: str) -> list[int] | None:
    """Return figures that a file of /proc gives in kB; None if it has not all of them."""
    text = _content(path)
    found = []
    for name in names:  # each run of a model reads them: only these lines are looked at
        _, there, rest = text.partition(f"{name}:")
        if not there:
            return None
        found.append(int(rest.split(None, 1)[0]))
    return found


def _data_bytes() -> int | None:
    """Return the memory that RLIMIT_DATA counts, and the stack; None where that is not told."""
    pages = _content(_PROCESS).split()
    return int(pages[_DATA_PAGES]) * os.sysconf("SC_PAGE_SIZE") if len(pages) > _DATA_PAGES else None


def _content(path: Path) -> str:
    """Return the text of a file of /proc, "" if it is missing; `open` would take longer than reading it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return os.read(descriptor, 1 << 16).decode()
    finally:
        os.close(descriptor)
