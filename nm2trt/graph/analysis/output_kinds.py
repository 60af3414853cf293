"""Outputs of a graph: of a size that depends on the data, after a saturation, and in which precision."""

from __future__ import annotations

from nm2trt.graph.analysis.moving_operators import REARRANGING
from nm2trt.graph.storage.light_onnx import TensorProto, is_default, onnx

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
_SATURATING = frozenset({"Sigmoid", "HardSigmoid", "Softmax", "Tanh"})
_FREE_SIZED = frozenset({"NonZero", "NonMaxSuppression", "Unique", "Compress", "If", "Loop"})


def before_saturation(graph: onnx.GraphProto) -> list[str]:
    """Return the values whose sigmoid, softmax or the like a model gives; [] if it gives any other float.

    A probability near 0 may be rounded by much of itself. What it is made of says whether a change is right.
    """
    producers = {name: node for node in graph.node for name in node.output if name}
    found = []
    for output in graph.output:
        if output.type.tensor_type.elem_type not in _FLOATS:
            continue
        node = producers.get(output.name)
        while node is not None and node.op_type in REARRANGING:
            node = producers.get(node.input[0])
        if node is None or node.op_type not in _SATURATING or not is_default(node):
            return []
        found.append(node.input[0])
    return sorted({name for name in found if name in producers} - {value.name for value in graph.output})


def data_dependent(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the outputs that come after an operator whose result's size depends on the data."""
    found: set[str] = set()
    for node in graph.node:  # in topological order, as the format requires
        if node.op_type in _FREE_SIZED or not found.isdisjoint(node.input):
            found.update(node.output)
    return frozenset(value.name for value in graph.output if value.name in found)


def lowest_type(proto: onnx.ModelProto) -> str | None:
    """Return the lowest half-precision type among the weights, or None."""
    kinds = {tensor.data_type for tensor in proto.graph.initializer}
    if TensorProto.BFLOAT16 in kinds:
        return "bfloat16"
    return "float16" if TensorProto.FLOAT16 in kinds else None
