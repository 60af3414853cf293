"""Multiply-accumulates of each weight's consumer: the products that one inference computes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from nm2trt.arrays import Arrays
from nm2trt.graph.analysis.shapes import Shapes, infer_shapes
from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.storage.model import Model
from nm2trt.nm.axes import einsum_terms
from nm2trt.nm.verdict import WeightVerdict

_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv", "NhwcFusedConv", "DeformConv"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
# The whole matrix is read once per row of the input; their outputs are smaller than the product.
_PROJECTIONS = frozenset({"Attention", "QAttention"})


def macs(consumer: Consumer, weight_shape: tuple[int, ...], axis: int, shapes: Shapes) -> int | None:
    """Return multiply-accumulates of one inference; a free batch counts as 1, other free sizes give None."""
    if consumer.scope.name:
        return None  # a body may run any number of times
    data = shapes.get(consumer.node.input[0]) if consumer.node.input else None
    if consumer.operator == "ConvTranspose":
        # Every input element meets every weight of its channel.
        repeats = _product(data, skip={1})
        return None if repeats is None else repeats * math.prod(weight_shape)
    if consumer.operator in _RECURRENT:
        batch = 0 if consumer.attributes.get("layout", 0) else 1
        steps = _product(data, skip={2}, batch=batch) if data is not None and len(data) == 3 else None
        return None if steps is None else steps * math.prod(weight_shape)
    if consumer.operator in _PROJECTIONS and consumer.domain == "com.microsoft":
        rows = _product(data, skip={len(data) - 1}) if data else None
        return None if rows is None else rows * math.prod(weight_shape)
    if consumer.operator == "Einsum":
        return _einsum(consumer, weight_shape, shapes)
    output = shapes.get(consumer.node.output[0]) if consumer.node.output else None
    size = _product(output)
    if size is None:
        return None
    if len(weight_shape) >= 3 and consumer.operator in _CONVOLUTIONS:
        return size * math.prod(weight_shape[1:])
    return size * weight_shape[axis]


def with_macs(
    model: Model, verdicts: Sequence[WeightVerdict], inputs: Mapping[str, Sequence[int]]
) -> tuple[WeightVerdict, ...]:
    """Return the verdicts with the multiply-accumulates that their consumers do at these input shapes.

    Args:
        model: The model that was judged.
        verdicts: What `verify` found out of it.
        inputs: Shape of every input that has free sizes.
    """
    shapes = infer_shapes(model, inputs)
    operands = {(operand.label, operand.input_index): operand for operand in consumers(model)}
    counted = []
    for verdict in verdicts:
        index = verdict.facts.constant_input_index if verdict.facts is not None else -1
        operand = operands.get((verdict.consumer, index))
        if operand is None or verdict.axis is None:
            counted.append(verdict)
        else:
            counted.append(replace(verdict, macs=macs(operand, verdict.shape, verdict.axis, shapes)))
    return tuple(counted)


def free_shapes(model: Model, samples: Arrays) -> dict[str, tuple[int, ...]]:
    """Return the shape of every input that has free sizes, for one sample.

    Args:
        model: The model.
        samples: Arrays by input name, samples along axis 0.
    """
    from nm2trt.graph.storage.model_info import describe_model  # only here: it takes time to import

    found = {}
    for value in describe_model(model).inputs:
        array = samples.get(value.name)
        shape = value.shape or ()
        if array is None or len(shape) != array.ndim or all(isinstance(size, int) for size in shape):
            continue
        sizes = zip(shape, (1, *array.shape[1:]), strict=True)
        found[value.name] = tuple(size if isinstance(size, int) else have for size, have in sizes)
    return found


def _product(
    shape: tuple[int | None, ...] | None, *, skip: Collection[int] = (), batch: int = 0
) -> int | None:
    if shape is None:
        return None
    sizes = [1 if size is None and position == batch else size for position, size in enumerate(shape)]
    known = [size for position, size in enumerate(sizes) if position not in skip and size is not None]
    if len(known) + len(skip) < len(sizes):
        return None
    return math.prod(known)


def _einsum(consumer: Consumer, weight_shape: tuple[int, ...], shapes: Shapes) -> int | None:
    """Return the product of the sizes of all labels: every combination of them is one multiplication."""
    terms, _ = einsum_terms(str(consumer.attributes.get("equation", "")))
    sizes: dict[str, int] = {}
    wide = 1
    for slot, (name, term) in enumerate(zip(consumer.node.input, terms, strict=False)):
        shape = weight_shape if slot == consumer.input_index else shapes.get(name)
        if shape is None:
            return None
        before, dots, after = term.partition("...")
        middle = shape[len(before) : len(shape) - len(after)] if dots else ()
        labelled = [*zip(before, shape, strict=False), *zip(after[::-1], shape[::-1], strict=False)]
        for label, size in labelled:
            known = 1 if size is None and slot != consumer.input_index and label == term[0] else size
            if known is None:
                return None
            sizes[label] = max(sizes.get(label, 1), known)
        if any(size is None for size in middle[1:]):
            return None
        wide = max(wide, math.prod(size or 1 for size in middle))
    return wide * math.prod(sizes.values())
