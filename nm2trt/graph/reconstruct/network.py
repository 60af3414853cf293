"""The main graph as the reconstruction sees it: nodes in order, readers of a value, stored tensors.

Identity nodes are looked through in both directions, and so is a Cast of a stored float tensor to another
float type. Nodes that only compute constants belong to no segment:
each segment that reads a constant computes it again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.scopes import main_scope, walk
from nm2trt.graph.analysis.stored_sources import stored_tensors
from nm2trt.graph.analysis.value_states import visible
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.light_onnx import TensorProto, is_default, onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.tensors import read_tensor

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True, slots=True)
class Reader:
    """One input of one node.

    Args:
        index: Position of the node in the graph.
        slot: Which input; -1 when a body of the node reads the value.
    """

    index: int
    slot: int


class Network:
    """The main graph.

    Args:
        model: The model; its external data is read when a tensor is asked for.

    Attributes:
        nodes: In the order of the file.
        dynamic: Positions of the nodes that depend on an input of the model.
        outputs: Names of the model's outputs that hold numbers; sequences and text are not compared.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        graph = model.proto.graph
        walk(model)  # for what it refuses
        self.scope = main_scope(model)
        self.nodes: list[onnx.NodeProto] = list(self.scope.nodes)
        self.outputs = [value.name for value in graph.output if _holds_numbers(value.type)]
        self._ends = {value.name for value in graph.output}
        self.reads = [list(dict.fromkeys(visible(self.scope, node))) for node in self.nodes]
        self.dynamic = [i for i, node in enumerate(self.nodes) if not self._is_constant(node)]
        self._made_by = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self._readers: dict[str, list[Reader]] = {}
        for index, node in enumerate(self.nodes):
            for name in self.reads[index]:
                slots = [slot for slot, value in enumerate(node.input) if value == name] or [-1]
                self._readers.setdefault(name, []).extend(Reader(index, slot) for slot in slots)
        self._stored = stored_tensors(graph)

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        return all(self.scope.state(name).kind == "constant" for name in node.output if name)

    def attributes(self, index: int) -> dict[str, Any]:
        """Return a node's attributes as Python values."""
        return self.scope.node_attributes(self.nodes[index])

    def label(self, index: int) -> str:
        """Return a node's name, for messages."""
        return self.scope.label(self.nodes[index])

    def origin(self, value: str) -> str:
        """Return the value that a chain of copies starts from."""
        while value in self._made_by and self._is_copy(self._made_by[value]):
            value = self.nodes[self._made_by[value]].input[0]
        return value

    def _is_copy(self, index: int) -> bool:
        node = self.nodes[index]
        if node.op_type == "Cast" and self._is_constant(node):
            return self.attributes(index).get("to") in _FLOATS
        return node.op_type == "Identity" and is_default(node)

    def readers(self, value: str) -> list[Reader]:
        """List the readers of a value, or of a copy of it."""
        found: list[Reader] = []
        for reader in self._readers.get(value, []):
            if self._is_copy(reader.index):
                found += self.readers(self.nodes[reader.index].output[0])
            else:
                found.append(reader)
        return found

    def is_output(self, value: str) -> bool:
        """Tell whether a value or a copy of it is an output of the model."""
        copies = (
            self.nodes[reader.index].output[0]
            for reader in self._readers.get(value, [])
            if self._is_copy(reader.index)
        )
        return value in self._ends or any(self.is_output(copy) for copy in copies)

    def stored(self, value: str) -> str | None:
        """Return the name of the stored tensor, in 32 or 16 bits, that a value is a copy of, or None."""
        name = self.origin(value)
        tensor = self._stored.get(name)
        return name if tensor is not None and tensor.data_type in _FLOATS else None

    def is_constant(self, value: str) -> bool:
        """Tell whether a value does not depend on the model's inputs."""
        return self.scope.state(value).kind == "constant"

    def tensor(self, name: str) -> TensorProto:
        """Return where a stored tensor's numbers are kept."""
        return self._stored[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a stored tensor."""
        return tuple(self._stored[name].dims)

    def read(self, name: str) -> Array:
        """Return the numbers of a stored tensor in float32.

        Raises:
            ModelError: They are missing or damaged.
        """
        return np.array(read_tensor(self._stored[name], self.model.root), np.float32)

    def dtype(self, name: str) -> np.dtype[Any]:
        """Return the type that a stored tensor keeps its numbers in."""
        return np.dtype(element_type(self._stored[name]).numpy)

    def constant_producers(self, values: set[str]) -> list[int]:
        """Return the positions of the nodes, in order, that compute the constants among `values`."""
        found: set[int] = set()
        stack = list(values)
        while stack:
            index = self._made_by.get(stack.pop())
            if index is not None and index not in found and self._is_constant(self.nodes[index]):
                found.add(index)
                stack.extend(self.reads[index])
        return sorted(found)


def _holds_numbers(kind: onnx.TypeProto) -> bool:
    """Tell whether a type is that of a tensor of numbers; one that the file does not name is taken for it."""
    named = kind.WhichOneof("value")
    return named is None or (named == "tensor_type" and kind.tensor_type.elem_type != TensorProto.STRING)
