"""Numbers below about 1e-38, with which a CPU computes ten times slower.

Channels that died in training are full of them. Flushing them to zero is a flag of each thread, taken over
from the thread that starts it: torch's OpenMP threads, once started, keep the flag they were started with.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from pathlib import Path

import torch

_PAUSE_SOFT = 1
_LIBRARIES = ("libgomp", "libiomp", "libomp")


@contextlib.contextmanager
def denormals_flushed() -> Iterator[None]:
    """Take denormal numbers as zero while the block runs, in this thread and in torch's OpenMP threads."""
    before = float(torch.full((1,), 1e-37) * 1e-3) == 0
    # Before the flag: without it the flag was seen to be lost again (torch 2.13).
    torch.set_num_threads(torch.get_num_threads())
    torch.set_flush_denormal(True)
    _end_openmp_threads()
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
        _end_openmp_threads()


def _end_openmp_threads() -> None:
    """Let OpenMP end its idle threads; the next parallel region starts new ones, which inherit the flag.

    Where torch's OpenMP library cannot be found (no Linux, another pool), nothing happens: the flag then
    holds for the calling thread only.
    """
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return
    mapped = {line.split()[-1] for line in lines if "omp" in line}  # of thousands of lines
    for path in (path for path in mapped if Path(path).name.startswith(_LIBRARIES)):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(path).omp_pause_resource_all(_PAUSE_SOFT)
