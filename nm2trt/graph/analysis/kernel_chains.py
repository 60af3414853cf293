"""How far a kernel reaches after a product.

A builder runs Conv, Gemm and MatMul in one kernel with the nodes directly after: a bias, a folded
BatchNormalization, a residual Add and one activation. The value at the end of that chain is what leaves the
kernel, so it is the one that must be quantised for the layer to be INT8-out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nm2trt.graph.analysis.main_graph import MainGraph
from nm2trt.graph.storage.light_onnx import is_default

# Activations that a builder fuses with an INT8 product; others run by themselves.
ACTIVATIONS = frozenset({"Relu", "Clip", "LeakyRelu"})
# A builder runs each in one kernel with the nodes directly after.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class Chain:
    """What one kernel computes.

    Args:
        start: Position of the product.
        nodes: Positions of all its nodes, the product first.
        value: What it gives.
        add: Position of the residual Add among them, or None.
    """

    start: int
    nodes: tuple[int, ...]
    value: str
    add: int | None = None


def is_residual(graph: MainGraph, position: int) -> bool:
    """Tell whether a node adds two values that are both computed."""
    node = graph.nodes[position]
    return (
        node.op_type == "Add"
        and len(node.input) == 2
        and node.input[0] != node.input[1]
        and not any(map(graph.is_constant, node.input))
    )


def kernel_chain(graph: MainGraph, start: int, joins: Callable[[int], bool] = lambda _: True) -> Chain:
    """Follow what a kernel that starts with a product goes on to compute.

    Args:
        graph: The graph.
        start: Position of the product.
        joins: Tells whether the kernel takes in the Add at a position, of a constant or a residual one.
    """
    nodes = [start]
    value = graph.nodes[start].output[0]
    add: int | None = None
    while value not in graph.pinned and len(graph.readers.get(value, ())) == 1:
        ((position, slot),) = graph.readers[value]
        node = graph.nodes[position]
        if not is_default(node):
            break
        active = node.op_type in ACTIVATIONS and slot == 0
        folded = node.op_type == "BatchNormalization" and slot == 0 and len(nodes) == 1
        residual = add is None and is_residual(graph, position)
        bias = node.op_type == "Add" and add is None and graph.is_constant(node.input[1 - slot])
        if not (active or folded or ((bias or residual) and joins(position)) or node.op_type == "Identity"):
            break
        add = position if residual else add
        nodes.append(position)
        value = node.output[0]
        if active:
            break
    return Chain(start, tuple(nodes), value, add)
