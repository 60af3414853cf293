"""The main graph of a model by position: its nodes, and which of them make and read each value.

Passes change it, kernels are followed on it, and the reconstruction runs it in segments. Bodies and calls of
functions are scopes of their own: `scopes.walk` yields them; `verify.stored_readers` finds readers in all.
"""

from __future__ import annotations

from typing import Any

from nm2trt.graph.analysis.pinned_values import pins
from nm2trt.graph.analysis.scopes import main_scope, walk
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.model import Model


class MainGraph:
    """The main graph.

    Args:
        model: The model.

    Attributes:
        model: The model.
        scope: What is known of the graph's values.
        nodes: In topological order, which ONNX demands of the file; a position in this list names a node.
        producers: The node that makes each value.
        readers: Node and slot of each input that is a value.
        pinned: The values that something besides `nodes` reads: outputs, what bodies capture; with the
            clause that says so.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        walk(model)  # for what it refuses
        self.scope = main_scope(model)
        self.nodes: list[onnx.NodeProto] = list(self.scope.nodes)
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, set[tuple[int, int]]] = {}
        for index in range(len(self.nodes)):
            self._note_readers(index)
        self.pinned = dict(pins(model.proto))

    def _note_readers(self, index: int) -> None:
        for slot, value in enumerate(self.nodes[index].input):
            if value:
                self.readers.setdefault(value, set()).add((index, slot))

    def label(self, index: int) -> str:
        """Return a node's name, for messages."""
        return self.scope.label(self.nodes[index])

    def attributes(self, index: int) -> dict[str, Any]:
        """Return a node's attributes as Python values."""
        return self.scope.node_attributes(self.nodes[index])

    def producer(self, value: str, *operators: str) -> int | None:
        """Return the node that makes a value, when it is one of ONNX's `operators`."""
        index = self.producers.get(value)
        if index is None or not is_default(self.nodes[index]):
            return None
        return index if self.nodes[index].op_type in operators else None

    def is_constant(self, value: str) -> bool:
        """Tell whether a value does not depend on the model's inputs."""
        return self.scope.state(value).kind == "constant"
