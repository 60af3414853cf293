"""Python's garbage collector, kept out of the way while the modules of a command load and when it ends.

What loading makes stays, so the search that usually follows every 700 new objects finds nothing; and what is
there at the end of the process need not be searched. Both took a tenth of the time of a short command; taking
every module and object apart at the end, as Python does, took another twentieth.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# More than loading numpy, ONNX's messages and a command makes, as `gc.get_count` counts.
_LOADED_OBJECTS = 100_000
_MANY_OBJECTS = 50_000
_rarely = False


def collect_rarely() -> None:
    """Let `collected_late` go on with a search per 50,000 new objects, not 700.

    For a command that makes many small objects and no cycles that hold large ones. Searches as usual took a
    twentieth of the time that a graph of 10,000 nodes takes.
    """
    global _rarely
    _rarely = True


@contextmanager
def collected_late() -> Iterator[None]:
    """Collect nothing before so many objects are there, then as usual, and nothing after the block.

    Only for a process that ends with the block.
    """
    usual = gc.get_threshold()

    def collected(phase: str, _: object) -> None:
        if phase == "stop":
            gc.callbacks.remove(collected)
            gc.set_threshold(max(usual[0], _MANY_OBJECTS) if _rarely else usual[0], *usual[1:])

    gc.callbacks.append(collected)
    gc.set_threshold(_LOADED_OBJECTS)
    try:
        yield
    finally:
        gc.freeze()


def end(status: int) -> None:
    """End the process at once, once what asked to be called at its end was called.

    Returns only if somebody watches the process, e.g. a profiler that prints at its end, or if a thread still
    works or output cannot be flushed, so that Python ends it as usual.

    Args:
        status: The exit status.
    """
    import atexit
    import os
    import threading

    main = threading.main_thread()
    works = any(thread is not main and not thread.daemon for thread in threading.enumerate())
    monitoring = getattr(sys, "monitoring", None)  # what profilers use since Python 3.12
    tools = [] if monitoring is None else [monitoring.get_tool(number) for number in range(6)]
    watched = any(tools) or sys.gettrace() is not None or sys.getprofile() is not None
    if works or watched or sys.flags.inspect:
        return
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
        if "ctypes" in sys.modules:
            import ctypes

            ctypes.CDLL(None).fflush(None)  # what a library printed
    except (AttributeError, OSError, ValueError):
        return
    os._exit(status)
