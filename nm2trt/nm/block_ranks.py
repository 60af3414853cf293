"""Masks of a contiguous array on a CPU, block by block, by numpy's comparisons into a given mask.

Each element counts the elements of its group that go before it; those with fewer than N before them stay.
A shift by s neighbours compares all pairs that lie s apart at once. The magnitudes of floats are compared as
the integers that their bits are, which have the same order and need half the bytes for 16-bit floats.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.nm.pattern import NMPattern

# A numpy array or a torch tensor, which is not imported here.
_Numbers = TypeVar("_Numbers", bound=Any)

# A block and its counts stay in a core's cache, and Python's share of a step is small.
_BLOCK_ELEMENTS = 1 << 18
# Most bytes of `_constants`: one per element and shift.
_CONSTANT_BYTES = 1 << 21
# Elements from which one row after the other is faster than all pairs of a block, those across groups masked.
_LONG_ROW = 128
# A thread is worth its start from so many elements on.
_THREAD_ELEMENTS = 1 << 20
# Sizes of a group, all powers of two, in which the two highest are found by halves rather than by all pairs.
_TOURNAMENTS = (16, 32, 64, 128, 256)
# Name of a float type -> the integers that hold its bits, and the bits of infinity.
_BITS: dict[str, tuple[type[np.signedinteger[Any]], int]] = {
    "float16": (np.int16, 0x7C00),
    "bfloat16": (np.int16, 0x7F80),
    "float32": (np.int32, 0x7F80_0000),
    "float64": (np.int64, 0x7FF0_0000_0000_0000),
}


def set_mask(
    score: Array,
    mask: npt.NDArray[np.bool_],
    pattern: NMPattern,
    *,
    inner: int,
    magnitude: bool = False,
    threads: int = 1,
    changes: bool = False,
) -> int:
    """Write the mask of the N highest of every group into `mask`.

    Args:
        score: C-contiguous numbers of any real dtype; NaN ranks lowest.
        mask: C-contiguous, of the score's size.
        pattern: Divides the groups' axis.
        inner: Distance between neighbours of a group.
        magnitude: Rank floats by their magnitude.
        threads: Most threads to use; each takes whole groups of its own, and none waits for another.
        changes: Count the entries that change; the mask holds an earlier one.

    Returns:
        How many entries of the mask changed; 0 if they are not counted.
    """
    if score.size == 0:
        return 0
    groups, kept = score.reshape(-1, pattern.m, inner), mask.reshape(-1, pattern.m, inner)
    parts = max(1, min(threads, score.size // _THREAD_ELEMENTS, len(groups)))
    set_part = functools.partial(_set_part, pattern=pattern, magnitude=magnitude, changes=changes)
    if parts == 1:
        return set_part(groups, kept)
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

    cuts = [len(groups) * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        spans = [slice(start, end) for start, end in itertools.pairwise(cuts)]
        jobs = [pool.submit(set_part, groups[span], kept[span]) for span in spans]
        return sum(job.result() for job in jobs)


def blocks(groups: _Numbers, limit: int) -> Iterator[_Numbers]:
    """Cut an array or a tensor (groups, M, inner) into views of at most about `limit` elements."""
    _, m, inner = groups.shape
    rows = max(1, limit // (m * inner))
    columns = min(inner, max(1, limit // m))
    for row in range(0, len(groups), rows):
        for column in range(0, inner, columns):
            yield groups[row : row + rows, :, column : column + columns]


class _Room:
    """Arrays that every block of one call uses again: fresh memory would cost more than the step."""

    def __init__(self) -> None:
        self._held: dict[str, Array] = {}

    def of(self, use: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Array:
        size = int(np.prod(shape))
        held = self._held.get(use)
        if held is None or held.size < size:
            held = self._held[use] = np.empty(size, dtype)
        return held[:size].reshape(shape)


def _set_part(
    groups: Array, kept: npt.NDArray[np.bool_], *, pattern: NMPattern, magnitude: bool, changes: bool
) -> int:
    room, changed = _Room(), 0
    # What is counted in a block stays in the cache with it.
    limit = min(_BLOCK_ELEMENTS, _CONSTANT_BYTES // pattern.m)
    for block, out in zip(blocks(groups, limit), blocks(kept, limit), strict=True):
        keys = _keys(block, room, magnitude=magnitude)
        new = out if not changes else room.of("new", block.shape, np.bool_)
        if pattern.n == 2 and pattern.m in _TOURNAMENTS:
            _keep_two(keys, new, room)
        else:
            count = _beaten_in_rows if block.shape[2] >= _LONG_ROW else _beaten
            np.less(count(keys, room), pattern.n, out=new)
        if not changes:
            continue
        flips = np.not_equal(new, out, out=room.of("flips", block.shape, np.bool_))
        changed += int(np.count_nonzero(flips))
        out[...] = new
    return changed


def _keys(block: Array, room: _Room, *, magnitude: bool) -> Array:
    """Return contiguous numbers in the order of the scores, of which every pair compares."""
    bits = _BITS.get(block.dtype.name) if magnitude else None
    if bits is not None:
        integers, infinite = bits
        keys = room.of("keys", block.shape, integers)
        np.bitwise_and(block.view(integers), np.iinfo(integers).max, out=keys)
        if keys.max() > infinite:  # a NaN
            keys[keys > infinite] = -1
        return keys
    if block.dtype.kind in "biu":
        return np.ascontiguousarray(block)
    if block.dtype.kind != "f" or block.dtype.itemsize < 4:
        block = block.astype(np.float32)
    if magnitude:
        block = np.abs(block)
    with np.errstate(invalid="ignore"):
        if np.isnan(block.max()):
            block = np.where(np.isnan(block), -np.inf, block)
    return np.ascontiguousarray(block)


def _keep_two(keys: Array, kept: npt.NDArray[np.bool_], room: _Room) -> None:
    """Mark the two highest of each group of (groups, M, columns), as a tournament of all groups finds them.

    Each round halves the contenders, and keeps the best two that each has met so far.
    """
    groups, m, columns = keys.shape
    rows = keys.swapaxes(0, 1)
    if columns < _LONG_ROW:
        rows = room.of("rows", rows.shape, keys.dtype)
        np.copyto(rows, keys.swapaxes(0, 1))
    half = (m // 2, groups, columns)
    best = np.maximum(rows[: m // 2], rows[m // 2 :], out=room.of("best", half, keys.dtype))
    second = np.minimum(rows[: m // 2], rows[m // 2 :], out=room.of("second", half, keys.dtype))
    while len(best) > 1:
        pairs = len(best) // 2
        loser = np.minimum(best[:pairs], best[pairs:], out=room.of("loser", best[:pairs].shape, keys.dtype))
        best = np.maximum(best[:pairs], best[pairs:], out=best[:pairs])
        second = np.maximum(second[:pairs], second[pairs:], out=second[:pairs])
        second = np.maximum(second, loser, out=second)
    stays = np.greater_equal(rows, second, out=room.of("stays", (m, groups, columns), np.bool_))
    if np.count_nonzero(stays) != 2 * groups * columns:
        # A few groups have several numbers that equal the second highest; the first of them stay.
        counts = np.add.reduce(stays.view(np.uint8), axis=0, dtype=np.uint16)
        group, column = np.nonzero(counts > 2)
        tied = np.ascontiguousarray(keys[group, :, column])[:, :, None]
        stays[:, group, column] = (_beaten(tied, _Room()) < 2)[:, :, 0].T
    np.copyto(kept, stays.swapaxes(0, 1))


def _beaten(keys: Array, room: _Room) -> Array:
    """Count, for each element of (groups, M, columns), the others of its group that go before it."""
    start, same_group = _constants(*keys.shape)
    flat, step = keys.reshape(-1), keys.shape[2]
    beaten = room.of("beaten", flat.shape, start.dtype)
    np.copyto(beaten, start)
    for shift, same in enumerate(same_group, start=1):
        gap = shift * step
        ahead = room.of("ahead", (flat.size - gap,), np.bool_)
        np.greater_equal(flat[:-gap], flat[gap:], out=ahead)
        ones = ahead.view(np.uint8)
        np.bitwise_and(ones, same[:-gap], out=ones)
        np.add(beaten[gap:], ones, out=beaten[gap:])
        np.subtract(beaten[:-gap], ones, out=beaten[:-gap])
    return beaten.reshape(keys.shape)


def _beaten_in_rows(keys: Array, room: _Room) -> Array:
    """Count as `_beaten` does, for rows long enough that numpy goes through them one by one."""
    groups, m, columns = keys.shape
    beaten = room.of("beaten", keys.shape, _count_type(m))
    beaten[...] = _later(m)
    for shift in range(1, m):
        ahead = room.of("ahead", (groups, m - shift, columns), np.bool_)
        np.greater_equal(keys[:, :-shift], keys[:, shift:], out=ahead)
        ones = ahead.view(np.uint8)
        np.add(beaten[:, shift:], ones, out=beaten[:, shift:])
        np.subtract(beaten[:, :-shift], ones, out=beaten[:, :-shift])
    return beaten


@functools.lru_cache(maxsize=4)
def _constants(groups: int, m: int, columns: int) -> tuple[Array, npt.NDArray[np.uint8]]:
    """Count the later elements of each one's group; and, per shift, mark neighbours inside the group by 1."""
    start = np.empty((groups, m, columns), _count_type(m))
    start[...] = _later(m)
    same = np.zeros((m - 1, groups, m, columns), np.uint8)
    for shift in range(1, m):
        same[shift - 1, :, :-shift] = 1
    start.flags.writeable = same.flags.writeable = False
    return start.reshape(-1), same.reshape(m - 1, start.size)


def _count_type(m: int) -> type[np.unsignedinteger[Any]]:
    return np.uint8 if m <= 256 else np.uint32


def _later(m: int) -> Array:
    """Return (M, 1): how many elements follow each; every one that it is not ahead of beats it."""
    return np.arange(m - 1, -1, -1, dtype=_count_type(m))[:, None]
