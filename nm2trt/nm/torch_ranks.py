"""Masks of contiguous tensors in eager torch, as `nm2trt.nm.block_ranks` makes them in numpy.

The tensor, flat in memory order, is compared with itself shifted by 1 .. M-1 neighbours on the axis, and each
element counts those that beat it. Every operation runs over contiguous memory, in blocks that stay in the
cache, which is several times faster than sorting groups.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from nm2trt.nm.block_ranks import blocks
from nm2trt.nm.pattern import NMPattern

CPU_BLOCK_ELEMENTS = 1 << 18
# A GPU has no cache to stay in; larger blocks keep the number of kernel launches small.
_GPU_BLOCK_ELEMENTS = 1 << 22

# Smaller floats are widened: few have comparisons of their own.
_COMPARED_BYTES = 4


def set_mask_eagerly(dense: Tensor, mask: Tensor, pattern: NMPattern, inner: int, *, magnitude: bool) -> None:
    """Write the mask of a contiguous tensor block by block.

    Args:
        dense: Scores or weights; its reduction axis has `inner` elements after it in memory.
        mask: Bool, of the same shape, contiguous.
        pattern: The pattern.
        inner: Distance of neighbours on the reduction axis.
        magnitude: Rank absolute values.
    """
    if dense.numel() == 0:
        return
    limit = CPU_BLOCK_ELEMENTS if dense.device.type == "cpu" else _GPU_BLOCK_ELEMENTS
    valid = torch.empty(0)
    groups, kept = dense.view(-1, pattern.m, inner), mask.view(-1, pattern.m, inner)
    for block, out in zip(blocks(groups, limit), blocks(kept, limit), strict=True):
        if valid.shape[1:] != block.shape:  # only the last block of a row may be smaller
            valid = _same_group(block.shape, dense.device)
        beaten = _beaten(_ordered(block, magnitude=magnitude), valid)
        # Into the dtype it comes from: torch's vectorised comparison, ten times its boolean one on a CPU.
        torch.lt(beaten, pattern.n, out=out.view(beaten.dtype) if beaten.dtype == torch.uint8 else out)


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
        block = block.abs() if block.is_floating_point() else integer_magnitude(block)
    # A sum is the cheapest sign of a NaN on a CPU; on a GPU reading it would wait for the device.
    if block.is_floating_point() and (block.device.type != "cpu" or bool(block.sum().isnan())):
        block = torch.where(block.isnan(), -math.inf, block)
    return block.contiguous()


def integer_magnitude(block: Tensor) -> Tensor:
    """Return magnitudes of integers in a type that holds them: int8 cannot hold 128."""
    if not block.dtype.is_signed:
        return block
    wide = block.long()
    # |-2**63| is beyond every integer type; it counts as one less.
    return wide.clamp(min=-torch.iinfo(torch.int64).max).abs()
