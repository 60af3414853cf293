"""Edit the main graph of a model in place: the maker of a value, its readers, and what may not change.

Nodes are changed where they stand and removed at the end, so that everything a pass does not touch stays
byte for byte what it was. Each edit costs what it touches, never the size of the graph.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import direct_initializer, evaluate
from nm2trt.graph.analysis.numpy_operators import MOVES
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.pinned_values import all_names, pins
from nm2trt.graph.analysis.scopes import main_scope, walk
from nm2trt.graph.analysis.stored_sources import main_source
from nm2trt.graph.analysis.value_states import CONSTANT
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import Chunks, pack
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.model_file import Rewrite

_IR_WITH_FREE_INITIALIZERS = 4


class Declined(Exception):  # noqa: N818 - it is an answer, not an error
    """A place that is left as it is; the text is a clause that says why."""


@dataclass(slots=True)
class _NewTensor:
    tensor: TensorProto
    wanted: str
    chunks: Chunks | None = None


class Editor:
    """The main graph, with what is needed to change it.

    Args:
        model: The model; its protobuf is changed by `finish`.

    Raises:
        ModelError: The graph breaks a rule of the format, or its nodes are not in topological order.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.proto.graph
        walk(model)  # for what it refuses
        self.scope = main_scope(model)
        # The wrappers are held, since the scope knows them by identity.
        self.nodes: list[onnx.NodeProto] = list(self.graph.node)
        if any(mine is not sorted_ for mine, sorted_ in zip(self.nodes, self.scope.nodes, strict=False)):
            raise ModelError(
                f"the nodes of {model.name} are not in topological order, as ONNX demands; export it again"
            )
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.readers: dict[str, set[tuple[int, int]]] = {}
        for index, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                if name:
                    self.readers.setdefault(name, set()).add((index, slot))
        self.pinned = dict(pins(model.proto))
        self.dead: set[int] = set()
        self.new: dict[str, _NewTensor] = {}
        self.made: list[Rewrite] = []
        self._released: list[str] = []
        self._gone: set[str] = set()
        self._names = all_names(self.graph)
        self._suffix = "fused"
        self._types = {tensor.name: int(tensor.data_type) for tensor in self.graph.initializer}

    def label(self, index: int) -> str:
        """Return a node's name, for messages."""
        return self.scope.label(self.nodes[index])

    def live(self) -> Iterator[tuple[int, onnx.NodeProto]]:
        """Yield the nodes that are not removed, in the order of the file."""
        for index, node in enumerate(self.nodes):
            if index not in self.dead:
                yield index, node

    def attributes(self, index: int) -> dict[str, Any]:
        """Return a node's attributes as Python values."""
        return self.scope.node_attributes(self.nodes[index])

    def producer(self, value: str, *operators: str) -> int | None:
        """Return the node that makes a value, when it is one of ONNX's `operators`."""
        index = self.producers.get(value)
        if index is None or self.nodes[index].domain not in ("", "ai.onnx"):
            return None
        return index if self.nodes[index].op_type in operators else None

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
        state = self.scope.state(value)
        if state.kind != "constant":
            raise Declined(f"its {what} is not constant: {state.why}")
        way = self.way(value)
        if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in way) or (
            way and what == "weight" and "int" in self.source_dtype(value)
        ):
            raise Declined(f"its {what} is quantised; fuse before quantising")
        try:
            return evaluate(self.scope, value)
        except Opaque as why:
            raise Declined(f"its {what} cannot be evaluated: {why}") from why

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
        source = main_source(self.scope, value)
        if source is None:
            return value
        new = self.new.get(source.name)
        return source.scope.name + source.name if new is None else new.wanted

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

    def add_tensor(self, array: Array, wanted: str, like: str | None = None) -> str:
        """Add a tensor and return the name to use for it until `finish`, which gives it `wanted` if free.

        Args:
            array: Its numbers; the dtype is kept.
            wanted: The name it should have.
            like: A value of the element type it should have; None derives it from the dtype.
        """
        name = self._fresh(wanted)
        data_type = _onnx_type(array) if like is None else self._type_of(like, array)
        tensor = TensorProto(name=name, data_type=data_type, dims=array.shape)
        tensor.raw_data = pack(array, element_type(tensor))
        self.new[name] = _NewTensor(tensor, wanted)
        # The scope should find it as it finds what was there before.
        self.scope.initializers[name] = tensor
        self.scope.states[name] = CONSTANT
        return name

    def add_made(self, data_type: int, shape: Sequence[int], chunks: Chunks, wanted: str) -> str:
        """Add a tensor whose numbers are made while it is written; see `add_tensor` for the name.

        Until then nothing can read them. After `finish`, `made` has the rewrites that the pass returns.

        Args:
            data_type: ONNX's number of its element type.
            shape: Its shape.
            chunks: Returns its raw bytes, in pieces; it is called once.
            wanted: The name it should have.
        """
        name = self._fresh(wanted)
        tensor = TensorProto(name=name, data_type=data_type, dims=shape)
        self.new[name] = _NewTensor(tensor, wanted, chunks)
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
        for slot, value in enumerate(values):
            self.readers.setdefault(value, set()).add((index, slot))

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

    def _store(self, name: str, new: _NewTensor) -> str:
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

    def _fresh(self, wanted: str) -> str:
        name, count = f"{wanted}_{self._suffix}", 1
        while name in self._names:
            count += 1
            name = f"{wanted}_{self._suffix}{count}"
        self._names.add(name)
        return name

    def _type_of(self, value: str, array: Array) -> int:
        if value in self.new:
            return int(self.new[value].tensor.data_type)
        return self._types.get(value, _onnx_type(array))


def _onnx_type(array: Array) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
