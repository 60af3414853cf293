"""Parallel branches as convolutions of one kernel: aligned, added, and held to the pattern they had.

A branch reads x and adds to one sum. A convolution is itself, with smaller kernels placed where they
stand in the larger one; a BatchNormalization is a diagonal 1x1 kernel; the identity is one of ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.errors import LineageError
from nm2trt.graph.fold import Affine, rounded
from nm2trt.graph.rewrite import Declined
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PlanEntry

__all__ = ["Branch", "diagonal", "held_pattern", "merge", "paddings"]

Array = npt.NDArray[Any]

# Looked for in this order where no plan names a pattern.
_KNOWN = tuple(NMPattern(n, m) for n, m in ((2, 4), (4, 8), (8, 16), (16, 32), (3, 4)))


@dataclass(frozen=True, slots=True, eq=False)
class Branch:
    """One branch as a convolution.

    Args:
        label: Its node, for messages.
        weight: (O, I/g, k...) float64.
        dtype: The model's dtype, to which a result is rounded once.
        bias: (O,) float64.
        strides: One a spatial axis.
        dilations: One a spatial axis; of no meaning where the kernel is 1.
        before: Padding in front, one a spatial axis; None when it is only known to be `auto`.
        after: Padding behind, likewise.
        auto: What decides the padding when it is not known: auto_pad.
        group: The convolution's groups.
        patterns: The patterns that it holds and that a merge must keep.
        names: Names of the stored weights that it is made of.
        sizes: Spatial size of x where known; padding may be compared with its help.
    """

    label: str
    weight: Array
    dtype: np.dtype[Any]
    bias: Array
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    auto: str
    group: int
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
    if inputs * like.group != outputs:
        raise Declined(f"{like.label} turns {inputs * like.group} channels into {outputs}")
    if affine is not None and affine.scale.size != outputs:
        raise Declined(f"it has {affine.scale.size} channels, {like.label} has {outputs}")
    rank = len(like.kernel)
    weight = np.zeros((outputs, inputs), np.float64)
    channels = np.arange(outputs)
    weight[channels, channels % inputs] = 1.0 if affine is None else affine.scale
    return Branch(
        label=label,
        weight=weight.reshape(outputs, inputs, *[1] * rank),
        dtype=like.dtype,
        bias=np.zeros(outputs) if affine is None else affine.shift,
        strides=(1,) * rank,
        dilations=(1,) * rank,
        before=(0,) * rank,
        after=(0,) * rank,
        auto="NOTSET",
        group=like.group,
        patterns=(),
        names=(),
        sizes=like.sizes,
    )


def paddings(
    attributes: dict[str, Any], kernel: tuple[int, ...], sizes: tuple[int | None, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Return the padding in front and behind; None when auto_pad makes it depend on an unknown size.

    Args:
        attributes: A Conv's attributes.
        kernel: Its kernel's spatial size.
        sizes: Spatial size of its input, None where unknown.
    """
    rank = len(kernel)
    strides = attributes.get("strides", [1] * rank)
    dilations = attributes.get("dilations", [1] * rank)
    auto = attributes.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return (0,) * rank, (0,) * rank
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        pads = [int(p) for p in attributes.get("pads", [0] * 2 * rank)]
        return tuple(pads[:rank]), tuple(pads[rank:])
    before, after = [], []
    for k, s, d, size in zip(kernel, strides, dilations, sizes, strict=True):
        if s == 1:
            total = d * (k - 1)
        elif size is None:
            return None
        else:
            total = max(0, (math.ceil(size / s) - 1) * s + d * (k - 1) + 1 - size)
        small, large = total // 2, total - total // 2
        before.append(small if auto == "SAME_UPPER" else large)
        after.append(large if auto == "SAME_UPPER" else small)
    return tuple(before), tuple(after)


def held_pattern(weight: Array, entry: PlanEntry | None) -> NMPattern | None:
    """Return the pattern that a Conv weight holds and should keep: its plan's, or 2:4, or one that is found.

    A weight that the plan wants dense, or that has no non-zeros, is held to nothing.
    """
    length = weight.shape[1]
    present = np.asarray(weight != 0)
    if (entry is not None and entry.pattern is None) or not present.any():
        return None
    for pattern in _KNOWN if entry is None or entry.pattern is None else (entry.pattern,):
        if length % pattern.m == 0 and check(present, pattern, axis=1).holds:
            return pattern
    return None


def merge(larger: Branch, other: Branch, *, allow_broken: bool) -> Branch:
    """Add a branch to another of at least its kernel size.

    Raises:
        Declined: They differ in what cannot be joined, the sum overflows, or a pattern would be lost.
        LineageError: A weight stands where neither branch has one.
    """
    offset = _offset(larger, other)
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
        if found.broken:
            raise Declined(
                f"merged with {larger.label} it would break {pattern} in {found.broken} of "
                f"{found.groups} groups; --allow-broken merges all the same"
            )
    return total


def _offset(larger: Branch, other: Branch) -> tuple[int, ...]:
    """Return where the other kernel's first tap stands in the larger kernel, on each spatial axis.

    Raises:
        Declined: The branches do not read and write the same places.
    """
    if other.weight.shape[:2] != larger.weight.shape[:2] or other.group != larger.group:
        raise Declined(
            f"it has a weight of shape {list(other.weight.shape)} in {other.group} groups, {larger.label} "
            f"one of {list(larger.weight.shape)} in {larger.group}"
        )
    if other.strides != larger.strides:
        raise Declined(
            f"its strides are {list(other.strides)}, those of {larger.label} {list(larger.strides)}"
        )
    if len(other.kernel) != len(larger.kernel):
        raise Declined(f"it has {len(other.kernel)} spatial axes, {larger.label} has {len(larger.kernel)}")
    if other.before is None or larger.before is None or other.after is None or larger.after is None:
        same = (other.auto, other.kernel, other.dilations) == (larger.auto, larger.kernel, larger.dilations)
        if same:
            return (0,) * len(larger.kernel)
        auto = other.auto if other.before is None else f"{larger.auto} of {larger.label}"
        raise Declined(f"the padding ({auto}) depends on sizes that the model does not tell")
    return tuple(_axis_offset(larger, other, axis) for axis in range(len(larger.kernel)))


def _axis_offset(larger: Branch, other: Branch, axis: int) -> int:
    big, small = larger.kernel[axis], other.kernel[axis]
    step, stride = larger.dilations[axis], larger.strides[axis]
    if small > 1 and other.dilations[axis] != step:
        raise Declined(
            f"its dilations are {list(other.dilations)}, those of {larger.label} {list(larger.dilations)}"
        )
    before, after = (larger.before or ())[axis], (larger.after or ())[axis]
    other_before, other_after = (other.before or ())[axis], (other.after or ())[axis]
    reach = before + after - step * (big - 1)
    other_reach = other_before + other_after - step * (small - 1)
    size = larger.sizes[axis] if axis < len(larger.sizes) else None
    # Equal for every input size, or at least for the one that the model has.
    equal = reach == other_reach or (
        size is not None and (size - 1 + reach) // stride == (size - 1 + other_reach) // stride
    )
    offset, rest = divmod(before - other_before, step)
    if not equal or rest or offset < 0 or offset + small > big:
        raise Declined(
            f"its kernel {list(other.kernel)} with padding {list(other.before or ())}+"
            f"{list(other.after or ())} does not lie inside that of {larger.label}, {list(larger.kernel)} "
            f"with {list(larger.before or ())}+{list(larger.after or ())}"
        )
    return offset
