"""Constant weights: the operators in front of a stored weight, e.g. those of a mask, evaluated into it."""

from __future__ import annotations

import math

import numpy as np

from nm2trt.graph.analysis.constant_values import Source
from nm2trt.graph.analysis.moving_operators import SELECTING
from nm2trt.graph.analysis.stored_sources import main_source, stored_places
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.graph_view import Declined


def fold_constant(editor: Editor, index: int, moved: dict[str, bool] | None = None) -> bool:
    """Evaluate the operators in front of a node's weight, e.g. the And, Cast and Mul of a mask.

    Quantise/dequantise pairs stay: they are not masks.

    Args:
        editor: The graph.
        index: The node.
        moved: Evaluate movements too, such as a Transpose of a weight that nothing else reads; it keeps what
            was found of stored tensors for the next call. None leaves movements.

    Returns:
        Whether the weight is now a stored tensor.
    """
    node = editor.nodes[index]
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul") or len(node.input) < 2:
        return False
    value = node.input[1]
    if not value or editor.scope.state(value).kind != "constant":
        return False
    if not editor.computed(value) and (moved is None or not _is_moved(editor, value, moved)):
        return False
    try:
        array = editor.array(value, "weight")
    except Declined:
        return False
    if editor.source_dtype(value) != str(array.dtype):
        return False  # stored in a smaller type on purpose: to evaluate it would blow the file up
    name = editor.add_tensor(array, editor.source_name(value))
    for reader, slot in sorted(editor.readers.get(value, set())):
        editor.set_input(reader, slot, name)
    return True


def _is_moved(editor: Editor, value: str, apart: dict[str, bool]) -> bool:
    """Tell whether a constant is a stored tensor, moved about, that can be stored as it is read instead.

    Not if something dynamic reads the stored tensor itself, or two values hold the same element: they would
    be stored twice, and no longer tied.

    Args:
        editor: The graph.
        value: The constant.
        apart: What was found of stored tensors so far, by name.
    """
    source = main_source(editor.scope, value)
    if source is None or source.scope is not editor.scope:
        return False
    if not {node.op_type for node in editor.way(value)} <= SELECTING | {"Concat", "Constant"}:
        return False
    if source.name not in apart:
        apart[source.name] = _is_read_apart(editor, source)
    return apart[source.name]


def _is_read_apart(editor: Editor, source: Source) -> bool:
    """Tell whether each element of a stored tensor is in one constant at most that anything dynamic reads."""
    same, constants = {source.name}, [source.name]  # an Identity of it is the same tensor under another name
    seen, ends = {source.name}, []
    for name in constants:
        nodes = [editor.nodes[reader] for reader, _ in editor.readers.get(name, ())]
        made = [output for node in nodes for output in node.output if output]
        if name in editor.pinned or any(editor.scope.state(output).kind != "constant" for output in made):
            if name in same:
                return False
            ends.append(name)
        same.update(node.output[0] for node in nodes if node.op_type == "Identity" and name in same)
        new = [output for output in made if editor.scope.state(output).kind == "constant"]
        constants += [output for output in dict.fromkeys(new) if output not in seen]
        seen.update(new)
    read, total = np.zeros(math.prod(source.shape), bool), 0
    for name in ends:
        places = stored_places(editor.scope, name, source)
        if places is None:
            return False
        inside = places[places >= 0]
        read[inside] = True
        total += inside.size
    return total == np.count_nonzero(read)
