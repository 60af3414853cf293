"""Group counts of one weight for one consumer: read what the consumer reads, and count along its axis."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.constant_values import constant_value, direct_initializer, evaluate, readable
from nm2trt.graph.analysis.numpy_operators import cast_array
from nm2trt.graph.analysis.stored_sources import stored_index
from nm2trt.graph.analysis.weight_operands import Consumer
from nm2trt.graph.storage.element_types import ElementType, element_type, is_integer, nonfinite_count, present
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.tensors import iter_elements
from nm2trt.nm.axes import OnnxWeight
from nm2trt.nm.lineage import MaskBits
from nm2trt.nm.mask import GroupChecker
from nm2trt.nm.pattern import NMPattern

_CHUNK_ELEMENTS = 1 << 18


@dataclass(frozen=True, slots=True)
class ReadWeight:
    """A weight as its consumer reads it: an initializer read by pieces, or an evaluated array.

    Args:
        consumer: The operand.
        shape: Its shape.
        dtype: ONNX name of the element type that the consumer reads.
        tensor: The initializer, when it is read directly.
        value: The array, when it had to be evaluated.
    """

    consumer: Consumer
    shape: tuple[int, ...]
    dtype: str
    tensor: onnx.TensorProto | None
    value: Array | None

    def numbers(self) -> Array:
        """Return all elements in the weight's shape."""
        return evaluate(self.consumer.scope, self.consumer.value) if self.value is None else self.value

    def pieces(self, unit: int) -> Iterator[Array]:
        """Yield the elements, flat and in order; every piece but the last is a multiple of `unit`.

        The next piece may overwrite the one before.
        """
        if self.tensor is not None:
            yield from iter_elements(self.tensor, self.consumer.scope.model.root, unit=unit, reuse=True)
        elif self.value is not None:
            flat = np.ascontiguousarray(self.value).reshape(-1)
            step = max(1, _CHUNK_ELEMENTS // unit) * unit
            for start in range(0, flat.size, step):
                yield flat[start : start + step]


@dataclass(frozen=True, slots=True)
class Finding:
    """What was counted in one weight.

    Args:
        size: Elements.
        zeros: Elements that are zero, or equal to their zero point.
        nonfinite: NaN and infinite elements.
        groups: Groups of M judged; 0 if no pattern was judged.
        broken: Groups with more than N non-zeros.
        first_broken: Index of the first broken group's first element, as the consumer reads the weight.
        stored_at: The same place in the stored tensor, if that is one place.
    """

    size: int
    zeros: int
    nonfinite: int
    groups: int = 0
    broken: int = 0
    first_broken: tuple[int, ...] | None = None
    stored_at: tuple[int, ...] | None = None


def read_weight(consumer: Consumer) -> ReadWeight:
    """Find a constant operand's shape and type, and evaluate it when it is not simply stored.

    Raises:
        Opaque: It cannot be evaluated.
        ModelError: A stored tensor is damaged.
    """
    tensor = direct_initializer(consumer.scope, consumer.value)
    if tensor is not None:
        return ReadWeight(
            consumer, tuple(int(s) for s in tensor.dims), element_type(readable(tensor)).name, tensor, None
        )
    value = evaluate(consumer.scope, consumer.value)
    return ReadWeight(consumer, value.shape, str(value.dtype), None, value)


def count_groups(
    weight: ReadWeight,
    how: OnnxWeight,
    pattern: NMPattern | None,
    *,
    rounded: ElementType | None = None,
    masks: MaskBits | None = None,
) -> Finding:
    """Count zeros, and groups that break a pattern.

    Args:
        weight: The weight.
        how: How its operator reads it.
        pattern: The pattern to judge, which divides the axis; None counts only zeros.
        rounded: Judge what is left after rounding floats to this type; None judges them as they are.
        masks: Takes the non-zero flags, for the mask hash.

    Raises:
        Opaque: The zero point is not constant.
        ModelError: A stored tensor is damaged.
    """
    inner = math.prod(weight.shape[how.axis + 1 :])
    zero_point = operand_zero(weight, how)
    if zero_point is not None and zero_point.ndim:
        zero_point = np.ascontiguousarray(np.broadcast_to(zero_point, weight.shape)).reshape(-1)
    checker = None if pattern is None else GroupChecker(pattern, inner=inner)
    size = zeros = nonfinite = 0
    # Pieces of whole groups, and of whole bytes for the mask hash.
    unit = math.lcm((pattern.m if pattern else 1) * inner or 1, 8)
    for piece in _rounded(weight.pieces(unit), rounded):
        zero = (
            zero_point if zero_point is None or zero_point.ndim == 0 else zero_point[size : size + piece.size]
        )
        nonfinite += nonfinite_count(piece)  # first, since it waits least for memory
        kept = present(piece, zero)
        size += piece.size
        zeros += piece.size - int(np.count_nonzero(kept))
        if masks is not None:
            masks.update(kept)
        if checker is not None:
            checker.update(kept)
    if checker is None:
        return Finding(size, zeros, nonfinite)
    first = stored = None
    if checker.first_broken is not None:
        first = tuple(int(i) for i in np.unravel_index(checker.first_broken, weight.shape))
        stored = (
            first
            if weight.tensor is not None
            else stored_index(weight.consumer.scope, weight.consumer.value, first)
        )
    return Finding(size, zeros, nonfinite, checker.groups, checker.broken, first, stored)


def _rounded(pieces: Iterable[Array], rounded: ElementType | None) -> Iterator[Array]:
    for piece in pieces:
        if rounded is not None and not is_integer(piece):
            piece = cast_array(piece, rounded.numpy)
        yield piece


def operand_zero(weight: ReadWeight, how: OnnxWeight) -> Array | None:
    """Return the zero point that an integer operator subtracts from its weight, shaped to broadcast; or None.

    Raises:
        Opaque: It is not constant.
    """
    consumer, rank = weight.consumer, len(weight.shape)
    if not consumer.zero_point:
        return None
    zero = constant_value(consumer.scope, consumer.zero_point)
    if zero.size == 1:
        return zero.reshape(())
    if how.convolution:
        return zero.reshape((-1,) + (1,) * (rank - 1))
    if zero.ndim == 1:
        # One per column of a right operand, one per row of a left one: the axis that is not reduced.
        return zero.reshape((1, -1) if how.axis == rank - 2 else (-1, 1))
    return zero
