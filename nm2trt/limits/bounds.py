"""Bounds on what a file may cost its reader: memory and time that no real model asks for.

They keep a small file from exhausting the machine. `use` raises them for what runs afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from nm2trt.errors import InputError


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one command may spend on a file.

    Args:
        constant_bytes: Memory for constants that are computed, beyond what the model stores of them, and for
            copies of those that stand in local functions.
        constant_seconds: Time for computing constants, all of a command together.
        unfolded_nodes: Nodes that local functions may unfold to, beyond those that the file holds.
        run_seconds: Time for one run of a model in ONNX Runtime.
        run_bytes: Memory for one run or the loading of a model in ONNX Runtime, or its parsing; None
            takes what is free.
        sample_bytes: Memory for the samples that are held at once, beyond four times the size of their file.
        answer_bytes: One answer of a server.
    """

    constant_bytes: int = 2 << 30
    constant_seconds: float = 60.0
    unfolded_nodes: int = 300_000
    run_seconds: float = 600.0
    run_bytes: int | None = None
    sample_bytes: int = 2 << 30
    answer_bytes: int = 1 << 30


_MOST = 1_000_000
_current = Bounds()
_spent = 0.0


def bounds() -> Bounds:
    """Return the bounds that hold now."""
    return _current


def use(
    *,
    constant_gb: float | None = None,
    constant_seconds: float | None = None,
    run_seconds: float | None = None,
    run_gb: float | None = None,
    sample_gb: float | None = None,
    answer_gb: float | None = None,
) -> None:
    """Set bounds for the rest of the process, and begin to count time anew; None takes a default.

    Args:
        constant_gb: Memory for constants that are computed, in GB.
        constant_seconds: Time for them.
        run_seconds: Time for one run of a model in ONNX Runtime.
        run_gb: Memory for it, in GB.
        sample_gb: Memory for samples beyond four times the size of their file, in GB.
        answer_gb: One answer of a server, in GB.

    Raises:
        InputError: A number is not positive, or beyond a million.
    """
    global _current, _spent
    seconds = {"constant_seconds": constant_seconds, "run_seconds": run_seconds}
    gigabytes = {
        "constant_gb": constant_gb,
        "run_gb": run_gb,
        "sample_gb": sample_gb,
        "answer_gb": answer_gb,
    }
    for name, value in {**seconds, **gigabytes}.items():
        if value is not None and not 0 < value <= _MOST:
            raise InputError(f"{name} {value:g} is out of range; give a number over 0 and up to {_MOST}")
    chosen: dict[str, Any] = {name: float(value) for name, value in seconds.items() if value is not None}
    for name, value in gigabytes.items():
        if value is not None:
            chosen[name.replace("_gb", "_bytes")] = int(value * (1 << 30))
    _current, _spent = replace(Bounds(), **chosen), 0.0


def seconds_left() -> float:
    """Return how much time is left for computing constants, in seconds."""
    return _current.constant_seconds - _spent


@contextmanager
def constant_work() -> Iterator[None]:
    """Count the time of the block as work on constants."""
    global _spent
    start = time.perf_counter()
    try:
        yield
    finally:
        _spent += time.perf_counter() - start
