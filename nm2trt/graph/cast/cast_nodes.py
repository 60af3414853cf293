"""Give every reader of a value its type: tensors stored in it, and one cast for all readers of the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.numpy_operators import cast_array
from nm2trt.graph.analysis.pinned_values import pins
from nm2trt.graph.cast.cast_plan import PrecisionPlan
from nm2trt.graph.cast.cast_rules import Low
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import Chunks, pack
from nm2trt.graph.storage.light_onnx import TensorProto, graphs_of, onnx
from nm2trt.graph.storage.tensors import iter_elements

_FLOAT = TensorProto.FLOAT
_OTHERS = {
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.DOUBLE: "float64",
}


class Casts:
    """The casts of one graph.

    Args:
        editor: The graph.
        plan: Which nodes compute in the lower type.
        types: Element type of each value, by ONNX's numbers.
        low: The lower type.
        io: Cast the model's inputs and outputs too.

    Attributes:
        made_low: Values that nodes make in the lower type, under their final names.
        renamed: Name of each stored tensor that was cast, to the name that the editor gave the new one.
        cast_nodes: Nodes that compute in the lower type.
        casts: Cast nodes added.
    """

    def __init__(
        self, editor: Inserter, plan: PrecisionPlan, types: Mapping[str, int], low: Low, *, io: bool
    ) -> None:
        self._editor, self._plan, self._types, self._low, self._io = editor, plan, types, low, io
        self._cast: dict[tuple[str, int], str] = {}
        self._captured = _captured(editor.model.proto.graph)
        self.made_low: set[str] = set()
        self.renamed: dict[str, str] = {}
        self.cast_nodes = self.casts = 0

    def run(self) -> None:
        """Give every reader what it reads in the type that it takes."""
        editor, plan = self._editor, self._plan
        live = list(editor.live())
        graph = editor.model.proto.graph
        if self._io:
            fixed = self._captured | editor.scope.initializers.keys()
            self.made_low.update(
                v.name for v in graph.input if self._types.get(v.name) == _FLOAT and v.name not in fixed
            )
        for index, node in live:
            if plan.is_low(index):
                self.cast_nodes += 1
                self.made_low.update(node.output[slot] for slot in plan.outputs[index])
        if not self.cast_nodes:
            kept = plan.kept()
            why = f": {kept[0].operator} {kept[0].node!r} stays, since {kept[0].reason}" if kept else ""
            other = next((name for kind, name in _OTHERS.items() if kind in self._types.values()), "")
            if other and not kept:
                why = f": it computes in {other}"
            more = f", and {len(kept) - 1} more stay" if len(kept) > 1 else ""
            raise ModelError(
                f"{editor.model.name} has no float32 node to cast to {self._low.name}{why}{more}"
            )
        already = self._drop_old_casts(live)
        readings = [
            (index, slot, name)
            for index, node in live
            for slot, name in enumerate(node.input)
            if name and self._types.get(name) == _FLOAT and (index, slot) not in already
        ]
        for index, slot, name in readings:
            wants_low = plan.is_low(index) and slot in plan.inputs[index]
            free = editor.nodes[index].op_type == "Cast"
            if wants_low and name not in self.made_low:
                editor.set_input(index, slot, self._lowered(name))
            elif not wants_low and not free and name in self.made_low:
                editor.set_input(index, slot, self._raised(name))
        for output in graph.output:
            self._settle_output(output)
        for name in self._captured & self.made_low:
            self._keep_name(name)

    def _drop_old_casts(self, live: Sequence[tuple[int, onnx.NodeProto]]) -> set[tuple[int, int]]:
        """Let readers of a cast to the lower type read that type's value instead; return those operands."""
        editor = self._editor
        found: set[tuple[int, int]] = set()
        for index, node in live:
            if node.op_type != "Cast" or node.input[0] not in self.made_low:
                continue
            name = node.output[0]
            if editor.attributes(index)["to"] == self._low.onnx and name not in editor.pinned:
                for reader, slot in sorted(editor.readers.get(name, ())):
                    editor.set_input(reader, slot, node.input[0])
                    found.add((reader, slot))
        return found

    def _lowered(self, value: str) -> str:
        """Return a value in the lower type: a tensor stored so, or one cast for all readers."""
        key = (value, self._low.onnx)
        if key not in self._cast:
            self._cast[key] = self._stored(value) or self._insert_cast(value, self._low.onnx, self._low.name)
        return self._cast[key]

    def _raised(self, value: str) -> str:
        key = (value, int(_FLOAT))
        if key not in self._cast:
            self._cast[key] = self._insert_cast(value, _FLOAT, "fp32")
        return self._cast[key]

    def _stored(self, value: str) -> str | None:
        """Return a stored tensor's copy in the lower type; None for a computed value or an input."""
        editor = self._editor
        producer = editor.producer(value, "Constant")
        proto = editor.model.proto
        # An initializer that is an input too is its default, except before IR 4, where each had to be both.
        given = proto.ir_version >= 4 and any(item.name == value for item in proto.graph.input)
        if producer is None and (value not in editor.scope.initializers or given):
            return None
        stored = None if producer is not None else editor.scope.initializers[value]
        if stored is not None and stored.data_location == TensorProto.EXTERNAL:
            self.renamed[value] = editor.add_made(
                self._low.onnx, stored.dims, self._cast_pieces(stored), value
            )
        else:
            array = cast_array(evaluate(editor.scope, value), self._low.dtype)
            self.renamed[value] = editor.add_tensor(array, value)
        return self.renamed[value]

    def _cast_pieces(self, stored: TensorProto) -> Chunks:
        """Return what makes the bytes of a tensor's copy as it is written: weights may fill memory."""
        source, low = TensorProto(), self._low
        source.CopyFrom(stored)  # what is in the graph goes with the last reader
        root = self._editor.model.root

        def chunks() -> Iterator[bytes]:
            kind = element_type(TensorProto(data_type=low.onnx))
            for piece in iter_elements(source, root):
                yield pack(cast_array(piece, low.dtype), kind)

        return chunks

    def _insert_cast(self, value: str, to: int, suffix: str) -> str:
        editor = self._editor
        source = value
        maker = editor.producer(value, "Cast")
        if maker is not None and to == self._low.onnx:
            # One cast from the origin instead of a second one after the first; none if it is low already.
            source = str(editor.nodes[maker].input[0])
            if source in self.made_low or self._types.get(source) == self._low.onnx:
                return source
        name = editor.unique(f"{value}_{suffix}")
        after = editor.producers.get(source, -1)
        editor.insert("Cast", [source], name, after=after, label=f"{value}_to_{suffix}", to=to)
        self.casts += 1
        return name

    def _settle_output(self, output: onnx.ValueInfoProto) -> None:
        """Give an output of the model the type that it had, or the lower one if that is asked for."""
        name = output.name
        if self._types.get(name) != _FLOAT:
            return
        if name not in self._editor.producers:
            if name in self.made_low:  # an input that leaves as it came
                output.type.tensor_type.elem_type = self._low.onnx
            return
        if name in self.made_low and not self._io:
            self._keep_name(name)
        elif self._io and name not in self._captured:
            output.type.tensor_type.elem_type = self._low.onnx
            if name not in self.made_low:
                self._keep_name(name, to=self._low.onnx)

    def _keep_name(self, name: str, *, to: int = _FLOAT) -> None:
        """Make a value of one type under a new name, and its old name by a cast to another type."""
        editor = self._editor
        index = editor.producers[name]
        node = editor.nodes[index]
        own = self._low.name if to == _FLOAT else "fp32"
        new = editor.unique(f"{name}_{own}")
        slot = list(node.output).index(name)
        node.output[slot] = new
        editor.producers[new] = index
        raised = self._cast.pop((name, int(to)), None)
        for reader, place in sorted(editor.readers.get(name, ())):
            editor.set_input(reader, place, new)
        editor.insert(
            "Cast", [new], name, after=index, label=f"{name}_to_{'fp32' if to == _FLOAT else own}", to=to
        )
        self.casts += 1
        if name in self.made_low:
            self.made_low.discard(name)
            self.made_low.add(new)
        if raised is not None:
            # Reusing the cast of other readers would put a second one beside it.
            for reader, place in sorted(editor.readers.get(raised, ())):
                editor.set_input(reader, place, name)
            self.casts -= 1

    def retype(self, finals: Mapping[str, str]) -> None:
        """Write the new types where the file declares them."""
        graph = self._editor.model.proto.graph
        for value in graph.value_info:
            if value.name in self.made_low:
                value.type.tensor_type.elem_type = self._low.onnx
        stored = {tensor.name: tensor.data_type for tensor in graph.initializer}
        for value in graph.input:
            if value.name in self.made_low:
                value.type.tensor_type.elem_type = self._low.onnx
            elif value.name in set(finals.values()) & stored.keys():
                value.type.tensor_type.elem_type = stored[value.name]


def _captured(graph: onnx.GraphProto) -> set[str]:
    """Return the values that bodies read; they stay what they were."""
    holder = onnx.ModelProto()
    holder.graph.node.extend(filter(graphs_of, graph.node))
    return {name for name, _ in pins(holder)}
