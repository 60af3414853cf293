"""Nodes at which TensorRT's parser ends the process, writes beyond its own memory, or misreads weights."""

from __future__ import annotations

import math

from nm2trt.graph.analysis.scopes import first_node, walk
from nm2trt.graph.analysis.shapes import infer_shapes
from nm2trt.graph.analysis.sound_nodes import check_nodes
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.light_onnx import graphs_of, is_default, onnx
from nm2trt.graph.storage.model import Model

# Of one tensor in every TensorRT.
MOST_DIMENSIONS = 8

# ONNX Runtime's blocked layout, NCHWc.
BLOCKED = "com.microsoft.nchwc"

# Positions of the inputs that hold one number for each dimension.
_SHAPES = {"ConstantOfShape": (0,), "Reshape": (1,), "Expand": (1,), "Tile": (1,), "Slice": (1, 2, 3, 4)}


def blocked_node(model: Model) -> str:
    """Return the first node in ONNX Runtime's blocked layout, or "".

    The parser of TensorRT for RTX 1.7 looks at a node's type and not at its domain: it reads such a Conv as
    ONNX's own, with weights in another order, and builds an engine that computes something else.
    """
    return first_node(model, (), BLOCKED)


def has_bodies(model: Model) -> bool:
    """Tell whether a model has loops, branches or local functions: a parser crashes at many unsound ones."""
    return bool(model.proto.functions) or any(map(graphs_of, model.proto.graph.node))


def parser_hazard(model: Model) -> str:
    """Return the first node at which the parser of TensorRT for RTX 1.7 was seen to crash, and why; or "".

    Raises:
        ModelError: The model is not valid ONNX.
    """
    check_nodes(model)
    for scope, node in walk(model):
        if not any(node.output):
            return f"{node.op_type} at {scope.label(node)} has no output with a name"
        if node.op_type == "GatherND" and len(node.input) > 1 and _is_scalar(scope, node.input[1]):
            return f"{node.op_type} at {scope.label(node)} takes indices without dimensions"
        for position in _SHAPES.get(node.op_type, ()) if is_default(node) else ():
            if position >= len(node.input):
                continue
            length = _length(scope, node.input[position])
            if length > MOST_DIMENSIONS:
                told = f"takes a shape of {length} dimensions, and a tensor has at most {MOST_DIMENSIONS}"
                return f"{node.op_type} at {scope.label(node)} {told}"
    return ""


def _is_scalar(scope: Scope, value: str) -> bool:
    tensor = _constant(*(scope.owner(value) or (scope, value)))
    return tensor is not None and not tensor.dims


def _length(scope: Scope, value: str) -> int:
    """Return how many numbers a value has; 0 or 1 if nothing is known."""
    owner, value = scope.owner(value) or (scope, value)
    tensor = _constant(owner, value)
    if tensor is not None:
        return math.prod(tensor.dims)
    if owner.name:  # shapes inside bodies and functions are not inferred
        return 0
    return math.prod(size or 0 for size in infer_shapes(owner.model).get(value, ()))


def _constant(owner: Scope, value: str) -> onnx.TensorProto | None:
    tensor: onnx.TensorProto | None = owner.initializers.get(value)
    producer = owner.producers.get(value)
    if tensor is None and producer is not None and producer.op_type == "Constant":
        return _stored(producer)
    return tensor


def _stored(node: onnx.NodeProto) -> onnx.TensorProto | None:
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor: onnx.TensorProto = attribute.t
            return tensor
        if attribute.name == "value_ints":
            return onnx.TensorProto(dims=[len(attribute.ints)])
    return None
