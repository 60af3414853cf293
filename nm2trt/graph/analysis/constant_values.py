"""Constant subgraphs: what stands in front of a consumer is evaluated, one weight at a time.

Exporters leave a weight behind Transpose, Cast, And/Cast/Mul of a mask, quantise/dequantise pairs and
more. The consumer reads the result, so the result is what is judged. `stored_sources` follows it back to what
is stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.numpy_operators import MOST_ELEMENTS, MOVES, VALUES, by_reference
from nm2trt.graph.analysis.operator_cost import BY_REFERENCE, Opaque, check_growth
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.storage.element_types import DTYPE_NAMES
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.tensors import read_tensor
from nm2trt.limits.bounds import constant_work


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
        if node is None or node.op_type != "Identity" or not is_default(node) or len(node.input) != 1:
            return None
        value = node.input[0]


def stored_tensor(scope: Scope, value: str) -> onnx.TensorProto | None:
    """Return the tensor that a value is, an initializer or what a Constant node holds; None for any other."""
    tensor = direct_initializer(scope, value)
    owner = scope.owner(value) if tensor is None else None
    return tensor if owner is None else owner[0].tensor(owner[1])


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
    tensor = direct_initializer(scope, value)
    if tensor is not None:
        return read_tensor(readable(tensor), scope.model.root)
    return evaluate_tracked(scope, value, None)[0]


def readable(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """Return an initializer whose element type can be read.

    Raises:
        Opaque: It is a type that ONNX has and this release does not read.
    """
    if tensor.data_type == onnx.TensorProto.STRING:
        raise Opaque(f"{tensor.name!r} holds text")
    if tensor.data_type not in DTYPE_NAMES:
        raise Opaque(
            f"the element type of {tensor.name!r}, number {tensor.data_type}, is not read by this release"
        )
    return tensor


# A tracked array holds, for each element, its flat place in the source, or -1.
_Tracked = tuple[Array, bool]


def evaluate_tracked(scope: Scope, value: str, source: Source | None) -> _Tracked:
    """Evaluate a constant, or say where its elements come from, if there is a source.

    In postorder with a stack of its own: chains may be longer than Python's.

    Returns:
        The array and False; or flat places in the source, -1 elsewhere, and True.

    Raises:
        Opaque: An operator on the way cannot be evaluated.
    """
    done: dict[tuple[int, str], _Tracked] = {}
    stack: list[tuple[Scope, str]] = [(scope, value)]
    held = stored = 0
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
            done[key] = (read_tensor(readable(where.initializers[name]), where.model.root), False)
            stored += done[key][0].nbytes
            continue
        if name in where.sparse:
            readable(where.sparse[name].values)
            done[key] = (_dense(where.sparse[name], where), False)
            continue
        node = where.producers[name]
        inputs: list[_Tracked | None] = []
        missing = []
        for item in node.input:
            inner = where.owner(item) if item else None
            found = None if inner is None else done.get((id(inner[0]), inner[1]))
            inputs.append(found)
            if item and found is None:
                missing.append((where, item))
        if missing:
            stack.extend(missing)
            continue
        with constant_work():
            results = _run(where, node, inputs, held=held, stored=stored)
        held += sum(result[0].nbytes for result in results if result[0].base is None)
        for output, result in zip(node.output, results, strict=False):
            if output:
                done[id(where), output] = result
        if key not in done:
            raise Opaque(f"{node.op_type} at {where.label(node)} gives no {name!r}")
    return done[key]


def _dense(sparse: onnx.SparseTensorProto, scope: Scope) -> Array:
    shape = tuple(int(size) for size in sparse.dims)
    name = sparse.values.name
    if not shape or any(size < 0 for size in shape) or math.prod(shape) > MOST_ELEMENTS:
        raise ModelError(f"sparse tensor {name!r} has an impossible shape {list(shape)}")
    values = read_tensor(sparse.values, scope.model.root)
    if values.ndim != 1:
        raise ModelError(f"sparse tensor {name!r} has values of shape {values.shape}; the model is damaged")
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


def constant_node(scope: Scope, node: onnx.NodeProto) -> Array:
    """Return what a Constant node holds.

    Raises:
        Opaque: It holds text, or a type that this release does not read.
        ModelError: It is damaged.
    """
    for attribute in node.attribute:
        name = attribute.name
        if attribute.ref_attr_name:
            supplied = scope.attributes.get(attribute.ref_attr_name)
            if supplied is None:
                continue
            attribute = supplied
        if name == "value":
            return read_tensor(_readable_constant(attribute.t, scope, node), scope.model.root)
        if name == "sparse_value":
            _readable_constant(attribute.sparse_tensor.values, scope, node)
            return _dense(attribute.sparse_tensor, scope)
        if name in ("value_float", "value_floats"):
            return np.array(attribute.floats if name.endswith("s") else attribute.f, np.float32)
        if name in ("value_int", "value_ints"):
            return np.array(attribute.ints if name.endswith("s") else attribute.i, np.int64)
        if name in ("value_string", "value_strings"):
            raise Opaque(f"Constant at {scope.label(node)} holds text")
    raise Opaque(f"Constant at {scope.label(node)} holds nothing that is read here")


def _readable_constant(tensor: onnx.TensorProto, scope: Scope, node: onnx.NodeProto) -> onnx.TensorProto:
    if tensor.data_type == onnx.TensorProto.STRING:
        raise Opaque(f"Constant at {scope.label(node)} holds text")
    return readable(tensor)


def _run(
    scope: Scope, node: onnx.NodeProto, inputs: Sequence[_Tracked | None], *, held: int, stored: int
) -> list[_Tracked]:
    label = f"{node.op_type} at {scope.label(node)}"
    if not is_default(node):
        raise Opaque(f"{label} is of domain {node.domain}, which is not evaluated")
    if node.op_type == "Constant":
        return [(constant_node(scope, node), False)]
    attributes = scope.node_attributes(node)
    if node.op_type == "Pad" and "pads" in attributes:  # as up to opset 10
        given = (attributes["pads"], attributes.get("value", 0.0))
        inputs = [*inputs[:1], *((np.array(item), False) for item in given)]
    arrays = [None if item is None else item[0] for item in inputs]
    tracked = [position for position, item in enumerate(inputs) if item is not None and item[1]]
    if node.op_type == "Split":
        attributes.setdefault("num_outputs", len(node.output))
    if attributes.get("broadcast") and node.op_type in VALUES:
        raise Opaque(f"{label} broadcasts as opset 6 did, which is not evaluated")
    if node.op_type not in MOVES and node.op_type not in VALUES and node.op_type not in BY_REFERENCE:
        raise Opaque(f"{label} is not evaluated")
    try:
        check_growth(node.op_type, arrays, label, attributes, held=held, stored=stored)
        if tracked:
            return [(array, True) for array in _follow(node.op_type, arrays, tracked, attributes)]
        if node.op_type in MOVES:
            results = MOVES[node.op_type](arrays, attributes)
        elif node.op_type in VALUES:
            results = [VALUES[node.op_type](arrays, attributes)]
        else:
            results = by_reference(node, arrays, attributes, scope.model.proto.opset_import)
        return [(array, False) for array in results]
    except (Opaque, ModelError):
        raise
    except Exception as error:  # a malformed constant fails in whatever way numpy or onnx finds first
        raise Opaque(f"{label} cannot be evaluated: {' '.join(str(error).split())[:200]}") from error


def _follow(
    operator: str, arrays: list[Array | None], tracked: list[int], attributes: dict[str, Any]
) -> list[Array]:
    """Apply an operator to places instead of numbers: where does each element of the result come from?"""
    if operator in MOVES:
        # A set, as a Concat may join any number of tensors.
        others = set(range(len(arrays))).difference(tracked) if operator == "Concat" else ()
        moved = [
            np.full(array.shape, -1) if array is not None and position in others else array
            for position, array in enumerate(arrays)
        ]
        if operator == "Pad":
            moved = [moved[0], moved[1], np.array(-1), *moved[3:]]
        return MOVES[operator](moved, attributes)
    places = arrays[tracked[0]]
    shapes = [array.shape for array in arrays if array is not None]
    if (
        places is None
        or len(tracked) > 1
        or operator not in VALUES
        or operator in ("ConstantOfShape", "Shape")
        or (
            operator not in ("QuantizeLinear", "DequantizeLinear")
            and np.broadcast_shapes(*shapes) != places.shape
        )
    ):
        raise Opaque(f"{operator} mixes elements")
    return [places]
