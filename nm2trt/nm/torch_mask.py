"""N:M masks in torch, with the contract of `nm2trt.nm.mask`; it runs at every optimizer step.

The method is the numpy module's: the tensor, flat in memory order, is compared with itself shifted by
1 .. M-1 neighbours on the axis, and each element counts those that beat it. Every operation runs over
contiguous memory, in blocks that stay in the cache, which is several times faster than sorting groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from nm2trt.nm.mask import check_groupable
from nm2trt.nm.pattern import NMPattern

__all__ = ["magnitude_mask", "nm_mask"]

_CPU_BLOCK_ELEMENTS = 1 << 18
# A GPU has no cache to stay in; larger blocks keep the number of kernel launches small.
_GPU_BLOCK_ELEMENTS = 1 << 22

# Smaller floats are widened: few have comparisons of their own.
_COMPARED_BYTES = 4


def nm_mask(score: Tensor, pattern: NMPattern, *, axis: int) -> Tensor:
    """Mark the `pattern.n` highest scores in every group of `pattern.m` along `axis`.

    Args:
        score: Importance of each weight, any real dtype, rank and memory format; higher is kept.
            NaN ranks with minus infinity.
        pattern: `NMPattern(2, 4)` keeps 2 of every 4.
        axis: Reduction axis, e.g. 1 for a Conv weight of shape (O, I, kH, kW).

    Returns:
        Boolean mask of `score`'s shape, device and memory format, exactly N True in each group. Equal
        scores keep the lower index, so a CPU and a GPU give the same mask.

    Raises:
        PatternError: The length of `axis` is not a multiple of `pattern.m`.
    """
    return _mask(score, pattern, axis, magnitude=False)


def magnitude_mask(weight: Tensor, pattern: NMPattern, *, axis: int) -> Tensor:
    """Return `nm_mask(weight.abs(), pattern, axis=axis)` without a tensor of absolute values."""
    return _mask(weight, pattern, axis, magnitude=True)


@torch.no_grad()
def _mask(score: Tensor, pattern: NMPattern, axis: int, *, magnitude: bool) -> Tensor:
    axis = check_groupable(tuple(score.shape), pattern, axis=axis)
    score = score.detach()
    # Dimensions from outermost to innermost in memory: channels_last tensors need no copy.
    strides = score.stride()
    order = sorted(range(score.ndim), key=lambda dim: (-strides[dim], -score.shape[dim], dim))
    dense = score.permute(order)
    if not dense.is_contiguous():
        order = list(range(score.ndim))
        dense = score.contiguous()
    mask = torch.empty(dense.shape, dtype=torch.bool, device=score.device)
    where = order.index(axis)
    inner = math.prod(dense.shape[where + 1 :])
    limit = _CPU_BLOCK_ELEMENTS if score.device.type == "cpu" else _GPU_BLOCK_ELEMENTS
    valid = torch.empty(0)
    for block, out in zip(
        _blocks(dense, pattern.m, inner, limit), _blocks(mask, pattern.m, inner, limit), strict=True
    ):
        if valid.shape[1:] != block.shape:  # only the last block of a row may be smaller
            valid = _same_group(block.shape, score.device)
        beaten = _beaten(_ordered(block, magnitude=magnitude), valid)
        # Into the dtype it comes from: torch's vectorised comparison, ten times its boolean one on a CPU.
        torch.lt(beaten, pattern.n, out=out.view(beaten.dtype) if beaten.dtype == torch.uint8 else out)
    inverse = sorted(range(score.ndim), key=order.__getitem__)
    return mask.permute(inverse)


def _blocks(tensor: Tensor, m: int, inner: int, limit: int) -> Iterator[Tensor]:
    """Cut a contiguous tensor into views (groups, m, columns) of about `limit` elements."""
    if tensor.numel() == 0:
        return
    groups = tensor.view(-1, m, inner)
    rows = max(1, limit // (m * inner))
    columns = min(inner, max(1, limit // m))
    for row in range(0, len(groups), rows):
        for column in range(0, inner, columns):
            yield groups[row : row + rows, :, column : column + columns]


def _same_group(shape: torch.Size, device: torch.device) -> Tensor:
    """Row `shift - 1` marks the elements whose neighbour `shift` further on belongs to their group."""
    m = shape[1]
    valid = torch.zeros(m - 1, *shape, dtype=torch.bool, device=device)
    for shift in range(1, m):
        valid[shift - 1, :, : m - shift] = True
    return valid


def _beaten(score: Tensor, valid: Tensor) -> Tensor:
    """Count, for each element of (groups, M, columns), the others of its group that go before it."""
    flat = score.view(-1)
    beaten = torch.zeros_like(flat, dtype=torch.uint8 if score.shape[1] <= 256 else torch.int32)
    buffer = torch.empty_like(flat, dtype=torch.bool)
    for shift, same_group in enumerate(valid, start=1):
        gap = shift * score.shape[2]
        same = same_group.view(-1)[:-gap]
        ahead = torch.ge(flat[:-gap], flat[gap:], out=buffer[:-gap])
        ahead &= same
        beaten[gap:] += ahead.view(torch.uint8)
        ahead ^= same
        beaten[:-gap] += ahead.view(torch.uint8)
    return beaten.view(score.shape)


def _ordered(block: Tensor, *, magnitude: bool) -> Tensor:
    """Return a contiguous copy in which every pair compares: NaN ranks lowest, half precision widens."""
    if block.is_floating_point() and block.element_size() < _COMPARED_BYTES:
        block = block.float()
    if magnitude:
        block = block.abs() if block.is_floating_point() else _integer_magnitude(block)
    # A sum is the cheapest sign of a NaN on a CPU; on a GPU reading it would wait for the device.
    if block.is_floating_point() and (block.device.type != "cpu" or bool(block.sum().isnan())):
        block = torch.where(block.isnan(), -math.inf, block)
    return block.contiguous()


def _integer_magnitude(block: Tensor) -> Tensor:
    """Return magnitudes in a type that holds them: |-128| is no int8."""
    if not block.dtype.is_signed:
        return block
    wide = block.long()
    # |-2**63| is beyond every integer type; it counts as one less.
    return wide.clamp(min=-torch.iinfo(torch.int64).max).abs()
