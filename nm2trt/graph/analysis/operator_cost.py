"""Cost of computing a constant, in memory and time, and the refusal of one that costs too much."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.moving_operators import SELECTING
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.light_onnx import TensorProto
from nm2trt.limits.bounds import bounds, seconds_left

Inputs = Sequence[Array | None]

# Operators that the onnx package's own reference evaluates; `check_growth` knows what they return.
BY_REFERENCE = frozenset(
    """ArgMax ArgMin BatchNormalization Ceil Clip CumSum DepthToSpace Einsum Elu Erf Exp Floor
    GatherElements GatherND HardSigmoid HardSwish IsInf IsNaN LayerNormalization LeakyRelu Log
    LogSoftmax LpNormalization MatMul Max Mean Min Mod NonZero Pow PRelu QuantizeLinear Range ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Round ScatterElements ScatterND Selu Sigmoid Sin Cos Size Softmax Softplus
    Softsign SpaceToDepth Sum Tan Tanh ThresholdedRelu Trilu""".split()
)


class Opaque(Exception):  # noqa: N818 - it is an answer, not an error
    """The value is constant, but cannot be evaluated; the text is a clause that says why."""


def check_growth(
    operator: str, arrays: Inputs, label: str, attributes: Mapping[str, Any], *, held: int, stored: int
) -> None:
    """Refuse a result that would be far larger than what the model stores, or would take too long.

    Args:
        operator: The operator.
        arrays: Its inputs.
        label: Its node, for messages.
        attributes: Its attributes.
        held: Bytes that the constants computed so far hold.
        stored: Bytes of the stored tensors that they are made of.

    Raises:
        Opaque: It would pass a bound of `nm2trt.limits.bounds`.
    """
    given = [array for array in arrays if array is not None]
    size = _result_size(operator, given)
    if operator == "Einsum":
        sizes, labels = _einsum_labels(attributes, given)
        size = max(size, math.prod(sizes.get(label, 1) for label in labels))
    width = max((array.dtype.itemsize for array in given), default=8)
    if operator == "ConstantOfShape":
        fill = attributes.get("value")
        width = 4 if fill is None else _width(int(fill.data_type))
    elif operator == "Cast":
        width = _width(int(attributes.get("to", 0)))
    elif operator in ("NonZero", "ArgMax", "ArgMin"):
        width = 8
    # Views cost nothing; an operator that computes holds about one temporary beside its result.
    needed = 0 if operator in SELECTING else size * width * (2 if operator in BY_REFERENCE else 1)
    most = bounds().constant_bytes + 4 * stored
    if held + needed > most:
        raise Opaque(
            f"{label} would hold {size} elements, more than the {most / (1 << 30):.3g} GB for computed "
            "constants (--constant-memory)"
        )
    seconds = _work(operator, given, size, attributes) / _PER_SECOND
    if seconds > seconds_left():
        raise Opaque(
            f"{label} would take about {seconds:.0f} s, and {max(0.0, seconds_left()):.0f} s are left for "
            "computed constants (--constant-time)"
        )


# Elementary steps of numpy per second, a low estimate.
_PER_SECOND = 3e8


# Evaluated by the reference with a Python loop over elements.
_LOOPS = frozenset({"ScatterElements", "ScatterND", "GatherND", "GatherElements", "Erf"})


def _width(data_type: int) -> int:
    try:
        return element_type(TensorProto(data_type=data_type)).numpy.itemsize
    except ModelError:
        return 8


def _work(operator: str, given: list[Array], size: int, attributes: Mapping[str, Any]) -> float:
    """Return about how many elementary steps an operator takes."""
    if operator == "MatMul" and len(given) == 2 and given[0].ndim:
        # Whole numbers do not go to BLAS.
        return float(size * given[0].shape[-1]) * (1.0 if given[0].dtype.kind in "iub" else 0.01)
    if operator == "Einsum":
        return float(math.prod(_einsum_labels(attributes, given)[0].values()))
    return size * (500.0 if operator in _LOOPS else 1.0)


def _einsum_labels(attributes: Mapping[str, Any], given: list[Array]) -> tuple[dict[str, int], str]:
    """Return the size of every label of an einsum, and the labels of its result; `...` counts as nothing."""
    inputs, _, result = (
        str(attributes.get("equation", "")).replace(" ", "").replace("...", "").partition("->")
    )
    sizes: dict[str, int] = {}
    for term, array in zip(inputs.split(","), given, strict=False):
        sizes.update(zip(reversed(term), reversed(array.shape), strict=False))
    return sizes, result


def _result_size(operator: str, given: list[Array]) -> int:
    if not given:
        return 0
    first = given[0]
    if operator == "ConstantOfShape":
        return math.prod(max(0, int(s)) for s in first.reshape(-1))
    if operator == "Range":
        start, stop, step = (float(a.reshape(())) for a in given[:3])
        return math.ceil(max(0.0, (stop - start) / step)) if step else 0
    if operator == "NonZero":
        return first.size * max(1, first.ndim)
    if len(given) < 2:
        return first.size
    second = given[1]
    if operator == "Expand":
        return math.prod(np.broadcast_shapes(first.shape, tuple(max(1, int(s)) for s in second)))
    if operator == "Tile":
        return first.size * math.prod(max(0, int(s)) for s in second)
    if operator == "Pad":
        grown = [max(0, int(p)) for p in second]
        return math.prod(size + sum(grown) for size in first.shape)
    if operator == "Gather":
        return first.size // max(1, min(first.shape, default=1)) * second.size
    if operator == "Concat":
        return sum(a.size for a in given)
    if operator == "MatMul" and first.ndim and second.ndim:
        rows = first.size // max(1, first.shape[-1])
        return int(rows * (second.size // max(1, second.shape[-2] if second.ndim > 1 else second.shape[0])))
    if operator in _ONE_TENSOR:
        return first.size
    return math.prod(np.broadcast_shapes(*(a.shape for a in given)))


# Their other inputs are shapes, axes, scales or indices.
_ONE_TENSOR = frozenset(
    """BatchNormalization Reshape Squeeze Unsqueeze Slice Split QuantizeLinear DequantizeLinear
    CastLike Clip CumSum GatherElements GatherND LayerNormalization ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare
    ScatterElements ScatterND Trilu Einsum""".split()
)
