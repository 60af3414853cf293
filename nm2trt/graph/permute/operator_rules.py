"""Rules on how each ONNX operator treats the order of its channels, as rules on dimensions.

A rule settles the dimensions through which a permutation passes unchanged; all others of the node are
frozen, and so is every dimension of a node that has no rule. The exact cases besides convolutions and
products: Concat, Slice, Split, Gather and Softmax freeze the axis that they work along; a Reshape freezes the
sizes that it splits or joins.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from nm2trt.graph.permute.dimensions import NodeDimensions, Shape

Rule = Callable[[NodeDimensions], None]

_SOFTMAX_OVER_ONE_AXIS = 13

_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
    Ceil Celu Clip Cos Cosh Div Dropout Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual
    HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod
    Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus
    Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor
""".split()
_REDUCTIONS = [f"Reduce{kind}" for kind in "L1 L2 LogSum LogSumExp Max Mean Min Prod Sum SumSquare".split()]
_POOLS = ["AveragePool", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "LpPool", "MaxPool"]


def _elementwise(node: NodeDimensions) -> None:
    if len(node.results) == 1 and "broadcast" not in node.attributes:  # opset 6 aligned at another axis
        node.broadcast(node.slots)


def _cast_like(node: NodeDimensions) -> None:
    node.broadcast([0])
    node.free(1)  # only its type counts


def _expand(node: NodeDimensions) -> None:
    """Pass on what is known to be longer than 1; what is repeated is the same at every place."""
    ahead = len(node.result_shape()) - len(node.shape(0))
    for result in range(len(node.result_shape())):
        size = node.shape(0)[result - ahead] if result >= ahead else 1
        if size == 1:
            node.free_result(result)
        elif size is not None:
            node.pass_on(0, result - ahead, result)


def _conv(node: NodeDimensions, *, out: int = 0) -> None:
    """Contract the input channels; `out` is the weight's axis of output channels."""
    weight, groups = node.shape(1), int(node.attributes.get("group", 1))
    node.pass_on(0, 0, 0)
    if groups == 1:
        node.contract(1, 1 - out)
        node.pass_on(1, out, 1)
    elif node.shape(0)[1] == groups == weight[0] and weight[1] == 1:
        node.pass_on(0, 1, 1)
        node.pass_on(1, 0, 1)
        node.free(1, 1)
    else:
        return  # a channel may not leave its group
    _vectors(node, 2)


def _vectors(node: NodeDimensions, first: int) -> None:
    """Join the vectors from input `first` on, one number per channel, with the output's channels."""
    for slot in node.slots:
        if slot >= first:
            node.pass_on(slot, 0, 1)


def _matmul(node: NodeDimensions) -> None:
    left, right, out = len(node.shape(0)), len(node.shape(1)), len(node.result_shape())
    node.contract(left - 1, max(right - 2, 0))
    if left > 1:
        node.pass_on(0, left - 2, out - (2 if right > 1 else 1))
    if right > 1:
        node.pass_on(1, right - 1, out - 1)
    if left > 1 and right > 1:
        node.broadcast([0, 1], trailing=2)
    # After a vector, a batch dimension has another place in the output; it stays frozen.


def _gemm(node: NodeDimensions) -> None:
    if not _stretches(node, 2, node.result_shape()):
        return
    flipped = [bool(node.attributes.get(name, 0)) for name in ("transA", "transB")]
    node.contract(0 if flipped[0] else 1, 1 if flipped[1] else 0)
    node.pass_on(0, 1 if flipped[0] else 0, 0)
    node.pass_on(1, 0 if flipped[1] else 1, 1)
    if 2 in node.slots:
        node.broadcast([2])


def _batch_norm(node: NodeDimensions) -> None:
    if len(node.results) == 1 and not node.attributes.get("training_mode", 0):
        _instance_norm(node)


def _instance_norm(node: NodeDimensions) -> None:
    _stay(node)
    _vectors(node, 1)


def _layer_norm(node: NodeDimensions) -> None:
    shape = node.shape(0)
    if len(node.results) != 1 or not all(_stretches(node, slot, shape) for slot in node.slots[1:]):
        return
    _stay(node)
    for slot in node.slots[1:]:
        ahead = len(shape) - len(node.shape(slot))
        for axis, size in enumerate(node.shape(slot)):
            if size != 1:
                node.pass_on(slot, axis, ahead + axis)


def _stretches(node: NodeDimensions, slot: int, shape: Shape) -> bool:
    """Tell whether an input, if present, is known to have a shape's last sizes, or 1 in their place."""
    own = node.shape(slot)
    pairs = zip(own[::-1], shape[::-1], strict=False)
    return all(size is not None and size in (1, wide) for size, wide in pairs)


def _stay(node: NodeDimensions, axes: Iterable[int] | None = None) -> None:
    """Pass these dimensions of the first input, or all, on at their own places."""
    for axis in range(len(node.shape(0))) if axes is None else axes:
        node.pass_on(0, axis, axis)


def _pool(node: NodeDimensions) -> None:
    if len(node.results) == 1:
        _stay(node, (0, 1))


def _reduce(node: NodeDimensions) -> None:
    rank = len(node.shape(0))
    axes = node.attributes.get("axes") if 1 not in node.slots else node.numbers(1)
    unknown = axes is None and 1 in node.slots
    if unknown or (not axes and node.attributes.get("noop_with_empty_axes", 0)):
        return
    reduced = {int(axis) % rank for axis in axes} if axes else set(range(rank))
    kept = bool(node.attributes.get("keepdims", 1))
    result = 0
    for axis in range(rank):
        if axis in reduced:
            node.free(0, axis)
            if kept:
                node.free_result(result)
        else:
            node.pass_on(0, axis, result)
        result += axis not in reduced or kept


def _transpose(node: NodeDimensions) -> None:
    backwards = reversed(range(len(node.shape(0))))
    for result, axis in enumerate(node.attributes.get("perm", backwards)):
        node.pass_on(0, int(axis), result)


def _reshape(node: NodeDimensions) -> None:
    """Pass the first and the last sizes that stay, sizes of 1 aside; those between are split or joined."""
    before, after = node.shape(0), node.result_shape()
    old = [axis for axis, size in enumerate(before) if size != 1]
    new = [axis for axis, size in enumerate(after) if size != 1]
    least = min(len(old), len(new))
    for pairs in (zip(old, new, strict=False), zip(old[::-1], new[::-1], strict=False)):
        for axis, result in list(pairs)[:least]:
            if before[axis] is None or before[axis] != after[result]:
                break
            node.pass_on(0, axis, result)


def _squeeze(node: NodeDimensions, *, added: bool = False) -> None:
    """Pass all dimensions but those of size 1 that come or go at the given axes of the longer shape."""
    axes = node.attributes.get("axes") or node.numbers(1)
    if axes is None:
        _reshape(node)
        return
    rank = len(node.result_shape() if added else node.shape(0))
    gone = {int(axis) % rank for axis in axes}
    left = [axis for axis in range(rank) if axis not in gone]
    for short, wide in enumerate(left):
        node.pass_on(0, *((short, wide) if added else (wide, short)))


def _concat(node: NodeDimensions) -> None:
    rank = len(node.result_shape())
    along = int(node.attributes.get("axis", 0)) % rank
    for axis in range(rank):
        for slot in node.slots if axis != along else ():
            node.pass_on(slot, axis, axis)


def _split(node: NodeDimensions) -> None:
    rank = len(node.shape(0))
    along = int(node.attributes.get("axis", 0)) % rank
    for axis in range(rank):
        for result in node.results if axis != along else ():
            node.pass_on(0, axis, axis, result)


def _slice(node: NodeDimensions) -> None:
    rank = len(node.shape(0))
    starts = node.attributes.get("starts") or node.numbers(1)
    axes = node.attributes.get("axes") or node.numbers(3)
    if axes is None and (3 in node.slots or starts is None):
        return
    cut = {int(axis) % rank for axis in (range(len(starts or ())) if axes is None else axes)}
    _stay(node, set(range(rank)) - cut)


def _gather(node: NodeDimensions) -> None:
    rank, extra = len(node.shape(0)), len(node.shape(1))
    along = int(node.attributes.get("axis", 0)) % rank
    for axis in range(rank):
        if axis != along:
            node.pass_on(0, axis, axis if axis < along else axis - 1 + extra)
    for axis in range(extra):
        node.pass_on(1, axis, along + axis)


def _softmax(node: NodeDimensions) -> None:
    rank = len(node.shape(0))
    one = node.opset >= _SOFTMAX_OVER_ONE_AXIS
    along = int(node.attributes.get("axis", -1 if one else 1)) % rank
    _stay(node, (axis for axis in range(rank) if axis != along and (one or axis < along)))


def _pad(node: NodeDimensions) -> None:
    pads = node.attributes.get("pads") or node.attributes.get("paddings") or node.numbers(1)
    rank = len(node.shape(0))
    if pads is None or len(pads) != 2 * rank or 3 in node.slots:
        return
    _stay(node, (axis for axis in range(rank) if pads[axis] == pads[axis + rank] == 0))


def _resize(node: NodeDimensions) -> None:
    mode = node.attributes.get("coordinate_transformation_mode")
    if node.attributes.get("axes") is not None or mode == "tf_crop_and_resize":
        return
    scales, sizes = node.numbers(2), node.numbers(3)
    for axis, size in enumerate(node.shape(0)):
        if (scales and scales[axis] == 1.0) or (sizes and size is not None and sizes[axis] == size):
            node.pass_on(0, axis, axis)


def _shape(node: NodeDimensions) -> None:
    node.free(0)


def _uniform(node: NodeDimensions) -> None:
    for axis in range(len(node.result_shape())):
        node.free_result(axis)


def _constant(node: NodeDimensions) -> None:
    if "value" in node.attributes:  # a tensor that can be permuted where it is stored
        _uniform(node)


_DEFAULT: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduce),
    **dict.fromkeys(_POOLS, _pool),
    **dict.fromkeys(["Reshape", "Flatten"], _reshape),
    **dict.fromkeys(["Softmax", "LogSoftmax", "Hardmax"], _softmax),
    **dict.fromkeys(["LayerNormalization", "RMSNormalization"], _layer_norm),
    **dict.fromkeys(["Shape", "Size"], _shape),
    "CastLike": _cast_like,
    "Expand": _expand,
    "Conv": _conv,
    "ConvTranspose": functools.partial(_conv, out=1),
    "MatMul": _matmul,
    "Gemm": _gemm,
    "BatchNormalization": _batch_norm,
    "InstanceNormalization": _instance_norm,
    "Transpose": _transpose,
    "Squeeze": _squeeze,
    "Unsqueeze": functools.partial(_squeeze, added=True),
    "Concat": _concat,
    "Split": _split,
    "Slice": _slice,
    "Gather": _gather,
    "Pad": _pad,
    "Resize": _resize,
    "Constant": _constant,
    "ConstantOfShape": _uniform,
}
# Domain and operator -> rule.
RULES: Mapping[tuple[str, str], Rule] = {
    **{("", operator): rule for operator, rule in _DEFAULT.items()},
    **{("com.microsoft", kind): _elementwise for kind in ("BiasGelu", "FastGelu", "Gelu", "QuickGelu")},
}
