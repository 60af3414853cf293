"""The editor: changes the main graph of a model in place.

Nodes are changed where they stand and removed at the end, so that everything a pass does not touch stays
byte for byte what it was. Each edit costs what it touches, never the size of the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

from nm2trt.arrays import Array
from nm2trt.graph.analysis.pinned_values import all_names, numbered_name
from nm2trt.graph.analysis.value_states import CONSTANT
from nm2trt.graph.edit.graph_view import GraphView, NewTensor
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import Chunks, pack
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.model_file import Rewrite

_IR_WITH_FREE_INITIALIZERS = 4


class Editor(GraphView):
    """The main graph, open to changes.

    Args:
        model: The model; its protobuf is changed by `finish`.

    Raises:
        ModelError: As `GraphView`.
    """

    def __init__(self, model: Model) -> None:
        super().__init__(model)
        self.made: list[Rewrite] = []
        self._released: list[str] = []
        self._gone: set[str] = set()
        self._names = all_names(self.graph)
        self._suffix = "fused"
        self._types = {tensor.name: int(tensor.data_type) for tensor in self.graph.initializer}

    def add_tensor(self, array: Array, wanted: str, like: str | None = None) -> str:
        """Add a tensor and return the name to use for it until `finish`, which gives it `wanted` if free.

        Args:
            array: Its numbers; the dtype is kept.
            wanted: The name it should have.
            like: A value of the element type it should have; None derives it from the dtype.
        """
        data_type = _onnx_type(array) if like is None else self._type_of(like, array)
        name = self.add_made(data_type, array.shape, None, wanted)
        tensor = self.new[name].tensor
        tensor.raw_data = pack(array, element_type(tensor))
        return name

    def add_made(self, data_type: int, shape: Sequence[int], chunks: Chunks | None, wanted: str) -> str:
        """Add a tensor whose numbers are made while it is written; see `add_tensor` for the name.

        Until then nothing can read them. After `finish`, `made` has the rewrites that the pass returns.

        Args:
            data_type: ONNX's number of its element type.
            shape: Its shape.
            chunks: Returns its raw bytes, in pieces; it is called once. None leaves them to the caller.
            wanted: The name it should have.
        """
        name = numbered_name(f"{wanted}_{self._suffix}", self._names, "")
        tensor = TensorProto(name=name, data_type=data_type, dims=shape)
        self.new[name] = NewTensor(tensor, wanted, chunks)
        # The scope should find it as it finds what was there before.
        self.scope.initializers[name] = tensor
        self.scope.states[name] = CONSTANT
        return name

    def set_input(self, index: int, slot: int, value: str) -> None:
        """Make a node read another value; a slot beyond its last is added."""
        node = self.nodes[index]
        while len(node.input) <= slot:
            node.input.append("")
        self._release(index, slot)
        node.input[slot] = value
        if value:
            self.readers.setdefault(value, set()).add((index, slot))

    def set_inputs(self, index: int, values: Sequence[str]) -> None:
        """Replace all inputs of a node."""
        node = self.nodes[index]
        for slot in range(len(node.input)):
            self._release(index, slot)
        del node.input[:]
        node.input.extend(values)
        self._note_readers(index)

    def take_output(self, index: int, other: int) -> None:
        """Let a node make the first output of another, which is removed; its own old output is gone."""
        value = self.nodes[other].output[0]
        self.remove(other)
        self._gone.discard(value)
        self._gone.add(self.nodes[index].output[0])
        self.producers.pop(self.nodes[index].output[0], None)
        self.nodes[index].output[0] = value
        self.producers[value] = index

    def remove(self, index: int) -> None:
        """Remove a node."""
        self.dead.add(index)
        for slot in range(len(self.nodes[index].input)):
            self._release(index, slot)
        for name in self.nodes[index].output:
            if name:
                self.producers.pop(name, None)
                self._gone.add(name)

    def finish(self) -> dict[str, str]:
        """Apply everything to the protobuf.

        Returns:
            The name that `add_tensor` gave, to the tensor's final name.
        """
        self.model.touch()
        dropped = self._collect()
        for name in self._gone | dropped:
            self._names.discard(name)
        for index in sorted(self.dead, reverse=True):
            if index < len(self.graph.node):  # a node of the file, not one that was added
                del self.graph.node[index]
        for field in (self.graph.initializer, self.graph.input, self.graph.value_info):
            stale = dropped if field is not self.graph.value_info else dropped | self._gone
            for position in range(len(field) - 1, -1, -1):
                if field[position].name in stale:
                    del field[position]
        sparse = self.graph.sparse_initializer
        for position in range(len(sparse) - 1, -1, -1):
            if sparse[position].values.name in dropped:
                del sparse[position]
        return {name: self._store(name, new) for name, new in self.new.items() if self.readers.get(name)}

    def _store(self, name: str, new: NewTensor) -> str:
        final = new.wanted if new.wanted not in self._names else name
        if final != name:
            self._names.discard(name)
            self._names.add(final)
            for index, slot in self.readers[name]:
                self.nodes[index].input[slot] = final
        new.tensor.name = final
        self.graph.initializer.append(new.tensor)
        if new.chunks is not None:
            self.made.append(Rewrite(self.graph.initializer[-1], new.chunks))  # `append` copies
        if self.model.proto.ir_version < _IR_WITH_FREE_INITIALIZERS:
            info = onnx.helper.make_tensor_value_info(final, new.tensor.data_type, list(new.tensor.dims))
            self.graph.input.append(info)
        return final

    def _collect(self) -> set[str]:
        """Remove what only removed nodes read, and return the names of stored tensors among it."""
        dropped: set[str] = set()
        stack = list(self._released)
        while stack:
            value = stack.pop()
            if self.readers.get(value) or value in self.pinned or value in self.new:
                continue
            if value in self.scope.initializers or value in self.scope.sparse:
                dropped.add(value)
                continue
            index = self.producers.get(value)
            if index is None or index in self.dead:
                continue
            outputs = [name for name in self.nodes[index].output if name]
            if not any(self.readers.get(name) or name in self.pinned for name in outputs):
                stack.extend(name for name in self.nodes[index].input if name)
                self.remove(index)
        return dropped

    def _release(self, index: int, slot: int) -> None:
        value = self.nodes[index].input[slot]
        if value:
            self.readers.get(value, set()).discard((index, slot))
            self._released.append(value)

    def _type_of(self, value: str, array: Array) -> int:
        if value in self.new:
            return int(self.new[value].tensor.data_type)
        return self._types.get(value, _onnx_type(array))


def _onnx_type(array: Array) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
