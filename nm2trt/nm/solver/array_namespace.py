"""The few array functions whose names differ between numpy and torch, and numpy on one thread.

`namespace` returns the library that made an array. Callers use only functions that both libraries have under
one name with the same positional arguments, and those of this module. Neither library is imported here.

OpenBLAS, which numpy computes with, cuts sums into parts that depend on how many threads there are. The last
digit then differs, masks that nearly tie fall the other way, and every layer after them follows.
`one_blas_thread` makes results the same bits whatever the thread count.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from nm2trt.nm.pattern import NMPattern

# Products of more multiplications are cut into blocks of so many rows.
_LARGE, _BLOCK_ROWS = 2_000_000_000, 256
# Blocks of wider rows have fewer: fresh memory for 25 MB in each step cost more than the arithmetic.
_WIDE, _BLOCK_OF_WIDE = 16_384, 64

_SYMBOLS = ("scipy_openblas_{}_num_threads64_", "scipy_openblas_{}_num_threads", "openblas_{}_num_threads")
_lock = threading.Lock()
# How many blocks of `one_blas_thread` are open, and how many threads there were before the first.
_open, _before = 0, 1

# A numpy array or a torch tensor: the type has no better name here.
Array = Any


def namespace(array: Array) -> Any:
    """Return the library of an array: the module numpy or torch."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _is_torch(array: Array) -> bool:
    return bool(namespace(array).__name__ == "torch")


def float32(array: Array) -> Array:
    """Return an array in float32."""
    return array.float() if _is_torch(array) else array.astype("float32", copy=False)


def float64(array: Array) -> Array:
    """Return an array in float64."""
    return array.double() if _is_torch(array) else array.astype("float64", copy=False)


def identity(array: Array) -> Array:
    """Return the identity of a square array's last dimension, in its dtype and on its device."""
    xp = namespace(array)
    return xp.diag(xp.ones_like(array[..., 0, :].reshape(-1, array.shape[-1])[0]))


def row_numbers(start: int, count: int, like: Array) -> Array:
    """Return `start` .. `start + count - 1` as integers (count, 1), where `like` lies."""
    xp = namespace(like)
    numbers = xp.arange(start, start + count)
    return (numbers.to(like.device) if _is_torch(like) else numbers)[:, None]


def top_mask(score: Array, pattern: NMPattern) -> Array:
    """Mark the N highest of every M on axis 1 of `score` (o, d); equal scores keep the lower index."""
    if _is_torch(score):
        from nm2trt.nm.torch_mask import nm_mask as torch_nm_mask

        return torch_nm_mask(score, pattern, axis=1)
    from nm2trt.nm.mask import nm_mask

    return nm_mask(score, pattern, axis=1)


def product(a: Array, b: Array) -> Array:
    """Return a @ b; a large one of numpy in blocks of rows, which do not depend on the thread count.

    Args:
        a: (o, k).
        b: (k, d).
    """
    if namespace(a).__name__ != "numpy" or a.shape[0] * b.size < _LARGE:
        return a @ b
    import numpy as np

    whole = np.empty((a.shape[0], b.shape[1]), np.result_type(a, b))

    def multiply(rows: slice) -> None:
        np.matmul(a[rows], b, out=whole[rows])

    each_block(multiply, a, b.size)
    return whole


def each_block(work: Callable[[slice], None], rows: Array, cost: int) -> None:
    """Call `work` with slices of rows that do not depend on each other, on several threads of numpy.

    Blocks do not depend on the thread count; new arrays of their size cost little, unlike those of a layer.

    Args:
        work: Called with a slice of the rows; with all of them if that is little work, or on a GPU.
        rows: The rows, (o, k).
        cost: Multiplications per row.
    """
    if _is_torch(rows) or rows.shape[0] * cost < _LARGE:
        work(slice(None))
        return
    size = _BLOCK_ROWS if rows.shape[1] <= _WIDE else _BLOCK_OF_WIDE
    blocks = range(0, len(rows), size)
    with one_blas_thread() as threads:
        each(lambda first: work(slice(first, first + size)), blocks, min(threads, len(blocks)))


@contextmanager
def one_blas_thread() -> Iterator[int]:
    """Hold numpy's OpenBLAS to one thread while the block runs; blocks may overlap, in several threads too.

    A numpy that was built with another library is left as it is, and so is torch.

    Yields:
        Threads that the caller may use instead: as many as OpenBLAS had, or 1 if nothing was changed.
    """
    global _open, _before
    calls = _openblas()
    if calls is None:
        yield 1
        return
    read, write = calls
    with _lock:
        if not _open:
            _before = read()
            write(1)
        _open += 1
        threads = _before
    try:
        yield threads
    finally:
        with _lock:
            _open -= 1
            if not _open:
                write(_before)


def thread_count_counts() -> bool:
    """Tell whether numpy's sums depend on its thread count: `one_blas_thread` holds OpenBLAS only."""
    return _openblas() is None


def each(work: Callable[[int], None], numbers: Iterable[int], threads: int) -> None:
    """Call `work` with each number, on several threads; an error is raised when all calls have ended."""
    if threads == 1:
        for number in numbers:
            work(number)
        return
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

    with ThreadPoolExecutor(threads) as pool:
        for job in [pool.submit(work, number) for number in numbers]:
            job.result()


@functools.cache
def _openblas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """Return what reads and what sets the thread count of numpy's OpenBLAS; None if it has none."""
    linalg = sys.modules.get("numpy.linalg._umath_linalg")
    with suppress(OSError, AttributeError):
        # Symbols of the libraries that the module is linked with are found through it.
        library: Any = ctypes.CDLL(str(linalg.__file__)) if linalg else None
        for symbol in _SYMBOLS:
            with suppress(AttributeError):
                read, write = (getattr(library, symbol.format(word)) for word in ("get", "set"))
                read.restype, write.argtypes, write.restype = ctypes.c_int, [ctypes.c_int], None
                return read, write
    return None
