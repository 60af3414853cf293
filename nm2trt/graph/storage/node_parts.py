"""Name, attributes and bodies of a node."""

from __future__ import annotations

from collections.abc import Iterator

from nm2trt.graph.storage.light_onnx import onnx

# Types of attributes that hold no graph.
_PLAIN = frozenset(
    getattr(onnx.AttributeProto, kind)
    for kind in ("FLOAT", "INT", "STRING", "TENSOR", "FLOATS", "INTS", "STRINGS")
)


def node_name(node: onnx.NodeProto, position: int) -> str:
    """Return a node's name, or its type and position if it has no name."""
    return node.name or f"{node.op_type}#{position}"


def bodies(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Yield the graphs in a node's attributes, each with the attribute's name."""
    for attribute in node.attribute:
        kind = attribute.type
        if kind in _PLAIN:
            continue
        if kind == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        for graph in attribute.graphs:
            yield attribute.name, graph


def renamed(attribute: onnx.AttributeProto, name: str) -> onnx.AttributeProto:
    """Return a copy of an attribute under another name."""
    copy = onnx.AttributeProto()
    copy.CopyFrom(attribute)
    copy.name = name
    return copy
