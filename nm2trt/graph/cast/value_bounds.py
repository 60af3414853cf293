"""Largest magnitudes that values of a graph may reach, without samples: an overflow forecast.

An ordinary activation is taken as up to `ORDINARY`, about a hundred times what trained networks show.
Squares, sums of many terms, exponentials and products of such are bounded from that, until an operator brings
the result back: a division by a sum or norm, a saturating function, a normalisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.constant_values import evaluate
from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.operator_cost import Opaque
from nm2trt.graph.analysis.shapes import Shapes
from nm2trt.graph.analysis.stored_sources import few_numbers
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.light_onnx import onnx

ORDINARY = 1024.0
# Terms of a sum whose length is not known.
_MANY = 4096
_HUGE = 1e30

# Their results are as large as their first input.
_MOVES = (MOVING - {"Concat"}) | {"Neg", "Abs", "Cast"}
# Their results do not grow with what they read.
_SATURATES = frozenset(
    """Sigmoid HardSigmoid Tanh Softmax LogSoftmax Hardmax Erf Softsign Log Sin Cos Atan Asin Acos Reciprocal
    LayerNormalization InstanceNormalization GroupNormalization RMSNormalization LpNormalization
    MeanVarianceNormalization BatchNormalization LRN LSTM GRU RNN ReduceLogSum ReduceLogSumExp
    Sign QuantizeLinear DequantizeLinear SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss
    Greater GreaterOrEqual Less LessOrEqual Equal And Or Xor Not IsNaN IsInf""".split()
)
_GROWS = frozenset({"Exp", "Sinh", "Cosh", "Tan"})
_PRODUCTS = frozenset({"Mul", "MatMul", "Gemm", "Einsum"})


class ValueBounds:
    """Magnitudes expected of the values of a main graph.

    Args:
        editor: The graph, its nodes in topological order.
        shapes: Shapes of its values, as far as they are known.
    """

    def __init__(self, editor: Editor, shapes: Shapes) -> None:
        self._editor, self._shapes = editor, shapes
        self._constants: dict[str, float | None] = {}
        self.of: dict[str, float] = {}
        for _, node in editor.live():
            read = [self.largest(name) for name in node.input if name]
            # Growth ends at _HUGE; only a stored constant, as of an attention mask, is larger.
            top = max([_HUGE, *(size for size in read if size < math.inf)])
            bound = min(self._bound(node, read), top)
            for name in node.output:
                self.of[name] = bound

    def largest(self, value: str) -> float:
        """Return the magnitude expected of a value; `ORDINARY` for one without history."""
        constant = self._constant(value)
        return self.of.get(value, ORDINARY) if constant is None else constant

    def _bound(self, node: onnx.NodeProto, read: list[float]) -> float:
        known = _RULES.get(node.op_type)
        if known is not None:
            return known(self, node, read)
        if node.op_type in _SATURATES:
            return ORDINARY
        if node.op_type in _GROWS:
            return _HUGE
        moving = [self.of.get(name, ORDINARY) for name in node.input if name and self._constant(name) is None]
        return max(moving, default=max(read, default=ORDINARY))

    def _constant(self, value: str) -> float | None:
        """Return the largest magnitude of a constant; None for a value that is computed."""
        if value not in self._constants:
            found: float | None = None
            if self._editor.scope.state(value).kind == "constant":
                found = 1.0  # a weight: sums of products are taken to keep the size of an activation
                array = few_numbers(self._editor.scope, value)
                if array is not None and array.dtype.kind in "biuf" and array.size:
                    found = float(np.abs(array.astype(np.float64)).max())
            self._constants[value] = found
        return self._constants[value]

    def _origin(self, value: str) -> str:
        """Return the value that a chain of moving operators starts from."""
        while (maker := self._editor.producers.get(value)) is not None:
            node = self._editor.nodes[maker]
            if node.op_type not in _MOVES or not node.input or not node.input[0]:
                break
            value = node.input[0]
        return value

    def _terms(self, node: onnx.NodeProto) -> int:
        """Return how many terms a reduction sums."""
        shape = self._shapes.get(node.input[0])
        if shape is None:
            return _MANY
        attributes = {attribute.name: attribute for attribute in node.attribute}
        axes: tuple[int, ...] = ()
        if "axes" in attributes:
            axes = tuple(attributes["axes"].ints)
        elif len(node.input) > 1 and node.input[1]:
            given = self._array(node.input[1])
            if given is None:
                return _MANY
            axes = tuple(int(axis) for axis in given.ravel())
        chosen = range(len(shape)) if not axes else [axis % max(len(shape), 1) for axis in axes]
        sizes = [shape[axis] for axis in chosen]
        known = math.prod(size for size in sizes if size is not None)
        return known * _MANY if None in sizes else known

    def _pooled_norm(self, node: onnx.NodeProto, read: list[float]) -> float:
        shape = self._shapes.get(node.input[0]) or ()
        sizes = [_MANY if size is None else size for size in shape[2:]] or [_MANY]
        return float(read[0] * math.prod(sizes) ** 0.5)

    def _power(self, node: onnx.NodeProto, read: list[float]) -> float:
        exponent = self._scalar(node.input[1]) if len(node.input) > 1 else None
        if exponent is None:
            return _HUGE
        if exponent <= 0 or (exponent <= 1 and read[0] <= ORDINARY):
            return ORDINARY
        return float(min(read[0], _HUGE ** (1 / exponent)) ** exponent)

    def _array(self, value: str) -> Array | None:
        if self._editor.scope.state(value).kind != "constant":
            return None
        try:
            return evaluate(self._editor.scope, value)
        except Opaque:
            return None

    def _scalar(self, value: str) -> float | None:
        array = self._array(value)
        if array is None:
            return None
        return float(array.max()) if array.size and array.dtype.kind in "iuf" else None

    def _divided(self, node: onnx.NodeProto, read: list[float]) -> float:
        if read[0] <= ORDINARY:
            return ORDINARY
        divisor = self._scalar(node.input[1])
        if divisor:
            return read[0] / abs(divisor)
        # A sum, a norm or a root of one: the quotient is of the size of an activation again.
        return ORDINARY if read[1] > ORDINARY or self._reduced(node.input[1]) else read[0]

    def _reduced(self, value: str) -> bool:
        """Tell whether a value is a reduction, or a root, a sum or a lower bound of one."""
        for _ in range(8):
            maker = self._editor.producers.get(value)
            if maker is None:
                return False
            node = self._editor.nodes[maker]
            if node.op_type.startswith("Reduce"):
                return True
            if node.op_type not in _MOVES | {"Sqrt", "Add", "Clip", "Max", "Pow"}:
                return False
            value = next((name for name in node.input if name and self._constant(name) is None), "")
        return False

    def _product(self, node: onnx.NodeProto, read: list[float]) -> float:  # noqa: ARG002
        moving = [name for name in node.input if name and self._constant(name) is None]
        factors = [self.largest(name) for name in moving]
        if len(moving) >= 2 and self._origin(moving[0]) == self._origin(moving[1]):
            terms = 1 if node.op_type == "Mul" else self._inner(moving[0])
            return factors[0] * factors[1] * terms
        if node.op_type != "Mul":
            return max([ORDINARY, *factors])
        constants = [self.largest(name) for name in node.input if name and self._constant(name) is not None]
        if not factors or max(factors) <= ORDINARY:
            return max([ORDINARY, *(size for size in constants if size > _HUGE)])
        # A product with an ordinary value may be as large as the other; two large ones multiply.
        return math.prod(f for f in factors if f > ORDINARY) * math.prod(constants)

    def _inner(self, value: str) -> int:
        shape = self._shapes.get(value)
        return (shape[-1] if shape else None) or _MANY

    def _clipped(self, node: onnx.NodeProto, read: list[float]) -> float:
        attributes = {attribute.name: attribute.f for attribute in node.attribute}
        limits = [
            attributes.get(
                name, self._scalar(node.input[slot]) if len(node.input) > slot and node.input[slot] else None
            )
            for slot, name in ((1, "min"), (2, "max"))
        ]
        if limits[1] is None:
            return read[0]
        return min(read[0], max(abs(float(limit)) for limit in limits if limit is not None))


_Rule = Callable[[ValueBounds, onnx.NodeProto, list[float]], float]
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(("ReduceSum", "ReduceL1", "CumSum"), lambda b, node, read: read[0] * b._terms(node)),
    **dict.fromkeys(_PRODUCTS, ValueBounds._product),
    **dict.fromkeys(
        ("Add", "Sub", "Sum"), lambda _, __, read: sum(read) if max(read) > ORDINARY else ORDINARY
    ),
    **dict.fromkeys(("Where", "Max", "Concat"), lambda _, __, read: max(read)),  # a condition is 0 or 1
    "ReduceSumSquare": lambda b, node, read: read[0] ** 2 * b._terms(node),
    "ReduceL2": lambda b, node, read: float(read[0] * b._terms(node) ** 0.5),
    "GlobalLpPool": ValueBounds._pooled_norm,
    "ReduceProd": lambda *_: _HUGE,
    **dict.fromkeys(
        ("ReduceMean", "ReduceMax", "ReduceMin", *_MOVES), lambda _, __, read: read[0] if read else ORDINARY
    ),
    "Pow": ValueBounds._power,
    "Sqrt": lambda _, __, read: read[0] ** 0.5 if read[0] > ORDINARY else ORDINARY,
    "Div": ValueBounds._divided,
    "Clip": ValueBounds._clipped,
}
