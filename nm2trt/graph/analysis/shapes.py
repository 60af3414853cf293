"""Multiply-accumulates of each weight's consumer, from shapes that onnx infers without the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto

from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.storage.model import Model
from nm2trt.nm.verdict import WeightVerdict

__all__ = ["Shapes", "infer_shapes", "infer_types", "macs", "with_macs"]

Shapes = Mapping[str, tuple[int | None, ...]]

# Shape tensors are small; anything larger is a weight, whose values no shape depends on.
_LARGEST_SHAPE_TENSOR = 64


def infer_shapes(model: Model, inputs: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Return the shapes of the main graph's values; None stands for a free size.

    Weights are left out before onnx is asked, so that a large model costs no copy of itself.

    Args:
        model: The model.
        inputs: Shapes of its inputs, e.g. those that an engine is optimised for; by default its own.
    """
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in _inferred(model, inputs):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            # Some exporters write -1 for a free size.
            sizes = (d.dim_value if d.HasField("dim_value") else -1 for d in dims)
            shapes[value.name] = tuple(size if size >= 0 else None for size in sizes)
    return shapes


def infer_types(model: Model) -> Mapping[str, int]:
    """Return the element types of the main graph's tensors, by ONNX's numbers, where they are known."""
    types = {
        value.name: int(value.type.tensor_type.elem_type)
        for value in _inferred(model, None)
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
    }
    graph = model.proto.graph
    types.update({tensor.name: int(tensor.data_type) for tensor in graph.initializer})
    types.update({sparse.values.name: int(sparse.values.data_type) for sparse in graph.sparse_initializer})
    return types


def _inferred(model: Model, inputs: Mapping[str, Sequence[int]] | None) -> list[onnx.ValueInfoProto]:
    light = onnx.ModelProto(ir_version=model.proto.ir_version)
    light.opset_import.extend(model.proto.opset_import)
    light.functions.extend(model.proto.functions)
    source, graph = model.proto.graph, light.graph
    graph.name = "shapes"
    graph.node.extend(source.node)
    given = {value.name for value in source.input}
    graph.input.extend(source.input)
    if inputs is None:
        graph.output.extend(source.output)
        graph.value_info.extend(source.value_info)
    else:
        _fix_inputs(graph, inputs)
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _LARGEST_SHAPE_TENSOR and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(_typed_value(tensor.name, tensor.data_type, tensor.dims))
    for sparse in source.sparse_initializer:
        if sparse.values.name not in given:
            graph.input.append(_typed_value(sparse.values.name, sparse.values.data_type, sparse.dims))
    try:
        graph = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except Exception:  # inference is a courtesy of the format: without it MACs are simply not known
        graph = light.graph
    return [*graph.value_info, *graph.input, *graph.output]


def macs(consumer: Consumer, weight_shape: tuple[int, ...], axis: int, shapes: Shapes) -> int | None:
    """Return multiply-accumulates of one inference; a free batch counts as 1, other free sizes give None."""
    if consumer.scope.name:
        return None  # a body may run any number of times
    if consumer.operator == "ConvTranspose":
        # Every input element meets every weight of its channel.
        moving = shapes.get(consumer.node.input[0])
        repeats = _product(moving, skip={1})
        return None if repeats is None else repeats * math.prod(weight_shape)
    output = shapes.get(consumer.node.output[0]) if consumer.node.output else None
    size = _product(output, skip=set())
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


def _fix_inputs(graph: onnx.GraphProto, inputs: Mapping[str, Sequence[int]]) -> None:
    for value in graph.input:
        if value.name in inputs:
            sizes = list(inputs[value.name])
            value.CopyFrom(_typed_value(value.name, value.type.tensor_type.elem_type, sizes))


def _typed_value(name: str, dtype: int, dims: Iterable[int]) -> onnx.ValueInfoProto:
    return onnx.helper.make_tensor_value_info(name, dtype, list(dims))


_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv", "NhwcFusedConv"})


def _product(shape: tuple[int | None, ...] | None, *, skip: set[int]) -> int | None:
    if shape is None:
        return None
    sizes = [1 if size is None and position == 0 else size for position, size in enumerate(shape)]
    known = [size for position, size in enumerate(sizes) if position not in skip and size is not None]
    if len(known) + len(skip) < len(sizes):
        return None
    return math.prod(known)
