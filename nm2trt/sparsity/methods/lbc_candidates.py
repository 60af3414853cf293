"""Candidates of LBC: every choice of N of M, how many are left at a step, and the packed winners."""

from __future__ import annotations

import math
from itertools import combinations

import torch
from torch import Tensor, nn

from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.methods.mask_schedule import still_to_go


def candidates(pattern: NMPattern) -> Tensor:
    """Return every choice of N of M in lexicographic order: float32 (C, M), 1 if a member."""
    table = torch.zeros(math.comb(pattern.m, pattern.n), pattern.m, dtype=torch.float32)
    for row, members in enumerate(combinations(range(pattern.m), pattern.n)):
        table[row, list(members)] = 1
    return table


def survivors(step: int, *, end_step: int, count: int, exponent: float = 3.0) -> int:
    """Return r(t), how many of `count` candidates are left at a step; steps outside 0..end are clamped."""
    return 1 + still_to_go(count - 1, step, end_step, exponent)


def pack_winners(alive: Tensor) -> Tensor:
    """Pack the one survivor of each group into ceil(log2 C) bits: uint8, from bool (G, C)."""
    bits = _bits(alive.shape[1])
    index = alive.to(torch.uint8).argmax(dim=1)
    flags = (index[:, None] >> torch.arange(bits, device=alive.device)) & 1
    flat = torch.nn.functional.pad(flags.flatten(), (0, -flags.numel() % 8)).view(-1, 8)
    return (flat << torch.arange(8, device=alive.device)).sum(dim=1).to(torch.uint8)


def unpack_winners(packed: Tensor, *, groups: int, count: int) -> Tensor:
    """Return bool (groups, count), one True per row, from what `pack_winners` returned."""
    bits = _bits(count)
    flags = (packed[:, None].long() >> torch.arange(8, device=packed.device)) & 1
    flags = flags.flatten()[: groups * bits].view(groups, bits)
    index = (flags << torch.arange(bits, device=packed.device)).sum(dim=1)
    return nn.functional.one_hot(index, count).bool()


def union_of_winners(alive: Tensor, weight: Tensor, members: Tensor, *, axis: int) -> Tensor:
    """Return the mask of the candidates that are left, of the weight's shape, from bool (G, C).

    Args:
        alive: Bool (G, C): candidates that are left in each group.
        weight: Gives shape and layout.
        members: The candidates, (C, M).
        axis: Reduction axis.
    """
    return from_groups((alive.to(members.dtype) @ members) > 0, weight, axis)


def _bits(count: int) -> int:
    return max(0, count - 1).bit_length()


def to_groups(tensor: Tensor, m: int, axis: int) -> Tensor:
    """Return the groups of a weight, (G, M)."""
    return tensor.movedim(axis, -1).reshape(-1, m)


def from_groups(groups: Tensor, like: Tensor, axis: int) -> Tensor:
    """Return groups (G, M) in the layout of a weight."""
    lines = like.movedim(axis, -1).shape
    return groups.reshape(lines).movedim(-1, axis)
