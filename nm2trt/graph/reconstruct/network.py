"""The main graph as the reconstruction sees it: copies looked through, segments, stored tensors.

Identity nodes are looked through in both directions, and so is a Cast of a stored float tensor to another
float type. Nodes that only compute constants belong to no segment:
each segment that reads a constant computes it again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.main_graph import MainGraph
from nm2trt.graph.analysis.stored_sources import stored_tensors
from nm2trt.graph.analysis.value_states import visible
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.light_onnx import TensorProto, is_default, onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.tensors import read_tensor

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


class Network(MainGraph):
    """The main graph, run in segments.

    Args:
        model: The model; its external data is read when a tensor is asked for.

    Attributes:
        reads: What each node reads, the values that its bodies capture included.
        readers: Those of `MainGraph`, and slot -1 of a node with a body that reads the value.
        dynamic: Positions of the nodes that depend on an input of the model.
        outputs: Names of the model's outputs that hold numbers; sequences and text are not compared.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        graph = model.proto.graph
        self.outputs = [value.name for value in graph.output if _holds_numbers(value.type)]
        self._ends = {value.name for value in graph.output}
        self.reads = [list(dict.fromkeys(visible(self.scope, node))) for node in self.nodes]
        for index, names in enumerate(self.reads):
            for name in set(names).difference(self.nodes[index].input):
                self.readers.setdefault(name, set()).add((index, -1))
        self.dynamic = [i for i, node in enumerate(self.nodes) if not self._computes_constant(node)]
        self._stored = stored_tensors(graph)

    def _computes_constant(self, node: onnx.NodeProto) -> bool:
        return all(map(self.is_constant, filter(None, node.output)))

    def origin(self, value: str) -> str:
        """Return the value that a chain of copies starts from."""
        while value in self.producers and self._is_copy(self.producers[value]):
            value = self.nodes[self.producers[value]].input[0]
        return value

    def _is_copy(self, index: int) -> bool:
        node = self.nodes[index]
        if node.op_type == "Cast" and self._computes_constant(node):
            return self.attributes(index).get("to") in _FLOATS
        return node.op_type == "Identity" and is_default(node)

    def real_readers(self, value: str) -> list[tuple[int, int]]:
        """List the readers of a value, or of a copy of it."""
        found: list[tuple[int, int]] = []
        for index, slot in sorted(self.readers.get(value, ())):
            if self._is_copy(index):
                found += self.real_readers(self.nodes[index].output[0])
            else:
                found.append((index, slot))
        return found

    def is_output(self, value: str) -> bool:
        """Tell whether a value or a copy of it is an output of the model."""
        readers = self.readers.get(value, ())
        copies = (self.nodes[index].output[0] for index, _ in readers if self._is_copy(index))
        return value in self._ends or any(map(self.is_output, copies))

    def stored(self, value: str) -> str | None:
        """Return the name of the stored tensor, in 32 or 16 bits, that a value is a copy of, or None."""
        name = self.origin(value)
        tensor = self._stored.get(name)
        return name if tensor is not None and tensor.data_type in _FLOATS else None

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
            index = self.producers.get(stack.pop())
            if index is not None and index not in found and self._computes_constant(self.nodes[index]):
                found.add(index)
                stack.extend(self.reads[index])
        return sorted(found)


def _holds_numbers(kind: onnx.TypeProto) -> bool:
    """Tell whether a type is that of a tensor of numbers; one that the file does not name is taken for it."""
    named = kind.WhichOneof("value")
    return named is None or (named == "tensor_type" and kind.tensor_type.elem_type != TensorProto.STRING)
