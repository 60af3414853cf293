"""The operators that stand in front of weights, in numpy: those that move elements, and those that compute.

The common ones run at numpy's speed and in the array's own dtype; the rest go to the onnx package's
reference evaluator. A result that a few bytes of file would blow up is refused before it is made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.graph.analysis.operator_cost import Inputs, Opaque
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.light_onnx import TensorProto, onnx

# A constant larger than this is not unfolded in memory; no weight is.
MOST_ELEMENTS = 1 << 30


def _given(arrays: Sequence[Array | None], slot: int) -> Array | None:
    """Return an optional input, or None."""
    return arrays[slot] if slot < len(arrays) else None


def _whole(arrays: Sequence[Array | None], slot: int, attributes: dict[str, Any], name: str) -> Any:
    """Return whole numbers that an input gives, or in older opsets an attribute; None without either."""
    array = _given(arrays, slot)
    found = attributes.get(name) if array is None else array.reshape(-1)
    return None if found is None else [int(number) for number in found]


def _one(function: Callable[[Any, dict[str, Any]], Array]) -> Callable[..., list[Array]]:
    return lambda arrays, attributes: [function(arrays, attributes)]


def _reshape(arrays: Any, attributes: dict[str, Any]) -> Array:
    data = arrays[0]
    wanted = attributes["shape"] if "shape" in attributes else arrays[1].tolist()
    shape = [
        data.shape[i] if size == 0 and not attributes.get("allowzero", 0) else int(size)
        for i, size in enumerate(wanted)
    ]
    return np.asarray(data.reshape(shape))


def _flatten(arrays: Any, attributes: dict[str, Any]) -> Array:
    data = arrays[0]
    axis = int(attributes.get("axis", 1))
    axis += data.ndim if axis < 0 else 0
    return np.asarray(data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:])))


def _squeeze(arrays: Any, attributes: dict[str, Any]) -> Array:
    axes = _whole(arrays, 1, attributes, "axes")
    return np.asarray(np.squeeze(arrays[0], axis=None if axes is None else tuple(axes)))


def _unsqueeze(arrays: Any, attributes: dict[str, Any]) -> Array:
    return np.asarray(np.expand_dims(arrays[0], tuple(_whole(arrays, 1, attributes, "axes") or ())))


def _slice(arrays: Any, attributes: dict[str, Any]) -> Array:
    data = arrays[0]
    starts, ends, axes, steps = (
        _whole(arrays, slot, attributes, name)
        for slot, name in enumerate(("starts", "ends", "axes", "steps"), start=1)
    )
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cut = [slice(None)] * data.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = data.shape[axis]
        # ONNX clamps; Python's -1 as an end would mean the last element.
        low = max(0, start + size) if start < 0 else start
        high = (end + size if end + size >= 0 else (None if step < 0 else 0)) if end < 0 else end
        cut[axis] = slice(low, high, step)
    return np.asarray(data[tuple(cut)])


def _split(arrays: Any, attributes: dict[str, Any]) -> list[Array]:
    data = arrays[0]
    axis = int(attributes.get("axis", 0))
    size = data.shape[axis]
    parts = _whole(arrays, 1, attributes, "split")
    if parts is None:
        count = int(attributes["num_outputs"])
        each = -(-size // count)
        parts = [each] * (count - 1) + [size - each * (count - 1)]
    return [np.asarray(part) for part in np.split(data, np.cumsum(parts)[:-1], axis=axis)]


def _pad(arrays: Any, attributes: dict[str, Any]) -> Array:
    data, pads = arrays[0], [int(v) for v in arrays[1]]
    if str(attributes.get("mode", "constant")) != "constant":
        raise Opaque(f"Pad in mode {attributes['mode']} is not evaluated")
    fill, axes = _given(arrays, 2), _whole(arrays, 3, {}, "axes")
    axes = range(data.ndim) if axes is None else axes
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    cut = tuple(slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, data.shape, strict=True))
    grown = [(max(0, a), max(0, b)) for a, b in widths]
    value = np.asarray(0 if fill is None else fill).reshape(()).astype(data.dtype)
    return np.pad(data[cut], grown, constant_values=value)


def _expand(arrays: Any, _: dict[str, Any]) -> Array:
    shape = np.broadcast_shapes(arrays[0].shape, tuple(int(size) for size in arrays[1]))
    return np.array(np.broadcast_to(arrays[0], shape))


# Operators that only move elements: array in, elements of that array out.
MOVES: dict[str, Callable[..., list[Array]]] = {
    "Identity": _one(lambda a, _: a[0]),
    "Transpose": _one(lambda a, at: np.transpose(a[0], at.get("perm"))),
    "Reshape": _one(_reshape),
    "Flatten": _one(_flatten),
    "Squeeze": _one(_squeeze),
    "Unsqueeze": _one(_unsqueeze),
    "Slice": _one(_slice),
    "Split": _split,
    "Concat": _one(lambda a, at: np.concatenate([x for x in a if x is not None], axis=int(at["axis"]))),
    "Gather": _one(lambda a, at: np.take(a[0], a[1].astype(np.int64), axis=int(at.get("axis", 0)))),
    "Expand": _one(_expand),
    "Tile": _one(lambda a, _: np.tile(a[0], [int(s) for s in a[1]])),
    "Pad": _one(_pad),
    "Dropout": lambda a, _: [a[0], np.ones(a[0].shape, np.bool_)],
}


def _cast(arrays: Any, attributes: dict[str, Any]) -> Array:
    dtype = element_type(TensorProto(data_type=int(attributes["to"]))).numpy
    return cast_array(_saturated(arrays[0], dtype, attributes), dtype)


def _saturated(array: Array, dtype: np.dtype[Any], attributes: dict[str, Any]) -> Array:
    """Clip to an eight-bit float's range, as ONNX does unless `saturate` is 0; NaN stays."""
    if not dtype.name.startswith("float8") or array.dtype.kind in "US" or not attributes.get("saturate", 1):
        return array
    import ml_dtypes

    largest = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    return np.asarray(np.clip(array.astype(np.float32), -largest, largest))


def cast_array(array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert as ONNX Cast does; overflow becomes infinity without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == np.bool_:
            return np.asarray(array != 0)
        return array.astype(dtype)


def _broadcast_scale(values: Array, data: Array, attributes: dict[str, Any]) -> Array:
    """Shape a scale or zero point so that it broadcasts: one, one per index of `axis`, or one per block."""
    if values.size == 1:
        return values.reshape(())
    axis = int(attributes.get("axis", 1))
    block = int(attributes.get("block_size", 0))
    if block:
        wide = np.repeat(values, block, axis=axis)
        return np.take(wide, np.arange(data.shape[axis]), axis=axis)
    shape = [1] * data.ndim
    shape[axis] = values.size
    return values.reshape(shape)


def _dequantize(arrays: Any, attributes: dict[str, Any]) -> Array:
    data, scale, zero = arrays[0], arrays[1], _given(arrays, 2)
    numbers = data.astype(np.float32)
    if zero is not None:
        numbers = numbers - _broadcast_scale(zero, data, attributes).astype(np.float32)
    wide = numbers * _broadcast_scale(scale, data, attributes).astype(np.float32)
    return np.asarray(wide.astype(scale.dtype))


def _quantize(arrays: Any, attributes: dict[str, Any]) -> Array:
    data, scale, zero = arrays[0], arrays[1], _given(arrays, 2)
    wanted = int(attributes.get("output_dtype", 0))
    if zero is not None:
        dtype = zero.dtype
    else:
        dtype = element_type(TensorProto(data_type=wanted or TensorProto.UINT8)).numpy
    scaled = data.astype(np.float32) / _broadcast_scale(scale, data, attributes).astype(np.float32)
    if dtype.kind not in "iu" and "int" not in str(dtype):
        return np.asarray(_saturated(scaled, dtype, attributes).astype(dtype))
    limits = {"int4": (-8, 7), "uint4": (0, 15)}.get(str(dtype))
    low, high = limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    offset = 0 if zero is None else _broadcast_scale(zero, data, attributes).astype(np.float32)
    return np.asarray(np.clip(np.rint(scaled) + offset, low, high).astype(dtype))


def _divide(arrays: Any, _: dict[str, Any]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if arrays[0].dtype.kind in "iu":
            # ONNX truncates towards zero; in integers throughout, since float64 ends at 2**53.
            divisor = np.where(arrays[1] == 0, 1, arrays[1]).astype(arrays[1].dtype)
            quotient = arrays[0] // divisor
            inexact = (arrays[0] % divisor != 0) & ((arrays[0] < 0) != (divisor < 0))
            return np.asarray((quotient + inexact).astype(arrays[0].dtype))
        return np.asarray(arrays[0] / arrays[1])


def _pointwise(function: Callable[..., Any]) -> Callable[[Any, dict[str, Any]], Array]:
    def run(arrays: Any, _: dict[str, Any]) -> Array:
        with np.errstate(all="ignore"):
            result = function(*arrays)
        kept = arrays[0].dtype if result.dtype != np.bool_ else result.dtype
        return np.asarray(result).astype(kept, copy=False)

    return run


def _constant_of_shape(arrays: Any, attributes: dict[str, Any]) -> Array:
    value = attributes.get("value")
    fill = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    return np.full([int(s) for s in arrays[0]], fill.reshape(-1)[0], dtype=fill.dtype)


# Operators that compute: the common ones at numpy's speed and in the array's own dtype.
VALUES: dict[str, Callable[[Any, dict[str, Any]], Array]] = {
    "Cast": _cast,
    "CastLike": lambda a, _: cast_array(a[0], a[1].dtype),
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "ConstantOfShape": _constant_of_shape,
    "Shape": lambda a, at: np.array(a[0].shape[slice(at.get("start", 0), at.get("end"))], np.int64),
    "Mul": _pointwise(np.multiply),
    "Add": _pointwise(np.add),
    "Sub": _pointwise(np.subtract),
    "Div": _divide,
    "And": _pointwise(np.logical_and),
    "Or": _pointwise(np.logical_or),
    "Xor": _pointwise(np.logical_xor),
    "Not": _pointwise(np.logical_not),
    "Neg": _pointwise(np.negative),
    "Abs": _pointwise(np.abs),
    "Sqrt": _pointwise(np.sqrt),
    "Reciprocal": _pointwise(lambda x: np.asarray(1, x.dtype) / x),
    "Sign": _pointwise(np.sign),
    "Greater": _pointwise(np.greater),
    "GreaterOrEqual": _pointwise(np.greater_equal),
    "Less": _pointwise(np.less),
    "LessOrEqual": _pointwise(np.less_equal),
    "Equal": _pointwise(np.equal),
    "Where": lambda a, _: np.where(a[0], a[1], a[2]).astype(a[1].dtype, copy=False),
}


def by_reference(
    node: onnx.NodeProto, arrays: Inputs, attributes: dict[str, Any], opsets: Sequence[Any]
) -> list[Array]:
    """Run one node in the onnx package's reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    names = [f"i{position}" if array is not None else "" for position, array in enumerate(arrays)]
    outputs = [f"o{position}" for position in range(len(node.output))]
    plain = onnx.helper.make_node(node.op_type, names, outputs, **attributes)
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if array is not None}
    graph = onnx.helper.make_graph(
        [plain],
        "one",
        [onnx.helper.make_empty_tensor_value_info(name) for name in feeds],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
    )
    model = onnx.helper.make_model(graph, opset_imports=list(opsets))
    return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, feeds)]
