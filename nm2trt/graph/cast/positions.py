"""Positions, angles and indices that a graph computes in floats: a type of few digits makes others of them.

float16 has no odd number above 2048, and bfloat16 none above 256: a rotary or sinusoidal embedding of such a
position is another one's, and so is a row that a rounded index chooses.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.stored_sources import main_source
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
_FEW = 1024


def positions(editor: Editor, types: Mapping[str, int]) -> Iterator[int]:
    """Yield the nodes that compute with positions, angles or indices, made of integers or of inputs.

    Args:
        editor: The graph.
        types: Element type of each value, by ONNX's numbers, if it is known.
    """
    for index, node in editor.live():
        to_index = node.op_type == "Cast" and editor.attributes(index).get("to") in _INTEGERS
        if not to_index and node.op_type not in _ANGLES | _STEPS | _COMPARISONS:
            continue
        if not node.input or types.get(node.input[0]) != _FLOAT:
            continue
        chain = _Chain(editor, types)
        if all(chain.follow(name) for name in node.input if name):
            # An input may be anything; what is computed of it and turned by an angle is a position.
            of_inputs = bool(chain.nodes) and (to_index or node.op_type in _ANGLES)
            if chain.of_integers or of_inputs:
                yield index
                yield from chain.nodes


class _Chain:
    """The nodes that make a value, back to integers and inputs."""

    def __init__(self, editor: Editor, types: Mapping[str, int]) -> None:
        self._editor, self._types = editor, types
        self._seen: set[str] = set()
        self.nodes: set[int] = set()
        self.of_integers = False

    def follow(self, value: str) -> bool:
        """Collect the makers of a value; False if an activation is among them."""
        waiting = [value]
        while waiting:
            name = waiting.pop()
            maker = self._editor.producers.get(name)
            if name in self._seen or self._types.get(name) == TensorProto.BOOL:
                continue
            self._seen.add(name)
            if self._types.get(name) in _INTEGERS:
                self.of_integers = True
                continue
            if maker is None:
                continue
            node = self._editor.nodes[maker]
            if node.op_type not in MOVING | _ARITHMETIC | _ANGLES | _STEPS:
                return False
            if node.op_type in _PRODUCTS and not self._has_few_weights(node):
                return False
            self.nodes.add(maker)
            waiting += [given for given in _operands(node) if given]
        return True

    def _has_few_weights(self, node: onnx.NodeProto) -> bool:
        scope = self._editor.scope
        try:
            sources = [
                main_source(scope, name) for name in node.input if scope.state(name).kind == "constant"
            ]
        except Opaque:
            return False
        return bool(sources) and all(s is not None and math.prod(s.shape) <= _FEW for s in sources)


def _operands(node: onnx.NodeProto) -> list[str]:
    """Return the inputs whose numbers are in the result, without indices, shapes and conditions."""
    if node.op_type in MOVING - {"Concat"} | {"CumSum"}:
        return list(node.input[:1])
    return list(node.input[1:] if node.op_type == "Where" else node.input)
