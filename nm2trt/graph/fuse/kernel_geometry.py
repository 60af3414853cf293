"""Kernel geometry of convolutions: where a kernel reads its input, and how it lies inside another."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from nm2trt.figures import counted
from nm2trt.graph.edit.graph_view import Declined


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a convolution's kernel reads, one number a spatial axis.

    Args:
        strides: Steps between outputs.
        dilations: Steps between taps.
        before: Padding in front; None when auto_pad makes it depend on an unknown size.
        after: Padding at the end, likewise.
        auto: auto_pad.
        group: Groups.
    """

    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    before: tuple[int, ...] | None
    after: tuple[int, ...] | None
    auto: str
    group: int


def read_geometry(
    attributes: dict[str, Any], kernel: tuple[int, ...], sizes: tuple[int | None, ...]
) -> Geometry:
    """Read a Conv's attributes.

    Args:
        attributes: The attributes.
        kernel: Its kernel's spatial size.
        sizes: Spatial size of its input, None if unknown.

    Raises:
        Declined: An attribute has another type, length or range than ONNX gives it.
    """
    rank = len(kernel)
    group = attributes.get("group", 1)
    if not isinstance(group, int) or group < 1:
        raise Declined(f"its group is {group!r}")
    strides = _numbers(attributes, "strides", rank, least=1)
    dilations = _numbers(attributes, "dilations", rank, least=1)
    auto = str(attributes.get("auto_pad", "NOTSET"))
    before: list[int] | None = [0] * rank
    after: list[int] | None = [0] * rank
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        totals = [_same(*axis) for axis in zip(kernel, strides, dilations, sizes, strict=True)]
        known = [total for total in totals if total is not None]
        small, large = [total // 2 for total in known], [total - total // 2 for total in known]
        before, after = (small, large) if auto == "SAME_UPPER" else (large, small)
        if len(known) < rank:
            before = after = None
    elif auto != "VALID":
        pads = _numbers(attributes, "pads", 2 * rank, least=0)
        before, after = list(pads[:rank]), list(pads[rank:])
    return Geometry(
        strides,
        dilations,
        None if before is None else tuple(before),
        None if after is None else tuple(after),
        auto,
        group,
    )


def _numbers(attributes: dict[str, Any], name: str, count: int, *, least: int) -> tuple[int, ...]:
    given = attributes.get(name, [least] * count)
    if not isinstance(given, list) or len(given) != count or not all(isinstance(n, int) for n in given):
        raise Declined(f"its {name} are {given!r}, not {count} numbers")
    if min(given, default=least) < least:
        raise Declined(f"its {name} are {given!r}, less than {least}")
    return tuple(given)


def _same(kernel: int, stride: int, dilation: int, size: int | None) -> int | None:
    """Return the padding that keeps ceil(size / stride) outputs."""
    reach = dilation * (kernel - 1) + 1
    if stride == 1:
        return reach - 1
    return None if size is None else max(0, (math.ceil(size / stride) - 1) * stride + reach - size)


def kernel_offset(
    larger: Geometry,
    kernel: tuple[int, ...],
    smaller: Geometry,
    inner: tuple[int, ...],
    *,
    name: str,
    sizes: tuple[int | None, ...],
) -> tuple[int, ...]:
    """Return the position of a kernel's first tap in a larger kernel, on each spatial axis.

    Args:
        larger: Geometry of the larger kernel.
        kernel: Its spatial size.
        smaller: Geometry of the other.
        inner: Its spatial size.
        name: What to call the larger in a message.
        sizes: Spatial size of the common input, None if unknown.

    Raises:
        Declined: They do not read and write the same places.
    """
    if smaller.strides != larger.strides:
        raise Declined(f"its strides are {list(smaller.strides)}, those of {name} {list(larger.strides)}")
    if len(inner) != len(kernel):
        raise Declined(
            f"it has {counted(len(inner), 'spatial axis', 'spatial axes')}, {name} has {len(kernel)}"
        )
    if None in (larger.before, larger.after, smaller.before, smaller.after):
        if (smaller, inner) == (larger, kernel):
            return (0,) * len(kernel)
        auto = smaller.auto if smaller.before is None else f"{larger.auto} of {name}"
        raise Declined(f"the padding ({auto}) depends on sizes that the model does not tell")
    if any(k > 1 and a != b for k, a, b in zip(inner, smaller.dilations, larger.dilations, strict=True)):
        raise Declined(
            f"its dilations are {list(smaller.dilations)}, those of {name} {list(larger.dilations)}"
        )
    pairs = [_axis_offset(larger, kernel, smaller, inner, axis, sizes[axis]) for axis in range(len(kernel))]
    known = [offset for offset in pairs if offset is not None]
    if len(known) < len(pairs):
        raise Declined(
            f"its kernel {_place(smaller, inner)} does not lie inside that of {name}, "
            f"{_place(larger, kernel)}"
        )
    return tuple(known)


def _axis_offset(
    larger: Geometry,
    kernel: tuple[int, ...],
    smaller: Geometry,
    inner: tuple[int, ...],
    axis: int,
    size: int | None,
) -> int | None:
    big, small = kernel[axis], inner[axis]
    step, stride = larger.dilations[axis], larger.strides[axis]
    before, other_before = (larger.before or ())[axis], (smaller.before or ())[axis]
    reach = before + (larger.after or ())[axis] - step * (big - 1)
    other_reach = other_before + (smaller.after or ())[axis] - step * (small - 1)
    # Equal outputs for every input size, or at least for the one that the model has.
    equal = reach == other_reach or (
        size is not None and (size - 1 + reach) // stride == (size - 1 + other_reach) // stride
    )
    offset, rest = divmod(before - other_before, step)
    return offset if equal and not rest and offset >= 0 and offset + small <= big else None


def _place(geometry: Geometry, kernel: tuple[int, ...]) -> str:
    return f"{list(kernel)} with padding {list(geometry.before or ())}+{list(geometry.after or ())}"
