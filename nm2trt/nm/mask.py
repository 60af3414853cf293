"""N:M masks and the check of a pattern, in numpy; `nm2trt.nm.torch_mask` keeps the same contract.

A tensor is N:M sparse along an axis when every group of M consecutive elements on that axis holds at
most N non-zeros. Both functions see a C-contiguous tensor as (outer, length, inner), where `inner` is
the product of the dimensions after the axis: elements that are neighbours on the axis lie `inner`
apart in memory. Comparing the flat tensor with itself, shifted by a multiple of `inner`, then compares
neighbours for all groups at once, at the speed of memory.
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.errors import PatternError
from nm2trt.figures import counted
from nm2trt.nm.block_ranks import set_mask
from nm2trt.nm.pattern import NMPattern

# The arrays of one step then stay in a core's second-level cache.
_CHUNK_ELEMENTS = 1 << 18
# Unsigned integers of as many bytes as a group has elements.
_WORDS: dict[int, type[np.unsignedinteger[Any]]] = {2: np.uint16, 4: np.uint32, 8: np.uint64}
# Elements from which one row after the other is faster than all windows of a block.
_LONG_ROW = 128


@dataclass(frozen=True, slots=True)
class GroupCheck:
    """How far a tensor holds a pattern along an axis.

    Args:
        groups: Groups of M in the tensor.
        broken: Groups with more than N non-zeros.
        worst: Most non-zeros seen in one group; 0 in an empty tensor.
        first_broken: Index in the tensor of the first element of the first broken group, in C order, or None.
        zeros: Elements that equal zero (-0.0 does).
        size: Elements in the tensor.
    """

    groups: int
    broken: int
    worst: int
    first_broken: tuple[int, ...] | None
    zeros: int
    size: int

    @property
    def holds(self) -> bool:
        """Whether no group is broken."""
        return self.broken == 0


def check_groupable(shape: tuple[int, ...], pattern: NMPattern, *, axis: int) -> int:
    """Return `axis` as a non-negative number when `pattern` divides it.

    Raises:
        PatternError: The axis does not exist, or its length is not a multiple of M.
    """
    if not -len(shape) <= axis < len(shape):
        raise PatternError(f"shape {shape} has no axis {axis}; it has {counted(len(shape), 'dimension')}")
    length = shape[axis]
    if length % pattern.m:
        raise PatternError(
            f"axis {axis} of shape {shape} has {length} elements, not a multiple of {pattern.m}; "
            "leave this layer dense or pad its input channels"
        )
    return axis % len(shape)


def nm_mask(
    score: npt.ArrayLike, pattern: NMPattern, *, axis: int, magnitude: bool = False
) -> npt.NDArray[np.bool_]:
    """Mark the `pattern.n` highest scores in every group of `pattern.m` along `axis`.

    Args:
        score: Importance of each weight, any real dtype and rank; higher is kept. `abs(weight)`
            gives magnitude pruning. NaN ranks with minus infinity.
        pattern: `NMPattern(2, 4)` keeps 2 of every 4.
        axis: Reduction axis, e.g. 1 for a Conv weight of shape (O, I, kH, kW).
        magnitude: Rank floats by their magnitude, without a copy of them; integers are scores all the same.

    Returns:
        Boolean array of `score`'s shape, exactly N True in each group. Equal scores keep the lower index.

    Raises:
        PatternError: The length of `axis` is not a multiple of `pattern.m`.
    """
    score = np.ascontiguousarray(score)
    axis = check_groupable(score.shape, pattern, axis=axis)
    mask = np.empty(score.shape, dtype=np.bool_)
    set_mask(score, mask, pattern, inner=math.prod(score.shape[axis + 1 :]), magnitude=magnitude)
    return mask


def check(weight: npt.ArrayLike, pattern: NMPattern, *, axis: int) -> GroupCheck:
    """Count the groups of `pattern.m` along `axis` that hold more than `pattern.n` non-zeros.

    Args:
        weight: Any dtype and rank. -0.0 is zero; NaN and infinities are not.
        pattern: The pattern to hold.
        axis: Reduction axis, e.g. 1 for a Conv weight of shape (O, I, kH, kW).

    Raises:
        PatternError: The length of `axis` is not a multiple of `pattern.m`.
    """
    weight = np.ascontiguousarray(weight)
    axis = check_groupable(weight.shape, pattern, axis=axis)
    inner = math.prod(weight.shape[axis + 1 :])
    flat = weight.reshape(-1)
    unit = pattern.m * inner or 1
    step = max(1, _CHUNK_ELEMENTS // unit) * unit
    checker = GroupChecker(pattern, inner=inner)
    nonzeros = 0
    for start in range(0, flat.size, step):
        present = flat[start : start + step] != 0
        nonzeros += int(np.count_nonzero(present))
        checker.update(present)
    first = checker.first_broken
    return GroupCheck(
        groups=checker.groups,
        broken=checker.broken,
        worst=checker.worst,
        first_broken=None if first is None else tuple(int(i) for i in np.unravel_index(first, weight.shape)),
        zeros=flat.size - nonzeros,
        size=flat.size,
    )


class GroupChecker:
    """Counts broken groups of a tensor that comes in pieces, flat and in order.

    Args:
        pattern: The pattern to hold.
        inner: Distance between neighbours on the reduction axis.

    Attributes:
        groups: Groups seen.
        broken: Those with more than N non-zeros.
        worst: Most non-zeros seen in one group.
        first_broken: Flat index of the first broken group's first element, or None.
    """

    def __init__(self, pattern: NMPattern, *, inner: int) -> None:
        self.pattern = pattern
        self.inner = inner
        self.groups = self.broken = self.worst = 0
        self.first_broken: int | None = None
        self._seen = 0

    def update(self, present: npt.NDArray[np.bool_]) -> None:
        """Take the next piece: True where a weight is not zero; whole blocks of M * inner elements."""
        if present.size == 0:
            return
        m, inner = self.pattern.m, self.inner
        sums, shift, places = _group_sums(present, m, inner)
        worst = int(sums.max()) >> shift
        if worst > self.pattern.n:
            bad = sums >> sums.dtype.type(shift) > self.pattern.n
            if self.first_broken is None:
                first = int(bad.argmax())
                if not places:
                    first = (first // inner) * m * inner + first % inner
                self.first_broken = self._seen + first
            self.broken += int(np.count_nonzero(bad))
        self.worst = max(self.worst, worst)
        self.groups += present.size // m
        self._seen += present.size


def _group_sums(present: npt.NDArray[np.bool_], m: int, inner: int) -> tuple[Array, int, bool]:
    """Count the True of each group.

    Returns:
        Integers whose highest bits, after so many lower ones, are the counts: one per group in the order of
        the groups' first elements, and False; or, with zeros between them, each at the place of its group's
        first element, and True.
    """
    ones = present.view(np.uint8)
    word = _WORDS.get(m) if inner == 1 else None
    if word is not None:
        # The bytes of a group are one integer; times 0x01...01, its highest byte is their sum.
        groups = ones.view(word)
        sums = scratch("sums", groups.size, word)
        ones_of_bytes = word(int.from_bytes(b"\1" * m, "little"))
        return np.multiply(groups, ones_of_bytes, out=sums), 8 * (m - 1), False
    if inner >= _LONG_ROW and m <= 255:
        rows = ones.reshape(-1, m, inner)
        sums = scratch("sums", present.size // m, np.uint8).reshape(-1, inner)
        sums[...] = rows[:, 0]
        for row in range(1, m):
            np.add(sums, rows[:, row], out=sums)
        return sums.reshape(-1), 0, False
    counts = _window_sums(ones.astype(np.uint32) if m > 255 else ones, m, inner)
    # A window starts at every element; those that start a group are the first `inner` of each m * inner.
    if counts.dtype == np.uint8:
        starts = _starts(present.size, m, inner)[: counts.size]
        return np.bitwise_and(counts, starts, out=scratch("sums", counts.size, np.uint8)), 0, True
    head = counts.size - inner
    starts = counts[:head].reshape(-1, m, inner)[:, 0].reshape(-1)
    return np.concatenate([starts, counts[head:]]), 0, False


class _Scratch(threading.local):
    def __init__(self) -> None:
        self.arrays: dict[tuple[str, npt.DTypeLike], Array] = {}


_SCRATCH = _Scratch()


def scratch(use: str, size: int, dtype: npt.DTypeLike) -> Array:
    """Return an uninitialised array that the thread's next call for the same use overwrites.

    New memory for every step would cost the system more than the step.
    """
    if size > 2 * _CHUNK_ELEMENTS:
        return np.empty(size, dtype)
    key = use, dtype
    held = _SCRATCH.arrays.get(key)
    if held is None or held.size < size:
        held = _SCRATCH.arrays[key] = np.empty(max(size, _CHUNK_ELEMENTS), dtype)
    return held[:size]


@functools.lru_cache(maxsize=8)
def _starts(size: int, m: int, inner: int) -> npt.NDArray[np.uint8]:
    """Return 255 at the first `inner` of every m * inner elements, else 0."""
    starts = np.zeros(size, np.uint8)
    starts.reshape(-1, m, inner)[:, 0] = 255
    starts.flags.writeable = False
    return starts


def _window_sums(counts: Array, m: int, inner: int) -> Array:
    """Sum `m` elements, `inner` apart, from each element on, in log2(m) additions."""
    doubled, width = counts, 1
    total, have = counts[:0], 0
    while True:
        if m & width:
            if have:
                shifted = doubled[have * inner :]
                total = total[: shifted.size] + shifted
            else:
                total = doubled
            have += width
        if have == m:
            return total
        left, right = doubled[: -width * inner], doubled[width * inner :]
        room = scratch(f"windows of {2 * width}", left.size, counts.dtype)
        doubled = np.add(left, right, out=room)
        width *= 2
