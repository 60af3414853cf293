"""Weights whose final values only a run decides: chosen, scaled or patched by an input.

An expert picked by a router (Gather), one of two matrices (Where, If), a matrix times a scale that is an
input (Mul, DequantizeLinear): stored numbers are multiplied, and no file can say which. `stored_behind`
follows such a value back to the stored tensor that carries its numbers; an activation gives None.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from nm2trt.graph.analysis.constant_values import Source, evaluate
from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.scopes import inner_outputs
from nm2trt.graph.analysis.shapes import Shapes
from nm2trt.graph.analysis.stored_sources import main_source
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.light_onnx import is_default, onnx

# Their first input carries the numbers; the others say which, where to, or by what.
_FIRST_CARRIES = (MOVING - {"Concat"}) | frozenset(
    """Cast CastLike QuantizeLinear DequantizeLinear GatherElements GatherND ScatterElements ScatterND
    Scatter Compress Trilu Clip Abs Neg Sqrt Reciprocal Sign Exp Log Tanh Sigmoid Relu LeakyRelu Erf Round
    Floor Ceil DepthToSpace SpaceToDepth Softmax CumSum ReverseSequence Upsample Resize SplitToSequence
    SequenceAt SequenceErase ConcatFromSequence Optional OptionalGetElement""".split()
)
_BINARY = frozenset("Mul Div Add Sub Pow Max Min Mod PRelu BitwiseAnd".split())
_ALL_CARRY = frozenset({"Concat", "Sum", "Mean", "SequenceConstruct"})
_CHOOSERS = frozenset({"Gather", "GatherND", "GatherElements", "Compress"})
# What a weight is never stored as.
_NO_WEIGHT = frozenset({"bool", "int64", "int32", "uint64", "uint32", "string", "unknown"})
_DEEPEST = 64
_LARGEST_STATE = 1 << 20


@dataclass(frozen=True, slots=True)
class StoredBehind:
    """The stored tensor from which a value that depends on an input is computed.

    Args:
        scope: Where the carrying value stands.
        value: Its name there: a constant.
        why: The clause that says which node makes it depend on an input.
        whole: Whether a choice leaves at least a matrix; a row of a table, as of an embedding, is not one.
    """

    scope: Scope
    value: str
    why: str
    whole: bool = True


def is_matrix(source: Source | None) -> bool:
    """Tell whether a stored tensor may be a weight: numbers, with two dimensions larger than one."""
    return source is not None and source.dtype not in _NO_WEIGHT and sum(s > 1 for s in source.shape) >= 2


def stored_behind(scope: Scope, value: str, shapes: Callable[[], Shapes]) -> StoredBehind | None:
    """Return the stored tensor that carries the numbers of a value; None for an activation.

    Args:
        scope: Where the value is read.
        value: Its name.
        shapes: Returns the shapes of the main graph's values, asked for only if a scale has to be told
            from an activation.
    """
    return _Walk(shapes).follow(scope, value, 0)


class _Walk:
    """One walk back through a graph, which follows every value once: a chain of x + x has 2^N paths."""

    def __init__(self, shapes: Callable[[], Shapes]) -> None:
        self.shapes = shapes
        self._found: dict[tuple[int, str], StoredBehind | None] = {}

    def follow(self, scope: Scope, value: str, depth: int) -> StoredBehind | None:
        """Return what `stored_behind` does, after `depth` nodes."""
        owner = scope.owner(value)
        if owner is None or depth > _DEEPEST:
            return None
        key = (id(owner[0]), owner[1])
        if key not in self._found:
            self._found[key] = _behind(*owner, self, depth)
        return self._found[key]


def _behind(where: Scope, name: str, walk: _Walk, depth: int) -> StoredBehind | None:
    state = where.states[name]
    if state.kind in ("constant", "opaque"):
        return StoredBehind(where, name, state.why)
    node = where.producers.get(name)
    if node is None:
        return _changed_by_a_loop(where, name, walk, depth + 1)
    found = _through(where, node, name, walk, depth + 1)
    if found is None or found.why:
        return found
    why = f"{node.op_type} at {where.label(node)} decides it while the model runs: {state.why}"
    return StoredBehind(found.scope, found.value, why, found.whole)


def _changed_by_a_loop(where: Scope, name: str, walk: _Walk, depth: int) -> StoredBehind | None:
    """Return the stored weight that a loop starts from, if its body changes the value at each iteration."""
    if name not in where.starts:
        return None
    found = walk.follow(*where.starts[name], depth)
    source = None if found is None else main_source(found.scope, found.value)
    if found is None or source is None or not is_matrix(source) or _is_empty_state(found, source):
        return None
    loop = where.name.rstrip("/").rpartition("/")[0]
    return replace(found, why=found.why or f"{loop} changes it at each iteration")


def _through(scope: Scope, node: onnx.NodeProto, name: str, walk: _Walk, depth: int) -> StoredBehind | None:
    inner = inner_outputs(scope, node)
    if inner:
        place = list(node.output).index(name)
        found = [
            walk.follow(body, outputs[place], depth) if place < len(outputs) else None
            for body, outputs in inner
        ]
        return _largest(found) if all(found) else None
    if not is_default(node):
        return None
    if node.op_type in _FIRST_CARRIES and node.input:
        return _chosen(node, walk.follow(scope, node.input[0], depth))
    if node.op_type in ("Where", "SequenceInsert") or node.op_type in _ALL_CARRY:
        inputs = {"Where": node.input[1:], "SequenceInsert": node.input[:2]}.get(node.op_type, node.input)
        found = [walk.follow(scope, item, depth) for item in inputs]
        return _largest(found) if all(found) else None
    if node.op_type in _BINARY and len(node.input) == 2:
        return _scaled(scope, node, walk, depth)
    return None


def _chosen(node: onnx.NodeProto, found: StoredBehind | None) -> StoredBehind | None:
    if found is None or node.op_type not in _CHOOSERS:
        return found
    source = main_source(found.scope, found.value)
    whole = source is not None and sum(size > 1 for size in source.shape) >= 3
    return StoredBehind(found.scope, found.value, found.why, found.whole and whole)


def _scaled(scope: Scope, node: onnx.NodeProto, walk: _Walk, depth: int) -> StoredBehind | None:
    """Tell a weight times a scale from an activation times one: the larger of the two is what is scaled."""
    sides = [walk.follow(scope, item, depth) for item in node.input]
    if all(sides):
        return _largest(sides)
    found = sides[0] or sides[1]
    if found is None:
        return None
    source = main_source(found.scope, found.value)
    if source is None or not is_matrix(source):
        return None
    if _is_empty_state(found, source):
        return None
    size = _elements(scope, node.input[1 if sides[0] else 0], walk.shapes)
    if size is None:
        return found if node.op_type in ("Mul", "Div") else None
    return found if size <= math.prod(source.shape) else None


def _is_empty_state(found: StoredBehind, source: Source) -> bool:
    """Tell whether a stored tensor is only zeros, as the state that a scan over a sequence starts from."""
    if math.prod(source.shape) > _LARGEST_STATE:
        return False
    try:
        return not evaluate(found.scope, found.value).any()
    except Opaque:
        return False


def _elements(scope: Scope, value: str, shapes: Callable[[], Shapes]) -> int | None:
    """Return how many elements a value has, a free size counting as many; None if nothing says."""
    owner = scope.owner(value)
    shape = shapes().get(owner[1]) if owner is not None and owner[0].name == "" else None
    if shape is None:
        return None
    return math.prod(1 << 31 if size is None else size for size in shape)


def _largest(found: list[StoredBehind | None]) -> StoredBehind | None:
    def size(item: StoredBehind) -> int:
        source = main_source(item.scope, item.value)
        return 0 if source is None else math.prod(source.shape)

    items = [item for item in found if item is not None]
    best = max(items, key=size, default=None)
    why = next((item.why for item in items if item.why), "")
    return None if best is None else StoredBehind(best.scope, best.value, why, best.whole)
