"""Stored weights and their readers: what stands between, and what keeps a pass from changing the numbers.

`prune` refuses by these rules, and `verify` advises by them, so that no advice leads to a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from nm2trt.graph.analysis.constant_values import Source
from nm2trt.graph.analysis.kernel_chains import PRODUCTS
from nm2trt.graph.analysis.moving_operators import SELECTING
from nm2trt.graph.analysis.numpy_operators import MOVES
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.scopes import carried, main_scope, walk
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.analysis.weight_operands import Consumer
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.node_parts import bodies
from nm2trt.nm.axes import onnx_weight

# Operators that carry a zero of the stored tensor to a zero of the weight, besides those that move elements.
_KEEPS_ZERO = frozenset({"Cast", "CastLike", "DequantizeLinear", "QuantizeLinear"})
_FLOATS = ("float32", "float16", "bfloat16")

# Nodes, each with the scope that it stands in.
Way: TypeAlias = "list[tuple[Scope, onnx.NodeProto]]"


class Readers:
    """Who reads each value of a model, in every scope."""

    def __init__(self, model: Model) -> None:
        self._readers: dict[tuple[str, str], list[tuple[Scope, onnx.NodeProto, int]]] = {}
        # A loop that hands a value to its body as it is does not read it itself: what it ends as is the same.
        self._ends: dict[tuple[str, int, int], str] = {}
        main = main_scope(model)
        ends = (main.owner(value.name) for value in model.proto.graph.output)
        self._outputs = {(end[0].name, end[1]) for end in ends if end is not None}
        # Scopes hold the nodes' wrappers, whose identity names a node here and in `Consumer`.
        for scope, node in walk(model):
            if (node.domain, node.op_type) in scope.functions:
                continue  # its body's nodes are the readers
            for state in (item for _, body in bodies(node) for item in carried(scope, node, body)):
                if state.unchanged:
                    self._ends[scope.name, id(node), state.slot] = state.final
            for slot, value in enumerate(node.input):
                owner = scope.owner(value) if value else None
                if owner is not None:
                    self._readers.setdefault((owner[0].name, owner[1]), []).append((scope, node, slot))

    def foreign(self, source: Source, weights: set[tuple[str, int, int]]) -> str:
        """Name a reader of a stored tensor as anything but one of `weights`, or ""."""
        seen: set[tuple[str, str]] = set()
        stack = [(source.scope.name, source.name)]
        while stack:
            key = stack.pop()
            if key in seen:
                continue
            seen.add(key)
            if key in self._outputs:
                return "it is also an output of the model"
            for scope, node, slot in self._readers.get(key, ()):
                if (scope.name, id(node), slot) in weights:
                    continue
                end = self._ends.get((scope.name, id(node), slot))
                if end is not None:
                    stack.append((scope.name, end))
                    continue
                inside = [name for name in node.output if name]
                if not inside or any(scope.state(name).kind != "constant" for name in inside):
                    return f"{node.op_type} at {scope.label(node)} reads it too, which multiplies no matrix"
                stack.extend((scope.name, name) for name in inside)
        return ""


def readers(model: Model) -> Readers:
    """Return who reads each value; found once for a model until it changes."""
    return model.once("readers", lambda: Readers(model))


def changeable_tensor(source: Source | None) -> tuple[onnx.TensorProto | None, str]:
    """Return where numbers are stored, and a clause that says why they cannot be changed there, or ""."""
    if source is None:
        return None, "no stored tensor carries its numbers"
    if source.name in source.scope.sparse:
        return None, "it is stored as a sparse tensor"
    tensor = source.scope.tensor(source.name)
    return tensor, "" if tensor is not None else "its Constant node does not hold it as a tensor"


def check_way(nodes: Way, consumer: Consumer, source: Source, dtype: str) -> None:
    """Raise unless every operator between the stored tensor and the weight moves or quantises it.

    Args:
        nodes: The way between them.
        consumer: Who reads the weight.
        source: The stored tensor.
        dtype: ONNX name of the element type that the consumer reads.

    Raises:
        Opaque: One computes.
    """
    for where, node in nodes:
        if node.op_type not in MOVES and node.op_type not in _KEEPS_ZERO:
            # Fuse evaluates this one weight input, and leaves what is stored in a smaller type.
            fusable = consumer.operator in PRODUCTS and consumer.input_index == 1
            same = fusable and where.name == "" and source.dtype == dtype
            remedy = "run nm2trt fuse first" if same else "export the model with the result stored"
            raise Opaque(
                f"{node.op_type} at {where.label(node)} stands between {source.name} and its consumer; "
                f"{remedy}"
            )


def way(scope: Scope, value: str, source: Source) -> Way:
    """List the nodes through which a stored tensor reaches a value, nearest to the value first."""
    nodes: Way = []
    inputs: dict[tuple[int, str], list[tuple[Scope, str]]] = {}
    order: list[tuple[Scope, str]] = []
    stack = [(scope, value)]
    while stack:
        owner = stack.pop()
        found = owner[0].owner(owner[1])
        if found is None or (id(found[0]), found[1]) in inputs:
            continue
        node = found[0].producers.get(found[1])
        inputs[id(found[0]), found[1]] = [(found[0], name) for name in node.input if name] if node else []
        order.append(found)
        stack.extend(inputs[id(found[0]), found[1]])
    reached = {(id(source.scope), source.name)}
    changed = True
    while changed:
        changed = False
        # Starting from the stored tensors: one round nearly always suffices.
        for where, name in reversed(order):
            if (id(where), name) in reached:
                continue
            owners = [inner.owner(item) for inner, item in inputs[id(where), name]]
            if any(o is not None and (id(o[0]), o[1]) in reached for o in owners):
                reached.add((id(where), name))
                changed = True
    for where, name in order:
        if (id(where), name) in reached and name in where.producers and name != source.name:
            nodes.append((where, where.producers[name]))
    return nodes


class Changes:
    """What `nm2trt prune` may change of a model's weights, as far as the graph tells without their numbers.

    Args:
        model: The model.
        operands: All its weight operands.
    """

    def __init__(self, model: Model, operands: Sequence[Consumer]) -> None:
        self._readers = readers(model)
        self._groups: dict[str, list[Consumer]] = {}
        for operand in operands:
            self._groups.setdefault(operand.weight_name, []).append(operand)
        self._held: dict[str, str] = {}
        self._ways: dict[tuple[int, str], Way] = {}  # to the main source of a value, which many may read

    def facts(self, consumer: Consumer, dtype: str) -> dict[str, Any]:
        """Return the fields of `WeightFacts` that say what may be changed.

        Args:
            consumer: The operand, which is constant.
            dtype: ONNX name of the element type that it has.
        """
        source, nested = consumer.source, consumer.scope.in_body
        if source is None:
            return {"nested": nested, "fixed": changeable_tensor(source)[1], "rebuilt": False}
        name = consumer.weight_name
        if name not in self._held:
            self._held[name] = changeable_tensor(source)[1] or self._foreign(source, self._groups[name])
        held, fixed = self._held[name], ""
        try:
            check_way(self._way(consumer, source), consumer, source, dtype)
        except Opaque as why:
            fixed = str(why)
        rebuilt = not held and not nested and _is_whole(self._way(consumer, source), source, dtype)
        return {"nested": nested, "fixed": held or fixed, "rebuilt": rebuilt}

    def _way(self, consumer: Consumer, source: Source) -> Way:
        key = id(consumer.scope), consumer.value
        if key not in self._ways:
            self._ways[key] = way(consumer.scope, consumer.value, source)
        return self._ways[key]

    def _foreign(self, source: Source, group: Sequence[Consumer]) -> str:
        foreign = self._readers.foreign(source, {(c.scope.name, id(c.node), c.input_index) for c in group})
        found = (_stored_axis(self._way(consumer, source), consumer, source) for consumer in group)
        axes = {axis for axis in found if axis is not None}
        return foreign or ("its readers group its elements along different axes" if len(axes) > 1 else "")


def _stored_axis(nodes: Way, consumer: Consumer, source: Source) -> int | None:
    """Return which axis of a stored tensor an operand reduces; None if more than a Transpose moves it."""
    how = onnx_weight(
        consumer.domain, consumer.operator, consumer.input_index, len(source.shape), consumer.attributes
    )
    axis = None if how is None else how.axis
    for where, node in nodes:
        if node.op_type == "Transpose" and axis is not None:
            axis = where.node_attributes(node).get("perm", range(len(source.shape))[::-1])[axis]
        elif node.op_type != "Identity":
            return None
    return axis


def _is_whole(steps: Way, source: Source, dtype: str) -> bool:
    """Tell whether an operand is a stored float tensor once `fuse` has evaluated what stands before it."""
    nodes = [node for _, node in steps if node.op_type != "Identity"]
    kinds = {node.op_type for node in nodes}
    if "DequantizeLinear" in kinds:
        return True  # the float model that it was quantised from stores it
    if source.dtype not in _FLOATS:
        return False
    if kinds <= {"Cast"}:
        return True
    if kinds - set(MOVES):
        return source.dtype == dtype
    made = {source.name, *(name for node in nodes for name in node.output)}
    repeated = any(
        node.op_type == "Concat" and sum(name in made for name in node.input) > 1 for node in nodes
    )
    return kinds <= SELECTING | {"Concat"} and not repeated
