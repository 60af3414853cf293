"""Operators that are told a shape of more dimensions than a builder's tensors have."""

from __future__ import annotations

from nm2trt.graph.analysis.scopes import Scope, walk
from nm2trt.graph.analysis.shapes import infer_shapes
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model

__all__ = ["high_rank_node"]

# Positions of the inputs that hold one number for each dimension.
_SHAPES = {"ConstantOfShape": (0,), "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4)}


def high_rank_node(model: Model, most: int) -> str:
    """Return the first node that is told a shape of more than `most` numbers, and how many; "" without one.

    TensorRT's parser (seen in that of TensorRT for RTX 1.7) writes beyond its own memory at such a node.
    """
    for scope, node in walk(model):
        for position in _SHAPES.get(node.op_type, ()) if node.domain in ("", "ai.onnx") else ():
            if position >= len(node.input):
                continue
            length = _length(scope, node.input[position])
            if length > most:
                return f"{node.op_type} at {scope.label(node)} takes a shape of {length} dimensions"
    return ""


def _length(scope: Scope, value: str) -> int:
    """Return how many numbers a vector has; 0 where nothing is known."""
    owner, value = scope.owner(value) or (scope, value)
    tensor = owner.initializers.get(value)
    producer = owner.producers.get(value)
    if tensor is None and producer is not None and producer.op_type == "Constant":
        tensor = _stored(producer)
    if tensor is not None:
        return tensor.dims[0] if len(tensor.dims) == 1 else 0
    if owner.name:  # shapes inside bodies and functions are not inferred
        return 0
    shape = infer_shapes(owner.model).get(value, ())
    return (shape[0] or 0) if len(shape) == 1 else 0


def _stored(node: onnx.NodeProto) -> onnx.TensorProto | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name == "value_ints":
            return onnx.TensorProto(dims=[len(attribute.ints)])
    return None
