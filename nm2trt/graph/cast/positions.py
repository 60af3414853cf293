"""Positions, angles and indices that a graph computes in floats: a type of few digits makes others of them.

float16 has no odd number above 2048, and bfloat16 none above 256: a rotary or sinusoidal embedding of such a
position is another one's, and so is a row that a rounded index chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.stored_sources import FEW, main_source
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.light_onnx import TensorProto, onnx

_FLOAT = TensorProto.FLOAT
_INTEGERS = frozenset(
    getattr(TensorProto, name) for name in "INT8 INT16 INT32 INT64 UINT8 UINT16 UINT32 UINT64".split()
)
_ANGLES = frozenset({"Sin", "Cos", "Tan"})
_STEPS = frozenset({"Mod", "Floor", "Ceil", "Round"})
_COMPARISONS = frozenset({"Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal"})
# What computes a position of positions. Products are outer ones, of a position and few frequencies.
_ARITHMETIC = frozenset("Add Sub Mul Div Neg Abs Where Cast Range CumSum Clip Min Max MatMul Einsum".split())
_PRODUCTS = frozenset({"MatMul", "Einsum"})


def positions(editor: Editor, types: Mapping[str, int]) -> Iterator[int]:
    """Yield the nodes that compute with positions, angles or indices, made of integers or of inputs.

    Args:
        editor: The graph.
        types: Element type of each value, by ONNX's numbers, if it is known.
    """
    chains = _Chains(editor, types)
    for index, node in editor.live():
        to_index = node.op_type == "Cast" and editor.attributes(index).get("to") in _INTEGERS
        if not to_index and node.op_type not in _ANGLES | _STEPS | _COMPARISONS:
            continue
        if not node.input or types.get(node.input[0]) != _FLOAT:
            continue
        made = [chains.of_integers(name) for name in node.input if name]
        if None in made:
            continue
        # An input may be anything; what is computed of it and turned by an angle is a position.
        turned = to_index or node.op_type in _ANGLES
        if any(made) or (turned and any(map(chains.maker, node.input))):
            yield index
            yield from chains.collect(node)


class _Chains:
    """What makes each value, back to integers and inputs: found once for the graph, however long it is."""

    def __init__(self, editor: Editor, types: Mapping[str, int]) -> None:
        self._editor, self._types = editor, types
        self._seen: set[str] = set()
        self._known: dict[str, bool | None] = {}
        for _, node in editor.live():
            self._known.update(dict.fromkeys(node.output, self._made(node)))

    def of_integers(self, value: str) -> bool | None:
        """Tell whether a value is made of integers; None if an activation is in it."""
        return self._types[value] in _INTEGERS if self._is_end(value) else self._known.get(value, False)

    def maker(self, value: str) -> onnx.NodeProto | None:
        """Return the node of a chain that makes a value; None for an integer, a condition or an input."""
        index = None if self._is_end(value) else self._editor.producers.get(value)
        return None if index is None else self._editor.nodes[index]

    def collect(self, node: onnx.NodeProto) -> Iterator[int]:
        """Yield the nodes that make a node's inputs, without those that were yielded before."""
        waiting = list(node.input)
        while waiting:
            name = waiting.pop()
            maker = self.maker(name)
            if maker is not None and name not in self._seen:
                self._seen.add(name)
                yield self._editor.producers[name]
                waiting += _operands(maker)

    def _is_end(self, value: str) -> bool:
        return self._types.get(value) in _INTEGERS | {TensorProto.BOOL}

    def _made(self, node: onnx.NodeProto) -> bool | None:
        if node.op_type not in MOVING | _ARITHMETIC | _ANGLES | _STEPS:
            return None
        if node.op_type in _PRODUCTS and not self._has_few_weights(node):
            return None
        made = [self.of_integers(name) for name in _operands(node) if name]
        return None if None in made else any(made)

    def _has_few_weights(self, node: onnx.NodeProto) -> bool:
        scope = self._editor.scope
        sources = [main_source(scope, name) for name in node.input if scope.state(name).kind == "constant"]
        return bool(sources) and all(s is not None and math.prod(s.shape) <= FEW for s in sources)


def _operands(node: onnx.NodeProto) -> list[str]:
    """Return the inputs whose numbers are in the result, without indices, shapes and conditions."""
    if node.op_type in MOVING - {"Concat"} | {"CumSum"}:
        return list(node.input[:1])
    return list(node.input[1:] if node.op_type == "Where" else node.input)
