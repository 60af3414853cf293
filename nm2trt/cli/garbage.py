"""Python's garbage collector, kept out of the way while the modules of a command load and when it ends.

What loading makes stays, so the search that usually follows every 700 new objects finds nothing; and what is
there at the end of the process need not be searched. Both took a tenth of the time of a short command.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# More than loading numpy, ONNX's messages and a command makes, as `gc.get_count` counts.
_LOADED_OBJECTS = 100_000


@contextmanager
def collected_late() -> Iterator[None]:
    """Collect nothing before so many objects are there, then as usual, and nothing after the block.

    Only for a process that ends with the block.
    """
    usual = gc.get_threshold()

    def collected(phase: str, _: object) -> None:
        if phase == "stop":
            gc.callbacks.remove(collected)
            gc.set_threshold(*usual)

    gc.callbacks.append(collected)
    gc.set_threshold(_LOADED_OBJECTS)
    try:
        yield
    finally:
        gc.freeze()
