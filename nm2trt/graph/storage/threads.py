"""Work in several threads, for calls that leave Python's lock to others while they work."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from nm2trt.progress import BUILDER_THREAD

if TYPE_CHECKING:
    from concurrent.futures import Future

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")
_MOST_THREADS = 4


def usable_cores() -> int:
    """Return how many threads are worth starting here: the cores that this process may use, at most four."""
    return min(_MOST_THREADS, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def in_order(work: Callable[[_Item], _Made], items: Iterable[_Item]) -> Iterator[_Made]:
    """Yield what `work` makes of each item, in order; threads are a few items ahead of the caller.

    Raises:
        Exception: What `work` raised, at the item's turn.
    """
    cores = usable_cores()
    if cores == 1:
        yield from map(work, items)
        return
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

    waiting: deque[Future[_Made]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def beside(work: Callable[[], _Made]) -> Callable[[], _Made]:
    """Start work of a library, which Python cannot stop, in a thread of its own.

    Returns:
        Waits for the work; returns what it made, or raises what it raised.
    """
    from concurrent.futures import ThreadPoolExecutor, wait  # only here: it takes time to import

    # Named so that Ctrl-C ends a command without waiting for it.
    pool = ThreadPoolExecutor(1, BUILDER_THREAD)
    made = pool.submit(work)
    pool.shutdown(wait=False)

    def result() -> _Made:
        # In short waits: a signal that the system hands to another thread does not end an endless one.
        while not made.done():
            wait([made], 0.1)
        return made.result()

    return result
