"""GPU kernels in the Triton language: an N:M mask in one launch, and the decay of pruned entries in one.

Eager torch reads and writes a weight about thirty times for a mask; a kernel reads it once. The masks are
those of eager torch, bit for bit: equal scores keep the lower index, NaN ranks with minus infinity. Half
precision is compared in float32, and in groups of four neighbours by its bits, a group in one word of memory.

Call `nm2trt.nm.torch_mask`, not this module: it takes eager torch wherever these kernels cannot run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # torch's CPU builds come without it
    triton = tl = None

# Whether `triton` is installed; nothing else of this module works without it.
AVAILABLE = triton is not None

# A kernel for 3:16 took over 12 seconds to compile.
_MOST_M = 8
_BLOCK = 512
# Offsets are 32-bit: 64-bit divisions are several times slower.
_MOST_ELEMENTS = 2**31 - 2**20
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32)

# Groups of four neighbours of 16 bits are words of 64; the bits of infinity tell NaN from numbers.
_PACKED_M = 4
_INFINITY = {torch.float16: 0x7C00, torch.bfloat16: 0x7F80}

# Triton reads a kernel's annotations and takes no other than its own, so the kernels have no types.


def _jit(function: Any) -> Any:
    return triton.jit(function) if AVAILABLE else function


@_jit
def _rankable(value, kind: tl.constexpr, magnitude: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return values of which every pair compares, as `torch_mask` does for eager torch."""
    if kind == "half":
        value = value.to(tl.float32)
    if magnitude:
        if kind == "integer":
            value = value.to(tl.int64)  # int8 cannot hold 128
        value = tl.abs(value)
    if kind != "integer":
        value = tl.where(value != value, float("-inf"), value)
    return value


@_jit
def _keep(at, before, inside, n: tl.constexpr, count: tl.constexpr):  # type: ignore[no-untyped-def]
    """Keep elements that fewer than N go before; return which entries of the mask change, if they count."""
    kept = (before < n).to(tl.uint8)
    changed = tl.zeros_like(before)
    if count:
        old = tl.load(at, mask=inside, other=0)
        changed = ((old != kept) & inside).to(tl.int32)
    tl.store(at, kept, mask=inside)
    return changed


@_jit
def _mask_kernel(  # type: ignore[no-untyped-def]
    score,
    mask,
    flips,
    columns,
    inner,
    n: tl.constexpr,
    m: tl.constexpr,
    kind: tl.constexpr,
    magnitude: tl.constexpr,
    count: tl.constexpr,
    block: tl.constexpr,
):
    """Rank each group of M: an element is kept if fewer than N others of its group go before it."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    inside = column < columns
    first = (column // inner) * (m * inner) + column % inner
    changed = tl.zeros([block], tl.int32)
    if m == 4:
        # Each element is read once, each pair compared once: a fourth of the loads of the loop below.
        at0, at1, at2, at3 = first, first + inner, first + 2 * inner, first + 3 * inner
        v0 = _rankable(tl.load(score + at0, mask=inside, other=0), kind, magnitude)
        v1 = _rankable(tl.load(score + at1, mask=inside, other=0), kind, magnitude)
        v2 = _rankable(tl.load(score + at2, mask=inside, other=0), kind, magnitude)
        v3 = _rankable(tl.load(score + at3, mask=inside, other=0), kind, magnitude)
        b01, b02, b03 = (v0 >= v1).to(tl.int32), (v0 >= v2).to(tl.int32), (v0 >= v3).to(tl.int32)
        b12, b13, b23 = (v1 >= v2).to(tl.int32), (v1 >= v3).to(tl.int32), (v2 >= v3).to(tl.int32)
        changed += _keep(mask + at0, 3 - b01 - b02 - b03, inside, n, count)
        changed += _keep(mask + at1, 2 + b01 - b12 - b13, inside, n, count)
        changed += _keep(mask + at2, 1 + b02 + b12 - b23, inside, n, count)
        changed += _keep(mask + at3, b03 + b13 + b23, inside, n, count)
        if count:
            tl.atomic_add(flips, tl.sum(changed, axis=0).to(tl.int64))
        return
    for place in tl.static_range(m):
        own = _rankable(tl.load(score + first + place * inner, mask=inside, other=0), kind, magnitude)
        before = tl.zeros([block], tl.int32)
        for rival in tl.static_range(m):
            if rival != place:
                # Loaded again for each place, out of the nearest cache: Triton has no arrays of registers.
                other = _rankable(
                    tl.load(score + first + rival * inner, mask=inside, other=0), kind, magnitude
                )
                if rival < place:
                    before += (other >= own).to(tl.int32)
                else:
                    before += (other > own).to(tl.int32)
        changed += _keep(mask + first + place * inner, before, inside, n, count)
    if count:
        tl.atomic_add(flips, tl.sum(changed, axis=0).to(tl.int64))


@_jit
def _key(bits, infinity: tl.constexpr, magnitude: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return integers in the order of 16-bit floats, which are the lower bits; NaN is minus infinity."""
    size = bits & 0x7FFF
    if magnitude:
        return tl.where(size > infinity, -1, size)
    signed = tl.where((bits & 0x8000) != 0, -size, size)
    return tl.where(size > infinity, -infinity, signed)


@_jit
def _packed_kernel(  # type: ignore[no-untyped-def]
    words,
    packs,
    flips,
    columns,
    n: tl.constexpr,
    infinity: tl.constexpr,
    magnitude: tl.constexpr,
    count: tl.constexpr,
    block: tl.constexpr,
):
    """Rank groups of four neighbours of 16 bits: one word is a group, one store its part of the mask."""
    column = tl.program_id(0) * block + tl.arange(0, block)
    inside = column < columns
    word = tl.load(words + column, mask=inside, other=0)
    low, high = word.to(tl.int32), (word >> 32).to(tl.int32)
    v0, v1 = _key(low, infinity, magnitude), _key(low >> 16, infinity, magnitude)
    v2, v3 = _key(high, infinity, magnitude), _key(high >> 16, infinity, magnitude)
    b01, b02, b03 = (v0 >= v1).to(tl.int32), (v0 >= v2).to(tl.int32), (v0 >= v3).to(tl.int32)
    b12, b13, b23 = (v1 >= v2).to(tl.int32), (v1 >= v3).to(tl.int32), (v2 >= v3).to(tl.int32)
    kept = ((3 - b01 - b02 - b03) < n).to(tl.int32) | (((2 + b01 - b12 - b13) < n).to(tl.int32) << 8)
    kept |= (((1 + b02 + b12 - b23) < n).to(tl.int32) << 16) | (((b03 + b13 + b23) < n).to(tl.int32) << 24)
    if count:
        changed = tl.load(packs + column, mask=inside, other=0) ^ tl.where(inside, kept, 0)
        changed = (changed & 1) + ((changed >> 8) & 1) + ((changed >> 16) & 1) + ((changed >> 24) & 1)
        tl.atomic_add(flips, tl.sum(changed, axis=0).to(tl.int64))
    tl.store(packs + column, kept, mask=inside)


@_jit
def _decay_kernel(  # type: ignore[no-untyped-def]
    target, values, mask, factor, count, block: tl.constexpr
):
    """Add `factor * (1 - mask) * values` to `target`."""
    place = tl.program_id(0) * block + tl.arange(0, block)
    inside = place < count
    into = tl.load(target + place, mask=inside, other=0)
    pruned = 1 - tl.load(mask + place, mask=inside, other=0).to(tl.int32)
    added = tl.load(values + place, mask=inside, other=0).to(tl.float32) * pruned.to(tl.float32)
    tl.store(target + place, (into.to(tl.float32) + factor * added).to(into.dtype), mask=inside)


def can_rank(score: Tensor, m: int) -> bool:
    """Tell whether `set_mask` takes a tensor and a group size."""
    known = score.dtype in _FLOATS or score.dtype in _INTEGERS
    return known and 1 < m <= _MOST_M and 0 < score.numel() <= _MOST_ELEMENTS


def set_mask(
    score: Tensor, mask: Tensor, *, n: int, m: int, inner: int, magnitude: bool, flips: Tensor | None = None
) -> None:
    """Write the mask of a contiguous tensor whose group members lie `inner` apart.

    Args:
        score: Contiguous, float or integer; see `can_rank`.
        mask: Bool, contiguous, of as many elements; overwritten.
        n: Kept of each group.
        m: Elements of a group.
        inner: Distance between neighbours of a group.
        magnitude: Rank by absolute value.
        flips: int64, 0-dim; the number of entries that change is added to it.
    """
    columns = score.numel() // m
    kind = "integer" if score.dtype in _INTEGERS else "half" if score.element_size() == 2 else "float"
    raw = mask.view(torch.uint8)
    count = flips is not None
    if (
        m == _PACKED_M
        and inner == 1
        and score.dtype in _INFINITY
        and _is_aligned(score, 8)
        and _is_aligned(raw, 4)
    ):
        _packed_kernel[triton.cdiv(columns, _BLOCK),](
            score.view(-1).view(torch.int64),
            raw.view(-1).view(torch.int32),
            flips if count else raw,
            columns,
            n=n,
            infinity=_INFINITY[score.dtype],
            magnitude=magnitude,
            count=count,
            block=_BLOCK,
        )
        return
    _mask_kernel[triton.cdiv(columns, _BLOCK),](
        score,
        raw,
        flips if count else raw,
        columns,
        inner,
        n=n,
        m=m,
        kind=kind,
        magnitude=magnitude,
        count=count,
        block=_BLOCK,
    )


def _is_aligned(tensor: Tensor, size: int) -> bool:
    """Tell whether a contiguous tensor may be read in words of some bytes."""
    begin = tensor.storage_offset() * tensor.element_size()
    return begin % size == 0 and tensor.data_ptr() % size == 0


def add_pruned(target: Tensor, values: Tensor, mask: Tensor, factor: float) -> None:
    """Add `factor * (1 - mask) * values` to `target`; all three flat and contiguous, floats below 64 bits."""
    count = target.numel()
    _decay_kernel[triton.cdiv(count, 1024),](
        target, values, mask.view(torch.uint8), float(factor), count, block=1024
    )
