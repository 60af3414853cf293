"""The main graph of a model while a pass changes it: what may vanish, and the numbers of constants."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import direct_initializer, evaluate
from nm2trt.graph.analysis.main_graph import MainGraph
from nm2trt.graph.analysis.numpy_operators import MOVES
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.stored_sources import main_source
from nm2trt.graph.storage.external_data import Chunks
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import Model


class Declined(Exception):  # noqa: N818 - it is an answer, not an error
    """A place that is left as it is; the text is a clause that says why."""


@dataclass(slots=True)
class NewTensor:
    """A tensor to add, the name it should have, and what makes its bytes later, if anything does."""

    tensor: TensorProto
    wanted: str
    chunks: Chunks | None = None


class GraphView(MainGraph):
    """The main graph as the changes so far leave it, with what is needed to judge the next one.

    Args:
        model: The model.

    Raises:
        ModelError: The graph breaks a rule of the format, or its nodes are not in topological order.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.graph = model.proto.graph
        if any(mine is not sorted_ for mine, sorted_ in zip(self.graph.node, self.nodes, strict=True)):
            raise ModelError(
                f"the nodes of {model.name} are not in topological order, as ONNX demands; export it again"
            )
        self.dead: set[int] = set()
        self.new: dict[str, NewTensor] = {}

    def live(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """Yield the nodes that are not removed, in the order of the file."""
        for index, node in enumerate(self.nodes):
            if index not in self.dead:
                yield index, node

    def obstacle(self, value: str, reader: int) -> str:
        """Say why a value may not vanish together with its one reader; "" when it may."""
        if value in self.pinned:
            return self.pinned[value]
        others = sorted(index for index, _ in self.readers.get(value, ()) if index != reader)
        if others:
            return f"{self.label(others[0])} reads {value!r} too"
        return "" if len(self.readers.get(value, ())) == 1 else f"{self.label(reader)} reads {value!r} twice"

    def array(self, value: str, what: str) -> Array:
        """Return the numbers of a constant.

        Raises:
            Declined: It is not constant, cannot be evaluated, or is quantised.
            ModelError: A stored tensor is damaged.
        """
        if value not in self.scope.initializers:
            self._check_way(value, what)
        try:
            return evaluate(self.scope, value)
        except Opaque as why:
            raise Declined(f"its {what} cannot be evaluated: {why}") from why

    def _check_way(self, value: str, what: str) -> None:
        state = self.scope.state(value)
        if state.kind != "constant":
            raise Declined(f"its {what} is not constant: {state.why}")
        way = self.way(value)
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in way) or (
            way and what == "weight" and "int" in self.source_dtype(value)
        ):
            raise Declined(f"its {what} is quantised; fuse before quantising")

    def source_dtype(self, value: str) -> str:
        """Return the ONNX name of the element type in which a constant's numbers are stored."""
        source = main_source(self.scope, value)
        return "" if source is None else source.dtype

    def bias(self, index: int, weight: Array) -> Array | None:
        """Return the numbers of a Conv's, ConvTranspose's or Gemm's third input; None if it is missing.

        Raises:
            Declined: It is not constant, cannot be evaluated, or is quantised.
        """
        node = self.nodes[index]
        value = node.input[2] if len(node.input) > 2 else ""
        if not value:
            return None
        return self._typed(value, weight.dtype, 0)

    def _typed(self, value: str, dtype: np.dtype[Any], depth: int) -> Array:
        """Evaluate a bias that exporters cast to the type of the activations, which is the weight's own."""
        index = self.producers.get(value)
        if index is None or value in self.new or self.scope.state(value).kind == "constant" or depth > 4:
            return self.array(value, "bias")
        node = self.nodes[index]
        if node.op_type == "CastLike":
            return self._typed(node.input[0], dtype, depth + 1).astype(dtype)
        if node.op_type not in MOVES or len(node.output) != 1:
            return self.array(value, "bias")
        inputs = [self._typed(name, dtype, depth + 1) if name else None for name in node.input]
        return MOVES[node.op_type](inputs, self.attributes(index))[0]

    def source_name(self, value: str) -> str:
        """Return the name by which a report and a plan know a weight."""
        if value not in self.scope.initializers:
            source = main_source(self.scope, value)
            value = value if source is None else source.name
        new = self.new.get(value)
        return value if new is None else new.wanted

    def bias_name(self, index: int) -> str:
        """Return the name for a node's bias: its own if it is stored, else one after the weight's."""
        node = self.nodes[index]
        value = node.input[2] if len(node.input) > 2 else ""
        if value and direct_initializer(self.scope, value) is not None:
            return self.source_name(value)
        weight = self.source_name(node.input[1])
        return f"{weight[: -len('weight')]}bias" if weight.endswith("weight") else f"{weight}_bias"

    def way(self, value: str) -> list[onnx.NodeProto]:
        """List the nodes in front of a constant."""
        found: list[onnx.NodeProto] = []
        seen: set[str] = set()
        stack = [value]
        while stack:
            name = stack.pop()
            node = self.scope.producers.get(name)
            if node is not None and name not in seen:
                seen.add(name)
                found.append(node)
                stack.extend(item for item in node.input if item)
        return found

    def computed(self, value: str) -> bool:
        """Tell whether a constant is more than a stored tensor that was moved about."""
        if value in self.new or direct_initializer(self.scope, value) is not None:
            return False
        kinds = {node.op_type for node in self.way(value)}
        return bool(kinds - set(MOVES) - {"Constant"})
