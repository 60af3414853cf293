"""Zero the weakest weights of a stored tensor, so that every consumer reads N:M groups.

A tensor that its consumers read directly goes through by pieces. One that passes through operators is
evaluated, and every element that should become zero is followed back to its place in the stored tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array
from nm2trt.graph.analysis.constant_values import Source, constant_value, evaluate
from nm2trt.graph.analysis.numpy_operators import VALUES
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.stored_sources import stored_places
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.element_types import element_type, is_integer
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.tensors import iter_elements, read_tensor
from nm2trt.graph.verify.group_counts import ReadWeight, operand_zero
from nm2trt.graph.verify.stored_readers import check_way, way
from nm2trt.nm.axes import OnnxWeight
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """How one consumer reads a stored tensor.

    Args:
        weight: The weight as the consumer reads it.
        how: Its reduction axis.
    """

    weight: ReadWeight
    how: OnnxWeight


def zero_weakest(
    tensor: TensorProto, source: Source, readings: Sequence[Reading], pattern: NMPattern
) -> Rewrite:
    """Return the rewrite of a stored tensor that leaves the `pattern.n` largest magnitudes of each group.

    Integers are measured from their zero point, and become it. Magnitudes are those that the consumer
    reads: after a DequantizeLinear, with the scale.

    Args:
        tensor: The stored tensor.
        source: The same, with the scope that it stands in.
        readings: Every consumer's way of reading it; all must agree on the groups.
        pattern: The pattern, which divides every reading's axis.

    Raises:
        Opaque: The consumers disagree, or an operator on the way is more than a move or a quantisation.
        ModelError: A stored tensor is damaged.
    """
    first = readings[0]
    kind = element_type(tensor)
    if bool(np.zeros(1).astype(kind.numpy).astype(np.float64)[0]):
        raise Opaque(f"{kind.name} has no zero")
    if all(r.weight.tensor is tensor and not r.weight.consumer.zero_point for r in readings):
        for other in readings[1:]:
            if other.how != first.how:
                raise Opaque(_disagree(first, other))
        inner = math.prod(first.weight.shape[first.how.axis + 1 :])
        return Rewrite(tensor, lambda: _stream(tensor, first.weight, pattern, inner), alone=True)
    kept = _agreed(readings, source, pattern)
    if tensor.data_location != TensorProto.EXTERNAL:
        return Rewrite(tensor, lambda: iter([_masked(tensor, readings, source, kept)]))
    # Nothing of a large model stays in memory: this is done again when the tensor is written.
    light = [replace(r, weight=replace(r.weight, value=None)) for r in readings]
    return Rewrite(tensor, lambda: iter([_masked(tensor, light, source, _agreed(light, source, pattern))]))


def check_reach(readings: Sequence[Reading], sources: Sequence[Source], pattern: NMPattern) -> None:
    """Raise unless every element that must become zero lies in one of the stored tensors.

    Raises:
        Opaque: An element comes from elsewhere.
    """
    for reading in readings:
        consumer = reading.weight.consumer
        for source in sources:
            nodes = way(consumer.scope, consumer.value, source)
            check_way(nodes, consumer, source, reading.weight.dtype)
        value = reading.weight.numbers()
        magnitude = _magnitude(value, operand_zero(reading.weight, reading.how))
        reached = np.zeros(value.shape, np.bool_)
        for source in sources:
            places = stored_places(consumer.scope, consumer.value, source)
            if places is not None and places.shape == reached.shape:
                reached |= places >= 0
        mask = nm_mask(magnitude, pattern, axis=reading.how.axis)
        if bool((~mask & ~reached & (magnitude != 0)).any()):
            raise Opaque(f"part of what {consumer.label} reads is not a stored tensor that can be changed")


def _agreed(readings: Sequence[Reading], source: Source, pattern: NMPattern) -> Array:
    """Mark the elements that stay; consumers have to agree on those that several of them read.

    A Split hands each consumer its own part of the stored tensor.
    """
    kept = np.ones(math.prod(source.shape), dtype=np.bool_)
    owner = np.full(kept.shape, -1, np.int32)
    for number, reading in enumerate(readings):
        read, stays = _kept(reading, source, pattern)
        clash = read & (owner >= 0) & (stays != kept)
        if bool(clash.any()):
            raise Opaque(_disagree(readings[int(owner[clash][0])], reading))
        kept[read] = stays[read]
        owner[read] = number
    return kept


def _masked(tensor: TensorProto, readings: Sequence[Reading], source: Source, kept: Array) -> bytes:
    stored = read_tensor(tensor, source.scope.model.root)
    zero = np.zeros(stored.shape, stored.dtype)
    for reading in readings:
        # Zero if this consumer reads nothing.
        own = _stored_zero(reading, source, stored)
        zero = np.where(own != 0, own, zero)
    left = np.where(kept.reshape(stored.shape), stored, zero)
    kind = element_type(tensor)
    return pack(left.astype(kind.numpy), kind)


def _disagree(first: Reading, other: Reading) -> str:
    return (
        f"{first.weight.consumer.label} and {other.weight.consumer.label} both read it, and group its "
        "elements differently, for example along different axes"
    )


def _stream(
    tensor: TensorProto, weight: ReadWeight, pattern: NMPattern, inner: int
) -> Iterator[bytes | memoryview]:
    kind = element_type(tensor)
    root = weight.consumer.scope.model.root
    for piece in iter_elements(tensor, root, unit=pattern.m * inner, reuse=True):
        groups = piece.reshape(-1, pattern.m, inner)
        scores = _magnitude(groups) if is_integer(groups) else groups
        kept = nm_mask(scores, pattern, axis=1, magnitude=True)
        # The bits times 0 or 1: ten times as fast as `np.where`, and never -0.0, as -1 times 0 is.
        bits = groups.view(f"u{groups.dtype.itemsize}")
        left = np.multiply(bits, kept, dtype=bits.dtype).view(piece.dtype)
        yield pack(left, kind) if kind.bits == 4 else left.reshape(-1).view(np.uint8).data


def _magnitude(elements: Array, zero: Array | None = None) -> Array:
    """Return distances from zero, or from the zero point, exact in every dtype."""
    if is_integer(elements):
        wide = elements.astype(np.int64 if elements.dtype.itemsize > 2 else np.int32)
        return np.asarray(np.abs(wide - (0 if zero is None else zero.astype(wide.dtype))))
    exact = elements if elements.dtype in (np.float32, np.float64) else elements.astype(np.float32)
    return np.asarray(np.abs(exact))


def _kept(
    reading: Reading, source: Source, pattern: NMPattern
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Mark the elements of the stored tensor, flat, that one consumer reads, and those that it lets stand."""
    weight, scope = reading.weight, reading.weight.consumer.scope
    value = weight.numbers()
    check_way(way(scope, weight.consumer.value, source), weight.consumer, source, weight.dtype)
    places = stored_places(scope, weight.consumer.value, source)
    if places is None or places.shape != value.shape:
        raise Opaque(f"{source.name} is mixed with other numbers before {weight.consumer.label} reads it")
    zero = operand_zero(weight, reading.how)
    mask = nm_mask(_magnitude(value, zero), pattern, axis=reading.how.axis)
    kept = np.ones(math.prod(source.shape), dtype=np.bool_)
    dropped = places[~mask]
    kept[dropped[dropped >= 0]] = False
    read = np.zeros(kept.shape, dtype=np.bool_)
    read[places[places >= 0]] = True
    return read, kept


def _stored_zero(reading: Reading, source: Source, stored: Array) -> Array:
    """Return what stands for zero in the stored tensor: nought, or each element's zero point."""
    consumer = reading.weight.consumer
    zero = np.zeros(stored.shape, stored.dtype)
    operand = operand_zero(reading.weight, reading.how)
    dequantize = [
        (where, node)
        for where, node in way(consumer.scope, consumer.value, source)
        if node.op_type == "DequantizeLinear"
    ]
    if operand is None and not dequantize:
        return zero
    if operand is not None and dequantize:
        raise Opaque(f"{source.name} is dequantised and has a zero point at {consumer.label} too")
    if operand is not None:
        end: tuple[Scope, str] = (consumer.scope, consumer.value)
        wide = np.broadcast_to(operand, reading.weight.shape)
    else:
        where, node = dequantize[-1]
        end = (where, node.input[0])
        wide = _dequantized_zero(where, node, end)
    places = stored_places(*end, source)
    if places is None:
        raise Opaque(f"{source.name} is mixed with other numbers before it is dequantised")
    inside = places >= 0
    zero.reshape(-1)[places[inside]] = wide[inside].astype(stored.dtype)
    return zero


def _dequantized_zero(where: Scope, node: onnx.NodeProto, data: tuple[Scope, str]) -> Array:
    """Return the zero point of every element that a DequantizeLinear reads."""
    shape = evaluate(*data).shape
    scale = constant_value(where, node.input[1])
    zero = constant_value(where, node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        return np.zeros(shape, np.int8)
    # Quantising zero gives the zero point, in every layout of the operator.
    nought = np.zeros(shape, np.float32)
    return VALUES["QuantizeLinear"]([nought, scale.astype(np.float32), zero], where.node_attributes(node))
