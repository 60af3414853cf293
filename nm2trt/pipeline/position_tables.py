"""Position tables: how long a sequence may be, by the stored tables that are read at its positions.

A model that adds a learned embedding of each position cuts or gathers a stored table to the length of its
input. A longer input reads beyond the table, or does not fit what was cut.
"""

from __future__ import annotations

from nm2trt.graph.analysis.constant_values import direct_initializer
from nm2trt.graph.analysis.scopes import main_scope
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.tensors import read_tensor

# What keeps positions inside a table, however long the input: distances put into buckets or cut off.
_BOUNDING = frozenset({"Min", "Clip", "Log", "Mod"})
# A table of fewer rows does not hold positions, but e.g. the parts of a shape.
_LEAST = 8
_MOST_STEPS = 1000


def longest_positions(model: Model) -> int | None:
    """Return the rows of the shortest table that is read up to the length of an input; None without one.

    Args:
        model: The model; no weight is read.
    """
    scope = main_scope(model)
    found = [rows for node in scope.nodes for rows in _rows(scope, node) if rows >= _LEAST]
    return min(found, default=None)


def _rows(scope: Scope, node: onnx.NodeProto) -> list[int]:
    """Return the sizes along which a node reads a stored tensor up to the length of an input."""
    at = {"Gather": 1, "Slice": 2}.get(node.op_type)
    if at is None or len(node.input) <= at or not node.input[at] or not is_default(node):
        return []
    table = direct_initializer(scope, node.input[0])
    if table is None or len(table.dims) < 2 or not _is_length(scope, node.input[at]):
        return []
    axes = _cut_axes(scope, node) if node.op_type == "Slice" else [scope.node_attributes(node).get("axis", 0)]
    return [int(table.dims[axis]) for axis in axes if -len(table.dims) <= axis < len(table.dims)]


def _cut_axes(scope: Scope, node: onnx.NodeProto) -> list[int]:
    """Return the axes that a Slice cuts to a length: of several ends, some may be constant."""
    maker = scope.producers.get(node.input[2])
    ends = list(maker.input) if maker is not None and maker.op_type == "Concat" else [node.input[2]]
    given = direct_initializer(scope, node.input[3]) if len(node.input) > 3 and node.input[3] else None
    axes = range(len(ends)) if given is None else read_tensor(given, scope.model.root).reshape(-1).tolist()
    if len(axes) != len(ends):
        return list(axes)
    return [axis for axis, end in zip(axes, ends, strict=True) if _is_length(scope, end)]


def _is_length(scope: Scope, value: str) -> bool:
    """Tell whether a value depends on inputs only through the shape of something, and grows with it."""
    shaped, stack, seen = False, [value], {value}
    for _ in range(_MOST_STEPS):
        if not stack:
            return shaped
        name = stack.pop()
        if scope.state(name).kind == "constant":
            continue
        node = scope.producers.get(name)
        if node is None:
            return False  # an input of the model
        if node.op_type in _BOUNDING:
            return False
        if node.op_type in ("Shape", "Size"):
            shaped = True
            continue
        stack += [item for item in node.input if item and item not in seen]
        seen.update(node.input)
    return False
