"""Stored tensors that a constant value comes from, and where in them its elements come from.

Operators that only move elements are followed backwards, to name the place in the stored tensor where a group
is broken.
"""

from __future__ import annotations

import math

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.constant_values import (
    Source,
    constant_node,
    evaluate,
    evaluate_tracked,
)
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.light_onnx import is_default, onnx

# Element types of masks, indices and texts, which carry no weight's numbers.
INDEX_TYPES = ("bool", "int64", "int32", "string")
# Elements up to which a constant is a scale, a bound or a table rather than a weight.
FEW = 1024


def stored_tensors(graph: onnx.GraphProto) -> dict[str, onnx.TensorProto]:
    """Return the tensors that a graph stores, initializers and those of Constant nodes, by name."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and is_default(node):
            found.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    return found


def main_source(scope: Scope, value: str) -> Source | None:
    """Return the stored tensor that carries a weight's numbers: the largest on the way, floats first."""
    return next(iter(stored_sources(scope, value)), None)


def stored_sources(scope: Scope, value: str) -> list[Source]:
    """Return every stored tensor that a value is made of, the one that carries its numbers first."""
    return sorted(
        _sources(scope, value),
        key=lambda source: (source.dtype not in INDEX_TYPES, math.prod(source.shape)),
        reverse=True,
    )


def few_numbers(scope: Scope, value: str) -> Array | None:
    """Return the numbers of a constant that is made of few, as a scale; None for any other.

    Raises:
        ModelError: A stored tensor is damaged.
    """
    source = main_source(scope, value)
    if source is None or math.prod(source.shape) > FEW:
        return None
    try:
        return evaluate(scope, value)
    except Opaque:
        return None


def stored_index(scope: Scope, value: str, index: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return where in its stored tensor an element of a weight comes from; None when not from one place."""
    source = main_source(scope, value)
    places = None if source is None else stored_places(scope, value, source)
    if source is None or places is None:
        return None
    try:
        flat = int(places[index])
    except IndexError:
        return None
    return None if flat < 0 else tuple(int(i) for i in np.unravel_index(flat, source.shape))


def stored_places(scope: Scope, value: str, source: Source) -> Array | None:
    """Say where in a stored tensor each element of a constant value comes from.

    Returns:
        int64 array of the value's shape: flat indices into `source`, -1 for an element that comes from
        elsewhere. None when an operator on the way mixes elements, or `source` is not on the way.
    """
    try:
        places, tracked = evaluate_tracked(scope, value, source)
    except (Opaque, ValueError, IndexError):
        return None
    return places if tracked else None


def _sources(scope: Scope, value: str) -> list[Source]:
    found: list[Source] = []
    seen: set[tuple[int, str]] = set()
    stack = [(scope, value)]
    while stack:
        inside, wanted = stack.pop()
        owner = inside.owner(wanted)
        if owner is None or (id(owner[0]), owner[1]) in seen:
            continue
        seen.add((id(owner[0]), owner[1]))
        where, name = owner
        stored = where.initializers.get(name) or where.sparse.get(name)
        if stored is not None:
            numbers = stored.values if name in where.sparse else stored
            dtype = DTYPE_NAMES.get(numbers.data_type, "unknown")
            found.append(Source(where, name, dtype, tuple(stored.dims)))
        elif name in where.producers:
            node = where.producers[name]
            if node.op_type == "Constant" and is_default(node):
                found.append(_constant_source(where, node, name))
            stack.extend((where, item) for item in reversed(node.input) if item)
    return found


def _constant_source(scope: Scope, node: onnx.NodeProto, name: str) -> Source:
    """Describe what a Constant node holds, a text or an unreadable type included."""
    try:
        array = constant_node(scope, node)
    except Opaque:
        return Source(scope, name, "string", ())
    return Source(scope, name, str(array.dtype), array.shape)
