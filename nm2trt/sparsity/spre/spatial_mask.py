"""SpRe's spatial mask: the kernel positions that unstructured pruning would keep denser than the rest.

Per layer, from the dense weight W of shape (O, I/g, k...) and the pattern's sparsity p = 1 - N/M: the
floor(n p) smallest magnitudes of the whole layer are pruned, s[k] is the share of them at kernel position
k, and the mask is true where s[k] < p, strictly.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from nm2trt.nm.pattern import NMPattern


@torch.no_grad()
def pruned_counts(weight: Tensor, pattern: NMPattern) -> Tensor:
    """Count, by kernel position, what layer-wide magnitude pruning at the pattern's sparsity removes.

    Args:
        weight: (O, I/g, k...), at least one kernel dimension; equal magnitudes go in memory order.
        pattern: Gives the sparsity, (M - N) / M.

    Returns:
        int64, of shape (k...); the counts add up to floor(n (M - N) / M).
    """
    positions = weight.shape[2:]
    magnitude = weight.detach().abs().reshape(-1)
    count = magnitude.numel() * (pattern.m - pattern.n) // pattern.m
    if count == 0:
        return torch.zeros(positions, dtype=torch.int64, device=weight.device)
    limit = _smallest(magnitude, count)
    pruned = magnitude < limit
    missing = count - torch.count_nonzero(pruned)
    tied = magnitude == limit
    pruned |= tied & (tied.cumsum(0, dtype=torch.int32) <= missing)
    # A matrix product with ones is far faster than a sum of bools over the leading dimensions.
    lines = pruned.view(-1, math.prod(positions)).float()
    return (lines.new_ones(1, len(lines)) @ lines).round().long().view(positions)


def spatial_mask(weight: Tensor, pattern: NMPattern) -> Tensor:
    """Return S: bool of shape (k...), true where a position is denser than N/M after pruning.

    A kernel of one position has exactly the average density, so it gets false.
    """
    lines = weight.shape[0] * weight.shape[1]
    # Whole numbers: a position of exactly the average density must not pass by rounding.
    return pruned_counts(weight, pattern) * pattern.m < (pattern.m - pattern.n) * lines


def _smallest(magnitude: Tensor, count: int) -> Tensor:
    """Return the `count`-th smallest element, 0-dim."""
    if magnitude.device.type == "cpu" and magnitude.dtype in (torch.float32, torch.float64):
        # numpy's selection is about twenty times as fast as kthvalue here.
        values = np.partition(magnitude.numpy(), count - 1)
        return torch.as_tensor(values[count - 1], dtype=magnitude.dtype)
    return magnitude.kthvalue(count).values
