"""Placement of Q/DQ pairs: which layers are quantised, which values get a pair, which share a scale.

The rules, each by a value's place:

- *in*: what a quantised Conv, Gemm or MatMul reads beside its weight;
- *out*: what its kernel gives (`graph.analysis.kernel_chains.Chain`), so that it is INT8-in and INT8-out;
- *residual*: an Add joins the kernel of its last product if a quantised layer reads the sum; what it adds
  is quantised. A sum that goes on in float, as in front of a LayerNormalization, stays float, and the product
  in front of it is INT8-out by itself;
- a constant that hides scores, as the -inf or -1e9 of an attention mask does, is added in float: the kernel
  ends in front of it, since beside such numbers the integers leave no step for the others;
- *concat*: if the result of a Concat is quantised, all that it joins is, with one scale, which the result
  has anyhow;
- what only moves numbers (MaxPool, Reshape ...) has one scale before and after.

An output of the model stays float.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nm2trt.graph.analysis.constant_values import constant_value, direct_initializer
from nm2trt.graph.analysis.kernel_chains import Chain, is_residual, kernel_chain
from nm2trt.graph.analysis.main_graph import MainGraph
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.quantised_values import MOVERS
from nm2trt.graph.analysis.shapes import infer_types
from nm2trt.graph.analysis.stored_sources import main_source
from nm2trt.graph.analysis.weight_operands import Consumer, consumers
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.light_onnx import TensorProto, is_default
from nm2trt.nm.plan import check_globs, matching

_OPERATORS = ("Conv", "Gemm", "MatMul")
# The smallest magnitude by which masks are written, that of BERT.
_HIDING = 1e4


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer with a weight.

    Args:
        index: Position of its node in the graph.
        label: The node's name.
        operator: The node's type.
        weight: Name of its weight.
        why_float: Why it stays float; "" when it is quantised.
        consumer: Its weight operand.
        chain: What its kernel computes, when it is quantised.
        is_depthwise: Whether it is a convolution with one input channel per filter.
    """

    index: int
    label: str
    operator: str
    weight: str
    why_float: str
    consumer: Consumer
    chain: Chain | None = None
    is_depthwise: bool = False


@dataclass(slots=True)
class Placement:
    """Where the pairs go.

    Args:
        layers: Every layer with a weight, in the order of the graph.
        points: The values that get a pair, in the order of the graph, with the rule that says so.
        scale_of: Each point's representative: points with the same one share a scale.
    """

    layers: tuple[Layer, ...]
    points: dict[str, str] = field(default_factory=dict)
    scale_of: dict[str, str] = field(default_factory=dict)

    @property
    def quantised(self) -> list[Layer]:
        """The layers that are quantised."""
        return [layer for layer in self.layers if not layer.why_float]

    def members(self) -> dict[str, list[str]]:
        """Return the points of each shared scale."""
        groups: dict[str, list[str]] = {}
        for value in self.points:
            groups.setdefault(self.scale_of[value], []).append(value)
        return groups


def place(
    editor: Editor,
    exclude: Sequence[str],
    *,
    float_depthwise: bool = False,
    sharp: Mapping[str, str] | None = None,
) -> Placement:
    """Decide where pairs go.

    Args:
        editor: The graph.
        exclude: Globs on names of nodes and of weights that stay float.
        float_depthwise: Leave depthwise convolutions in float too.
        sharp: Labels of further layers that stay float, with reasons.

    Raises:
        InputError: A glob matches nothing.
    """
    layers = tuple(_layers(editor, exclude, sharp or {}, float_depthwise=float_depthwise))
    names = [*(layer.label for layer in layers), *(layer.weight for layer in layers)]
    check_globs({"exclude": exclude}, names, kind="layer")
    placed = Placement(layers)
    quantised = {layer.index: layer for layer in placed.quantised}
    chains = _chains(editor, quantised)
    placed.layers = tuple(replace(layer, chain=chains.get(layer.index)) for layer in layers)
    points = _Points(editor)
    for layer in placed.quantised:
        points.add(layer.consumer.node.input[1 - layer.consumer.input_index], "in")
        if layer.chain is None:
            continue
        if layer.chain.add is not None:
            inside = {editor.nodes[position].output[0] for position in layer.chain.nodes}
            for operand in editor.nodes[layer.chain.add].input:
                if operand not in inside:
                    points.add(operand, "residual")
        if not any(_hides(editor, value) for value in layer.consumer.node.input[2:]):
            points.add(layer.chain.value, "out")
    points.join()
    placed.points, placed.scale_of = points.ordered()
    return placed


def _layers(
    editor: Editor,
    exclude: Sequence[str],
    sharp: Mapping[str, str],
    *,
    float_depthwise: bool,
) -> Iterable[Layer]:
    types = functools.cache(lambda: infer_types(editor.model))
    for consumer in consumers(editor.model):
        main = consumer.scope.name == ""
        # `consumers` walks in the order of the file, as the editor does.
        index = consumer.scope.positions[id(consumer.node)] if main else -1
        label = consumer.label
        weight = editor.source_name(consumer.value) if main else consumer.value
        why = _why_float(consumer, types, main=main)
        glob = matching(exclude, (label, weight))
        if glob is not None:
            why = f"excluded by {glob!r}"
        elif not why and editor.is_constant(consumer.node.input[1 - consumer.input_index]):
            why = "its input is constant"
        depthwise = _is_depthwise(consumer)
        if not why and float_depthwise and depthwise:
            why = "depthwise: one input channel per filter"
        why = why or sharp.get(label, "")
        yield Layer(index, label, consumer.operator, weight, why, consumer, is_depthwise=depthwise)


def _why_float(consumer: Consumer, types: Callable[[], Mapping[str, int]], *, main: bool) -> str:
    if not main:
        return "it stands in a body"
    if consumer.domain or consumer.operator not in _OPERATORS:
        return f"{consumer.operator} is left in float"
    if consumer.state.kind != "constant":
        return f"its weight is not constant: {consumer.state.why}"
    if consumer.input_index != 1:
        return "its constant is the left operand"
    source = main_source(consumer.scope, consumer.value)
    if source is not None and source.dtype.startswith(("int", "uint", "bool")):
        return f"its weight is computed from integers: {source.name!r} is {source.dtype}"
    if source is not None and 0 in source.shape:
        return f"its weight of shape {list(source.shape)} has no elements"
    # What is stored in another type may be cast to the one that the layer computes in.
    stored = direct_initializer(consumer.scope, consumer.value)
    kind = types().get(consumer.value, TensorProto.FLOAT) if stored is None else stored.data_type
    if kind != TensorProto.FLOAT:
        found = DTYPE_NAMES.get(kind, "of another type")
        return f"its weight is {found}; quantise the float32 model, and cast what stays float afterwards"
    return ""


def _is_depthwise(consumer: Consumer) -> bool:
    source = main_source(consumer.scope, consumer.value)
    channels = source.shape[1] if source is not None and len(source.shape) > 2 else 0
    return int(consumer.attributes.get("group", 1)) > 1 and channels == 1


def _chains(graph: MainGraph, quantised: Mapping[int, Layer]) -> dict[int, Chain]:
    """Follow each kernel; of several that reach one residual Add, the last takes it in."""

    def joins(position: int) -> bool:
        return not any(_hides(graph, value) for value in graph.nodes[position].input)

    reached: dict[int, list[int]] = {}
    for index in quantised:
        chain = kernel_chain(graph, index, joins)
        if chain.add is not None:
            reached.setdefault(chain.add, []).append(index)
    taken: dict[int, int] = {}
    for add, starts in reached.items():
        end = kernel_chain(graph, starts[-1], joins).value
        if _read_by_quantised(graph, end, quantised):
            taken[add] = starts[-1]

    def takes(index: int) -> Callable[[int], bool]:
        return lambda at: taken.get(at) == index if is_residual(graph, at) else joins(at)

    return {index: kernel_chain(graph, index, takes(index)) for index in quantised}


def _hides(graph: MainGraph, value: str) -> bool:
    """Tell whether a value is a constant that no sum of products comes near."""
    try:
        numbers = constant_value(graph.scope, value)
    except Opaque:
        return False
    return not bool((np.abs(numbers) < _HIDING).all())


def _read_by_quantised(graph: MainGraph, value: str, quantised: Mapping[int, Layer]) -> bool:
    """Tell whether a quantised layer reads a value, as it is, moved or joined to others."""
    stack, seen = [value], set()
    while stack:
        name = stack.pop()
        if name in seen:
            continue
        seen.add(name)
        for position, slot in graph.readers.get(name, ()):
            node = graph.nodes[position]
            if position in quantised and slot == 0:
                return True
            if (node.op_type in MOVERS and slot == 0) or node.op_type == "Concat":
                stack.extend(node.output)
    return False


class _Points:
    """Values with pairs, and which of them share a scale."""

    def __init__(self, graph: MainGraph) -> None:
        self._graph = graph
        self._found: dict[str, str] = {}
        self._parent: dict[str, str] = {}
        self._outputs = {value for value in graph.pinned if not graph.readers.get(value)}

    def add(self, value: str, rule: str) -> bool:
        """Add a value; constants and values that only leave the graph get no pair."""
        if value in self._found or value in self._outputs or self._graph.is_constant(value):
            return False
        self._found[value] = rule
        self._parent[value] = value
        return True

    def join(self) -> None:
        """Add what quantised Concats join, and join the scales of values that are only moved."""
        nodes = self._graph.nodes
        grown = True
        while grown:
            grown = False
            for node in nodes:
                if node.op_type == "Concat" and is_default(node) and self._found.get(node.output[0]):
                    for value in node.input:
                        grown = self.add(value, "concat") or grown
        for node in nodes:
            if node.op_type not in MOVERS or not is_default(node):
                continue
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            moved = [value for value in (*sources, *node.output) if value in self._found]
            for value in moved[1:]:
                self._parent[self._root(value)] = self._root(moved[0])

    def ordered(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the points in the order in which they are made, and each one's representative."""
        order = sorted(self._found, key=lambda value: self._graph.producers.get(value, -1))
        return {v: self._found[v] for v in order}, {v: self._root(v) for v in order}

    def _root(self, value: str) -> str:
        while self._parent[value] != value:
            value = self._parent[value]
        return value
