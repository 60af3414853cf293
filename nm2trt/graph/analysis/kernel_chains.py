"""Producers and readers of each value of one graph, and how far a kernel reaches after a product.

A builder runs Conv, Gemm and MatMul in one kernel with the nodes directly after: a bias, a folded
BatchNormalization, a residual Add and one activation. The value at the end of that chain is what leaves the
kernel, so it is the one that must be quantised for the layer to be INT8-out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nm2trt.graph.storage.light_onnx import is_default, onnx

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


class Wiring:
    """The nodes of one graph by position, with the producers and readers of its values.

    Args:
        nodes: The nodes; a position in this list names a node.
        pinned: Values that something outside the list reads: outputs, and what bodies capture.
        constant: Tells whether a value is known before anything runs.
    """

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], pinned: Iterable[str], constant: Callable[[str], bool]
    ) -> None:
        self.nodes = nodes
        self.pinned = frozenset(pinned)
        self.constant = constant
        self.producers: dict[str, int] = {}
        self.readers: dict[str, list[tuple[int, int]]] = {}
        self._positions = {id(node): position for position, node in enumerate(nodes)}
        for position, node in enumerate(nodes):
            for slot, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, []).append((position, slot))
            for name in node.output:
                if name:
                    self.producers[name] = position

    def position(self, node: onnx.NodeProto) -> int:
        """Return the position of a node in its list."""
        return self._positions[id(node)]

    def producer(self, value: str, *operators: str) -> onnx.NodeProto | None:
        """Return the node that makes a value, when it is one of ONNX's `operators` (or any, for none)."""
        position = self.producers.get(value)
        if position is None:
            return None
        node = self.nodes[position]
        if operators and (node.op_type not in operators or not is_default(node)):
            return None
        return node

    def is_residual(self, position: int) -> bool:
        """Tell whether a node adds two values that are both computed."""
        node = self.nodes[position]
        return (
            node.op_type == "Add"
            and len(node.input) == 2
            and node.input[0] != node.input[1]
            and not any(self.constant(name) for name in node.input)
        )

    def chain(self, start: int, joins: Callable[[int], bool] = lambda _: True) -> Chain:
        """Follow what a kernel that starts with a product goes on to compute.

        Args:
            start: Position of the product.
            joins: Tells whether the kernel takes in the residual Add at a position.
        """
        nodes = [start]
        value = self.nodes[start].output[0]
        add: int | None = None
        while value not in self.pinned:
            readers = self.readers.get(value, [])
            if len(readers) != 1:
                break
            position, slot = readers[0]
            node = self.nodes[position]
            if not is_default(node):
                break
            active = node.op_type in ACTIVATIONS and slot == 0
            folded = node.op_type == "BatchNormalization" and slot == 0 and len(nodes) == 1
            bias = node.op_type == "Add" and add is None and self.constant(node.input[1 - slot])
            residual = add is None and self.is_residual(position) and joins(position)
            if not (active or folded or bias or residual or node.op_type == "Identity"):
                break
            add = position if residual else add
            nodes.append(position)
            value = node.output[0]
            if active:
                break
        return Chain(start, tuple(nodes), value, add)
