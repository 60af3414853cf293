"""Constant subgraphs: what stands in front of a consumer is evaluated, one weight at a time.

Exporters leave a weight behind Transpose, Cast, And/Cast/Mul of a mask, quantise/dequantise pairs and
more. The consumer reads the result, so the result is what is judged. Operators that only move elements
can also be followed backwards, to name the place in the stored tensor where a group is broken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, numpy_helper

from nm2trt.errors import ModelError
from nm2trt.graph.scope import Scope
from nm2trt.graph.tensors import DTYPE_NAMES, element_type, read_tensor

__all__ = [
    "Opaque",
    "Source",
    "constant_value",
    "direct_initializer",
    "evaluate",
    "main_source",
    "stored_index",
]

Array = npt.NDArray[Any]

# A constant larger than this is not unfolded in memory; no weight is.
_MOST_ELEMENTS = 1 << 31


class Opaque(Exception):  # noqa: N818 - it is an answer, not an error
    """The value is constant, but cannot be evaluated; the text is a clause that says why."""


@dataclass(frozen=True, slots=True)
class Source:
    """A tensor that is stored in the file and feeds a weight.

    Args:
        scope: The scope that stores it.
        name: Its name there.
        dtype: ONNX name of its element type.
        shape: Its shape.
    """

    scope: Scope
    name: str
    dtype: str
    shape: tuple[int, ...]


def direct_initializer(scope: Scope, value: str) -> onnx.TensorProto | None:
    """Return the initializer that a value is, through Identity nodes too; None when it is anything else."""
    while True:
        found = scope.owner(value)
        if found is None:
            return None
        scope, value = found
        if value in scope.initializers:
            return scope.initializers[value]
        node = scope.producers.get(value)
        if node is None or node.op_type != "Identity":
            return None
        value = node.input[0]


def constant_value(scope: Scope, value: str) -> Array:
    """Return a small constant, e.g. a zero point.

    Raises:
        Opaque: It is not constant or cannot be evaluated.
    """
    state = scope.state(value)
    if state.kind != "constant":
        raise Opaque(state.why)
    return evaluate(scope, value)


def evaluate(scope: Scope, value: str) -> Array:
    """Return the array that a constant value holds.

    Raises:
        Opaque: An operator on the way cannot be evaluated; the text names its node.
        ModelError: A stored tensor is damaged.
    """
    return _evaluate(scope, value, None)[0]


def main_source(scope: Scope, value: str) -> Source | None:
    """Return the stored tensor that carries a weight's numbers: the largest on the way, floats first."""
    best: tuple[tuple[bool, int], Source] | None = None
    for source in _sources(scope, value):
        numeric = source.dtype not in ("bool", "int64", "int32")
        rank = (numeric, math.prod(source.shape))
        if best is None or rank > best[0]:
            best = (rank, source)
    return None if best is None else best[1]


def stored_index(scope: Scope, value: str, index: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return where in its stored tensor an element of a weight comes from; None when that is not one place."""
    source = main_source(scope, value)
    if source is None:
        return None
    try:
        places, tracked = _evaluate(scope, value, source)
    except (Opaque, ValueError, IndexError):
        return None
    if not tracked:
        return None
    flat = int(places[index])
    return None if flat < 0 else tuple(int(i) for i in np.unravel_index(flat, source.shape))


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
        if name in where.initializers:
            tensor = where.initializers[name]
            found.append(
                Source(where, name, DTYPE_NAMES.get(tensor.data_type, "unknown"), tuple(tensor.dims))
            )
        elif name in where.sparse:
            sparse = where.sparse[name]
            found.append(
                Source(where, name, DTYPE_NAMES.get(sparse.values.data_type, "unknown"), tuple(sparse.dims))
            )
        elif name in where.producers:
            node = where.producers[name]
            if node.op_type == "Constant" and _is_default(node):
                array = _constant_node(where, node)
                found.append(Source(where, name, str(array.dtype), array.shape))
            stack.extend((where, item) for item in node.input if item)
    return found


def _is_default(node: onnx.NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")


# A tracked array holds, for each element, its flat place in the source, or -1.
_Tracked = tuple[Array, bool]


def _evaluate(scope: Scope, value: str, source: Source | None) -> _Tracked:
    """Evaluate in postorder with a stack of its own: chains may be longer than Python's."""
    done: dict[tuple[int, str], _Tracked] = {}
    stack: list[tuple[Scope, str]] = [(scope, value)]
    while stack:
        owner = stack[-1][0].owner(stack[-1][1])
        if owner is None:
            raise Opaque(f"nothing defines {stack[-1][1]!r}")
        where, name = owner
        key = (id(where), name)
        if key in done:
            stack.pop()
            continue
        if source is not None and source.scope is where and source.name == name:
            done[key] = (np.arange(math.prod(source.shape)).reshape(source.shape), True)
            continue
        if name in where.initializers:
            done[key] = (read_tensor(where.initializers[name], where.model.root), False)
            continue
        if name in where.sparse:
            done[key] = (_dense(where.sparse[name], where), False)
            continue
        node = where.producers[name]
        missing = []
        for item in node.input:
            if item:
                inner = where.owner(item)
                if inner is None or (id(inner[0]), inner[1]) not in done:
                    missing.append((where, item))
        if missing:
            stack.extend(missing)
            continue
        inputs: list[_Tracked | None] = []
        for item in node.input:
            inner = where.owner(item) if item else None
            inputs.append(None if inner is None else done[id(inner[0]), inner[1]])
        results = _run(where, node, inputs)
        for output, result in zip(node.output, results, strict=False):
            if output:
                done[id(where), output] = result
        if key not in done:
            raise Opaque(f"{node.op_type} at {where.label(node)} gives no {name!r}")
    found = scope.owner(value)
    if found is None:
        raise Opaque(f"nothing defines {value!r}")
    return done[id(found[0]), found[1]]


def _dense(sparse: onnx.SparseTensorProto, scope: Scope) -> Array:
    shape = tuple(int(size) for size in sparse.dims)
    name = sparse.values.name
    if any(size < 0 for size in shape) or math.prod(shape) > _MOST_ELEMENTS:
        raise ModelError(f"sparse tensor {name!r} has an impossible shape {list(shape)}")
    values = read_tensor(sparse.values, scope.model.root)
    indices = read_tensor(sparse.indices, scope.model.root).astype(np.int64)
    if indices.ndim == 2:
        if indices.shape != (values.size, len(shape)):
            raise ModelError(
                f"sparse tensor {name!r} has indices of shape {indices.shape}; the model is damaged"
            )
        inside = bool(((indices >= 0) & (indices < np.array(shape))).all())
        flat = np.ravel_multi_index(tuple(indices.T), shape) if inside and indices.size else indices[:, 0]
    else:
        flat = indices
        inside = bool(((flat >= 0) & (flat < math.prod(shape))).all())
    if not inside or flat.shape != (values.size,):
        raise ModelError(
            f"sparse tensor {name!r} has indices outside its shape {list(shape)}; the model is damaged"
        )
    dense = np.zeros(math.prod(shape), values.dtype)
    dense[flat] = values
    return dense.reshape(shape)


def _constant_node(scope: Scope, node: onnx.NodeProto) -> Array:
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            supplied = scope.attributes.get(attribute.ref_attr_name)
            if supplied is None:
                continue
            attribute_name = attribute.name
            attribute = supplied
        else:
            attribute_name = attribute.name
        if attribute_name == "value":
            return read_tensor(attribute.t, scope.model.root)
        if attribute_name == "sparse_value":
            return _dense(attribute.sparse_tensor, scope)
        if attribute_name in ("value_float", "value_floats"):
            return np.array(attribute.floats if attribute_name.endswith("s") else attribute.f, np.float32)
        if attribute_name in ("value_int", "value_ints"):
            return np.array(attribute.ints if attribute_name.endswith("s") else attribute.i, np.int64)
        if attribute_name in ("value_string", "value_strings"):
            raise Opaque(f"Constant at {scope.label(node)} holds text")
    raise Opaque(f"Constant at {scope.label(node)} holds nothing")


def _run(scope: Scope, node: onnx.NodeProto, inputs: Sequence[_Tracked | None]) -> list[_Tracked]:
    label = f"{node.op_type} at {scope.label(node)}"
    if not _is_default(node):
        raise Opaque(f"{node.domain}.{label} is not evaluated")
    if node.op_type == "Constant":
        return [(_constant_node(scope, node), False)]
    arrays = [None if item is None else item[0] for item in inputs]
    tracked = [position for position, item in enumerate(inputs) if item is not None and item[1]]
    attributes = scope.node_attributes(node)
    try:
        if not tracked:
            return [(array, False) for array in _compute(node, arrays, attributes, scope, label)]
        if node.op_type in _MOVES:
            arrays = [
                array
                if array is None or position in tracked or not _moves_input(node.op_type, position)
                else np.full(array.shape, -1)
                for position, array in enumerate(arrays)
            ]
            return [(array, True) for array in _MOVES[node.op_type](arrays, attributes)]
        return [(_through(arrays, tracked, label), True)]
    except (Opaque, ModelError):
        raise
    except Exception as error:
        raise Opaque(f"{label} cannot be evaluated: {' '.join(str(error).split())[:200]}") from error


def _moves_input(operator: str, position: int) -> bool:
    return operator == "Concat" or position == 0


def _through(arrays: Sequence[Array | None], tracked: list[int], label: str) -> Array:
    """Follow an element-wise operator: the result's elements come from where the tracked input's do."""
    places = arrays[tracked[0]]
    shapes = [array.shape for array in arrays if array is not None]
    if (
        places is None
        or len(tracked) > 1
        or len(np.broadcast_shapes(*(s for s in shapes if len(s) <= places.ndim))) > places.ndim
    ):
        raise Opaque(f"{label} mixes elements")
    if (
        np.broadcast_shapes(
            places.shape, *(s for s in shapes if s != places.shape and _broadcasts(s, places.shape))
        )
        != places.shape
    ):
        raise Opaque(f"{label} mixes elements")
    return places


def _broadcasts(small: tuple[int, ...], large: tuple[int, ...]) -> bool:
    return len(small) <= len(large) and all(
        a in (1, b) for a, b in zip(reversed(small), reversed(large), strict=False)
    )


def _bounded(shape: Sequence[int], label: str) -> tuple[int, ...]:
    size = math.prod(int(s) for s in shape)
    if size < 0 or size > _MOST_ELEMENTS:
        raise Opaque(f"{label} would hold {size} elements")
    return tuple(int(s) for s in shape)


def _compute(
    node: onnx.NodeProto, arrays: Sequence[Array | None], attributes: dict[str, Any], scope: Scope, label: str
) -> list[Array]:
    _bound_growth(node, arrays, label)
    if node.op_type in _MOVES:
        return _MOVES[node.op_type](arrays, attributes)
    if node.op_type in _VALUES:
        return [_VALUES[node.op_type](arrays, attributes)]
    if node.op_type not in _BY_REFERENCE:
        raise Opaque(f"{label} is not evaluated")
    return _by_reference(node, arrays, attributes, scope)


def _bound_growth(node: onnx.NodeProto, arrays: Sequence[Array | None], label: str) -> None:
    """Refuse, before it is made, a result that a few bytes of file would blow up."""
    first = arrays[0] if arrays else None
    if first is None:
        return
    second = arrays[1] if len(arrays) > 1 else None
    if node.op_type == "ConstantOfShape":
        _bounded(first.tolist(), label)
    elif node.op_type == "Expand" and second is not None:
        _bounded(np.broadcast_shapes(first.shape, tuple(int(s) for s in second if s > 0)), label)
    elif node.op_type == "Tile" and second is not None:
        _bounded([a * int(b) for a, b in zip(first.shape, second.tolist(), strict=True)], label)
    elif node.op_type == "Pad" and second is not None:
        pads = [abs(int(p)) for p in second.tolist()]
        _bounded([max(first.shape, default=1) + sum(pads)], label)
        _bounded([size + 2 * max(pads, default=0) for size in first.shape], label)
    elif node.op_type == "Range" and second is not None and arrays[2] is not None:
        step = float(arrays[2])
        _bounded([math.ceil((float(second) - float(first)) / step) if step else -1], label)
    elif node.op_type == "Gather" and second is not None:
        _bounded([first.size, second.size], label)
    elif len(arrays) > 1 and node.op_type not in (
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Gather",
        "Concat",
    ):
        shapes = [a.shape for a in arrays if a is not None]
        if node.op_type == "MatMul":
            _bounded(
                [max(s[-2] if len(s) > 1 else 1 for s in shapes), max(s[-1] for s in shapes if s)], label
            )
        else:
            _bounded(
                [max((s[i] for s in ([(1,) * 16 + t for t in shapes])), default=1) for i in range(-8, 0)],
                label,
            )


def _axes(arrays: Sequence[Array | None], attributes: dict[str, Any]) -> list[int] | None:
    if len(arrays) > 1 and arrays[1] is not None:
        return [int(a) for a in arrays[1].reshape(-1)]
    return [int(a) for a in attributes["axes"]] if "axes" in attributes else None


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
    return np.asarray(
        data.reshape(math.prod(data.shape[:axis]), -1)
        if data.size
        else data.reshape(math.prod(data.shape[:axis]), math.prod(data.shape[axis:]))
    )


def _squeeze(arrays: Any, attributes: dict[str, Any]) -> Array:
    axes = _axes(arrays, attributes)
    return np.asarray(np.squeeze(arrays[0], axis=None if axes is None else tuple(axes)))


def _unsqueeze(arrays: Any, attributes: dict[str, Any]) -> Array:
    return np.asarray(np.expand_dims(arrays[0], tuple(_axes(arrays, attributes) or ())))


def _slice(arrays: Any, attributes: dict[str, Any]) -> Array:
    data = arrays[0]
    given = [
        None if a is None else [int(v) for v in a.reshape(-1)]
        for a in [*arrays[1:], None, None, None, None][:4]
    ]
    starts = given[0] if given[0] is not None else list(attributes["starts"])
    ends = given[1] if given[1] is not None else list(attributes["ends"])
    axes = given[2] if given[2] is not None else list(attributes.get("axes", range(len(starts))))
    steps = given[3] if given[3] is not None else [1] * len(starts)
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
    if len(arrays) > 1 and arrays[1] is not None:
        parts = [int(v) for v in arrays[1]]
    elif "split" in attributes:
        parts = [int(v) for v in attributes["split"]]
    else:
        count = int(attributes["num_outputs"])
        each = -(-size // count)
        parts = [each] * (count - 1) + [size - each * (count - 1)]
    return [np.asarray(part) for part in np.split(data, np.cumsum(parts)[:-1], axis=axis)]


def _pad(arrays: Any, attributes: dict[str, Any]) -> Array:
    data, pads = arrays[0], [int(v) for v in arrays[1]]
    if str(attributes.get("mode", "constant")) != "constant":
        raise Opaque(f"Pad in mode {attributes['mode']} is not evaluated")
    fill = arrays[2] if len(arrays) > 2 and arrays[2] is not None else 0
    axes = (
        [int(a) % data.ndim for a in arrays[3]]
        if len(arrays) > 3 and arrays[3] is not None
        else list(range(data.ndim))
    )
    widths = [(0, 0)] * data.ndim
    for i, axis in enumerate(axes):
        widths[axis] = (pads[i], pads[i + len(axes)])
    cut = tuple(slice(max(0, -a), size - max(0, -b)) for (a, b), size in zip(widths, data.shape, strict=True))
    grown = [(max(0, a), max(0, b)) for a, b in widths]
    return np.pad(data[cut], grown, constant_values=np.asarray(fill).reshape(()).astype(data.dtype))


# Operators that only move elements: array in, elements of that array out.
_MOVES: dict[str, Callable[..., list[Array]]] = {
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
    "Expand": _one(
        lambda a, _: (
            a[0] * np.ones([int(s) for s in a[1]], a[0].dtype)
            if a[0].dtype != bool
            else a[0] & np.ones([int(s) for s in a[1]], bool)
        )
    ),
    "Tile": _one(lambda a, _: np.tile(a[0], [int(s) for s in a[1]])),
    "Pad": _one(_pad),
}


def _cast(arrays: Any, attributes: dict[str, Any]) -> Array:
    probe = TensorProto(data_type=int(attributes["to"]))
    return cast_array(arrays[0], element_type(probe).numpy)


def cast_array(array: Array, dtype: np.dtype[Any]) -> Array:
    """Convert as ONNX Cast does; overflow becomes infinity without a warning."""
    with np.errstate(over="ignore", invalid="ignore"):
        if dtype == np.bool_:
            return np.asarray(array != 0)
        return array.astype(dtype)


def _broadcast_scale(values: Array, data: Array, attributes: dict[str, Any]) -> Array:
    """Shape a scale or zero point so that it broadcasts: one, one an index of `axis`, or one a block."""
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
    data, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else None
    numbers = data.astype(np.float32)
    if zero is not None:
        numbers = numbers - _broadcast_scale(zero, data, attributes).astype(np.float32)
    wide = numbers * _broadcast_scale(scale, data, attributes).astype(np.float32)
    return np.asarray(wide.astype(scale.dtype))


def _quantize(arrays: Any, attributes: dict[str, Any]) -> Array:
    data, scale = arrays[0], arrays[1]
    zero = arrays[2] if len(arrays) > 2 and arrays[2] is not None else None
    wanted = int(attributes.get("output_dtype", 0))
    if zero is not None:
        dtype = zero.dtype
    else:
        dtype = element_type(TensorProto(data_type=wanted or TensorProto.UINT8)).numpy
    scaled = data.astype(np.float32) / _broadcast_scale(scale, data, attributes).astype(np.float32)
    if dtype.kind not in "iu" and "int" not in str(dtype):
        return np.asarray(scaled.astype(dtype))
    limits = {"int4": (-8, 7), "uint4": (0, 15)}.get(str(dtype))
    low, high = limits or (np.iinfo(dtype).min, np.iinfo(dtype).max)
    offset = 0 if zero is None else _broadcast_scale(zero, data, attributes).astype(np.float32)
    return np.clip(np.rint(scaled) + offset, low, high).astype(dtype)


def _divide(arrays: Any, _: dict[str, Any]) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if arrays[0].dtype.kind in "iu":
            # ONNX truncates towards zero.
            return np.trunc(arrays[0] / np.where(arrays[1] == 0, 1, arrays[1])).astype(arrays[0].dtype)
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
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    return np.full([int(s) for s in arrays[0]], fill.reshape(-1)[0], dtype=fill.dtype)


# Operators that compute: the common ones at numpy's speed and in the array's own dtype.
_VALUES: dict[str, Callable[[Any, dict[str, Any]], Array]] = {
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

# Operators that the onnx package's own reference evaluates; none grows its output beyond its inputs' broadcast.
_BY_REFERENCE = frozenset(
    """ArgMax ArgMin Ceil Clip CumSum DepthToSpace Einsum Elu Erf Exp Floor GatherElements GatherND HardSigmoid
    HardSwish IsInf IsNaN LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul Max Mean Min Mod
    NonZero Pow PRelu QuantizeLinear Range ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean
    ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Round ScatterElements ScatterND Selu Sigmoid Sin Cos Size
    Softmax Softplus Softsign SpaceToDepth Sum Tan Tanh ThresholdedRelu Trilu""".split()
)


def _by_reference(
    node: onnx.NodeProto, arrays: Sequence[Array | None], attributes: dict[str, Any], scope: Scope
) -> list[Array]:
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
    model = onnx.helper.make_model(graph, opset_imports=list(scope.model.proto.opset_import))
    return [np.asarray(result) for result in ReferenceEvaluator(model).run(None, feeds)]
