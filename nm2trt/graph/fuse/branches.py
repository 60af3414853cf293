"""Parallel branches as convolutions of one kernel: aligned, added, and held to the pattern they had.

A branch reads x and adds to one sum. A convolution is itself, with smaller kernels placed where they
stand in the larger one; a BatchNormalization is a diagonal 1x1 kernel; the identity is one of ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import LineageError
from nm2trt.graph.edit.graph_view import Declined
from nm2trt.graph.fuse.batchnorm import Affine, rounded
from nm2trt.graph.fuse.kernel_geometry import Geometry, kernel_offset
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PlanEntry

# Looked for in this order if no plan names a pattern.
_KNOWN = tuple(NMPattern(n, m) for n, m in ((2, 4), (4, 8), (8, 16), (16, 32), (3, 4)))


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One branch as a convolution.

    Args:
        label: Its node, for messages.
        weight: (O, I/g, k...) float64.
        dtype: The model's dtype, to which a result is rounded once.
        bias: (O,) float64.
        geometry: Where its kernel reads; a dilation means nothing where the kernel is 1.
        patterns: The patterns that it holds and that a merge must keep.
        names: Names of the stored weights that it is made of.
        sizes: Spatial size of x if known; padding may be compared with its help.
    """

    label: str
    weight: Array
    dtype: np.dtype[Any]
    bias: Array
    geometry: Geometry
    patterns: tuple[NMPattern, ...]
    names: tuple[str, ...]
    sizes: tuple[int | None, ...]

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial size of the weight."""
        return tuple(self.weight.shape[2:])


def diagonal(like: Branch, label: str, affine: Affine | None) -> Branch:
    """Return the identity, or a BatchNormalization, as a 1x1 convolution with the groups of another branch.

    Raises:
        Declined: The other branch changes the number of channels.
    """
    outputs, inputs = like.weight.shape[:2]
    if inputs * like.geometry.group != outputs:
        raise Declined(f"{like.label} turns {inputs * like.geometry.group} channels into {outputs}")
    if affine is not None and affine.scale.size != outputs:
        raise Declined(f"it has {affine.scale.size} channels, {like.label} has {outputs}")
    rank = len(like.kernel)
    ones, zeros = (1,) * rank, (0,) * rank
    weight = np.zeros((outputs, inputs), np.float64)
    channels = np.arange(outputs)
    weight[channels, channels % inputs] = 1.0 if affine is None else affine.scale
    return Branch(
        label=label,
        weight=weight.reshape(outputs, inputs, *[1] * rank),
        dtype=like.dtype,
        bias=np.zeros(outputs) if affine is None else affine.shift,
        geometry=Geometry(ones, ones, zeros, zeros, "NOTSET", like.geometry.group),
        patterns=(),
        names=(),
        sizes=like.sizes,
    )


def held_pattern(weight: Array, entry: PlanEntry | None) -> NMPattern | None:
    """Return the pattern that a Conv weight holds and should keep: its plan's, or 2:4, or one that is found.

    A weight that the plan wants dense, or that has no non-zeros, is held to nothing.
    """
    nonzeros = int(np.count_nonzero(weight))
    if (entry is not None and entry.pattern is None) or not nonzeros:
        return None
    for pattern in _KNOWN if entry is None or entry.pattern is None else (entry.pattern,):
        fits = weight.shape[1] % pattern.m == 0 and nonzeros * pattern.m <= weight.size * pattern.n
        if fits and check(weight, pattern, axis=1).holds:
            return pattern
    return None


def merge(larger: Branch, other: Branch, *, allow_broken: bool) -> Branch:
    """Add a branch to another of at least its kernel size.

    Raises:
        Declined: They differ in what cannot be joined, the sum overflows, or a pattern would be lost.
        LineageError: A weight stands where neither branch has one.
    """
    if other.weight.shape[:2] != larger.weight.shape[:2] or other.geometry.group != larger.geometry.group:
        raise Declined(
            f"it has a weight of shape {list(other.weight.shape)} in {other.geometry.group} groups, "
            f"{larger.label} one of {list(larger.weight.shape)} in {larger.geometry.group}"
        )
    offset = kernel_offset(
        larger.geometry, larger.kernel, other.geometry, other.kernel, name=larger.label, sizes=larger.sizes
    )
    placed = np.zeros(larger.weight.shape, np.float64)
    window = tuple(slice(o, o + k) for o, k in zip(offset, other.kernel, strict=True))
    placed[(slice(None), slice(None), *window)] = other.weight
    total = replace(
        larger,
        weight=larger.weight + placed,
        bias=larger.bias + other.bias,
        patterns=tuple(dict.fromkeys((*larger.patterns, *other.patterns))),
        names=tuple(dict.fromkeys((*larger.names, *other.names))),
    )
    present = np.asarray(rounded(total.weight, larger.dtype, "the merged weight") != 0)
    rounded(total.bias, larger.dtype, "the merged bias")
    if bool((present & (larger.weight == 0) & (placed == 0)).any()):
        raise LineageError(f"merging {other.label} into {larger.label} made weights that neither branch has")
    for pattern in () if allow_broken else total.patterns:
        found = check(present, pattern, axis=1)
        if not found.holds:
            raise Declined(
                f"merged with {larger.label} it would break {pattern} in {found.broken:,} of "
                f"{found.groups:,} groups; --allow-broken merges it anyway"
            )
    return total
