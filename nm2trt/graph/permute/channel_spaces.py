"""Channel spaces of a graph: sets of dimensions that one permutation reorders without changing the outputs.

A space is free if every operator that touches it passes its order on (`operator_rules`), and every tensor in
it that is stored can be permuted where it stands. It counts if a weight that can be pruned reduces it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nm2trt.arrays import Array
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.pinned_values import pins
from nm2trt.graph.analysis.scopes import walk
from nm2trt.graph.analysis.shapes import infer_shapes
from nm2trt.graph.analysis.stored_sources import main_source, stored_tensors
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.permute.dimensions import Dimension, Dimensions, NodeDimensions, Shape
from nm2trt.graph.permute.operator_rules import RULES
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, opset
from nm2trt.nm.axes import onnx_weight


@dataclass(frozen=True, slots=True)
class SpaceWeight:
    """One weight as one operator reads it.

    Args:
        weight: Name of the stored tensor that holds its numbers.
        value: Name of the operand, which may be computed from the stored tensor.
        consumer: Name of the node that reads it.
        shape: Its shape as the node reads it.
        axis: Reduction axis in `shape`.
    """

    weight: str
    value: str
    consumer: str
    shape: tuple[int, ...]
    axis: int

    @property
    def channels(self) -> int:
        """Length of the reduction axis."""
        return self.shape[self.axis]


@dataclass(frozen=True, slots=True)
class ChannelSpace:
    """The dimensions that hold the same channels.

    Args:
        name: A value of the space, by which to name it: the first operand's input that a node computes.
        channels: Number of channels; None if it is not known.
        stored: Stored tensors and the axis of each that lies in the space.
        weights: Weights that reduce it, each once.
        obstacle: The clause that says why it may not be permuted, or "".
    """

    name: str
    channels: int | None
    stored: tuple[Dimension, ...]
    weights: tuple[SpaceWeight, ...]
    obstacle: str


def find_spaces(
    model: Model,
    *,
    fixed: Mapping[str, str] | None = None,
    same: Iterable[Sequence[str]] = (),
) -> list[ChannelSpace]:
    """List the channel spaces that at least one weight of the main graph reduces, free or not.

    Args:
        model: The model.
        fixed: Names of tensors that must keep their order, each with the clause that says why.
        same: Groups of stored tensors that hold one parameter, and are permuted alike.

    Raises:
        ModelError: The graph breaks a rule of the format.
    """
    operands = [operand for operand in consumers(model) if not operand.scope.name]
    shapes = _shapes(model)
    dimensions = _linked(model, shapes)
    for name, why in {**dict(pins(model.proto)), **(fixed or {})}.items():
        dimensions.freeze_tensor(name, shapes.get(name, ()), why)
    for first, *others in same:
        for other in others:
            for axis in range(len(shapes[first])):
                dimensions.join((first, axis), (other, axis))
    weights: dict[Dimension, list[SpaceWeight]] = {}
    for weight in filter(None, (_weight(operand, shapes) for operand in operands)):
        found = weights.setdefault(dimensions.find((weight.value, weight.axis)), [])
        if all((known.value, known.axis) != (weight.value, weight.axis) for known in found):
            found.append(weight)
    stored = frozenset(stored_tensors(model.proto.graph))
    return [
        _space(members, weights[root], dimensions.obstacle(root), shapes, stored)
        for root, members in dimensions.classes().items()
        if root in weights
    ]


def _space(
    members: Sequence[Dimension],
    weights: Sequence[SpaceWeight],
    obstacle: str,
    shapes: Mapping[str, Shape],
    stored: frozenset[str],
) -> ChannelSpace:
    beyond = next((name for name, axis in members if axis >= len(shapes[name])), None)
    if beyond is not None:  # an operator reads more axes than there are: the model is not sound here
        obstacle = obstacle or f"{beyond} has fewer dimensions than an operator reads of it"
    sizes = {shapes[name][axis] for name, axis in members if axis < len(shapes[name])} - {None}
    computed = next((name for name, _ in members if name not in stored), members[0][0])
    if len(sizes) > 1:
        both = " and ".join(map(str, sorted(filter(None, sizes))))
        obstacle = obstacle or f"its tensors have {both} channels"
    return ChannelSpace(
        computed,
        next(iter(sizes), None) if len(sizes) == 1 else None,
        tuple(sorted(dimension for dimension in members if dimension[0] in stored)),
        tuple(weights),
        obstacle,
    )


def _linked(model: Model, shapes: Mapping[str, Shape]) -> Dimensions:
    """Apply the rule of every node of the main graph."""
    dimensions = Dimensions()
    version = opset(model.proto) or 0
    for scope, node in walk(model):
        if scope.name:
            continue  # what a body or a function reads, `pins` or its own node freezes
        for name in (*node.input, *node.output):
            for axis in range(len(shapes.get(name, ()))):
                dimensions.find((name, axis))
        _link(scope, node, version, shapes, dimensions)
    given = {value.name for value in model.proto.graph.input} - stored_tensors(model.proto.graph).keys()
    sparse = {tensor.values.name for tensor in model.proto.graph.sparse_initializer}
    for name in sorted(given | sparse):
        why = f"{name!r} is {'an input of the model' if name in given else 'stored as a sparse tensor'}"
        dimensions.freeze_tensor(name, shapes.get(name, ()), why)
    return dimensions


def _link(
    scope: Scope, node: onnx.NodeProto, version: int, shapes: Mapping[str, Shape], dimensions: Dimensions
) -> None:
    def constant(name: str) -> Array | None:
        if scope.state(name).kind != "constant":
            return None
        try:
            return evaluate(scope, name)
        except Opaque:
            return None

    domain = "" if node.domain == "ai.onnx" else node.domain
    rule = RULES.get((domain, node.op_type)) if (node.domain, node.op_type) not in scope.functions else None
    why = f"{node.op_type} at {scope.label(node)!r} depends on the order of its channels"
    seen = NodeDimensions(node, scope.node_attributes(node), version, shapes, constant, dimensions)
    names = [name for name in (*node.input, *node.output) if name]
    if rule is not None and all(name in shapes for name in names):
        try:
            rule(seen)
        except (ArithmeticError, LookupError, TypeError, ValueError):  # the node is malformed
            seen = NodeDimensions(node, {}, version, shapes, constant, dimensions)
    elif rule is not None:
        why = f"the shapes around {node.op_type} at {scope.label(node)!r} are not known"
    seen.freeze_rest(why)


def _weight(operand: Consumer, shapes: Mapping[str, Shape]) -> SpaceWeight | None:
    shape = shapes.get(operand.value)
    if operand.state.kind != "constant" or shape is None or None in shape or 0 in shape:
        return None
    known = tuple(size or 0 for size in shape)
    how = onnx_weight(operand.domain, operand.operator, operand.input_index, len(known), operand.attributes)
    if how is None or how.runs > 1 or (how.convolution and int(operand.attributes.get("group", 1)) > 1):
        return None
    source = main_source(operand.scope, operand.value)
    name = operand.value if source is None else source.name
    return SpaceWeight(name, operand.value, operand.label, known, how.axis)


def _shapes(model: Model) -> dict[str, Shape]:
    shapes: dict[str, Shape] = dict(infer_shapes(model))
    shapes.update({tensor.name: tuple(tensor.dims) for tensor in model.proto.graph.initializer})
    return shapes
