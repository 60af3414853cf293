"""A second opinion on weights: every value computed by onnx's reference implementation, every group counted.

It reads Conv, ConvTranspose, Gemm, MatMul, Einsum, LSTM, GRU, RNN and the integer forms, in the main graph, in
the bodies of If, Loop and Scan, and in local functions at each call.

Bounds: values of at most a million elements; no Einsum that sums over more than one index or repeats one, no
operator of another domain.
"""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

_LARGEST = 1 << 20
_DAMAGED = (ValueError, TypeError, KeyError, IndexError, RuntimeError, onnx.checker.ValidationError)
_MAY_BE_LARGE = frozenset("ConstantOfShape Expand Tile Range Pad Resize".split())
_ONNX = ("", "ai.onnx")
# Weight inputs, with their zero point's, of operators on integers.
_INTEGER = {"MatMulInteger": ((0, 2), (1, 3)), "QLinearMatMul": ((0, 2), (3, 5)), "ConvInteger": ((1, 3),), "QLinearConv": ((3, 5),)}  # fmt: skip
# Where a constant times an activation has a weight, and a constant times a constant has none.
_PRODUCTS = {"Gemm", "MatMul", "Einsum", *_INTEGER}


@dataclass
class Place:
    """A graph, or one call of a function: its nodes, and the values that depend on no input.

    Args:
        nodes: The nodes.
        found: The values by name.
        prefix: What stands in front of the nodes' names.
        opset: The version of ONNX's operators.
        functions: Local functions by domain, name and overload.
        unknown: Names of values that depend on no input either, and are not in `found`: too large, or nobody knows.
    """

    nodes: list
    found: dict
    prefix: str
    opset: int
    functions: dict = field(default_factory=dict)
    unknown: set = field(default_factory=set)


def _small(dims):
    return np.prod([float(size) for size in dims] or [1.0]) <= _LARGEST


def _stored(graph):
    """Return the values that a graph holds."""
    found = {}
    for tensor in graph.initializer:
        with contextlib.suppress(*_DAMAGED):
            found |= {tensor.name: onnx.numpy_helper.to_array(tensor)} if _small(tensor.dims) else {}
    for item in graph.sparse_initializer:
        with contextlib.suppress(*_DAMAGED):
            found |= {item.values.name: _dense(item)} if _small(item.dims) else {}
    return found


def _dense(item):
    dense = np.zeros(list(item.dims), onnx.helper.tensor_dtype_to_np_dtype(item.values.data_type))
    places = onnx.numpy_helper.to_array(item.indices)
    at = tuple(places.T) if places.ndim == 2 else np.unravel_index(places, dense.shape)
    dense[at] = onnx.numpy_helper.to_array(item.values)
    return dense


def _computed(place):
    """Add to a place the values that its nodes compute from no input."""
    found = place.found
    for node in place.nodes:
        if any(name not in found and name not in place.unknown for name in node.input if name):
            continue
        bodies = any(a.HasField("g") or a.graphs for a in node.attribute)
        values = [] if bodies else _values(node, place)
        known = {n: v for n, v in zip(node.output, values, strict=False) if _is_small(v)}
        found |= known
        place.unknown |= set() if bodies else set(node.output) - set(known)
    return place


def _is_small(value):
    return isinstance(value, np.ndarray) and value.size <= _LARGEST


def _values(node, place):
    """Compute what a node gives; nothing if it cannot be had, or may be large."""
    named = [name for name in node.input if name]
    referring = any(a.ref_attr_name for a in node.attribute)
    if referring or node.op_type in _MAY_BE_LARGE or node.domain not in _ONNX or set(named) & place.unknown:
        return []
    try:
        evaluator = ReferenceEvaluator(node, opsets={"": place.opset})
        return evaluator.run(None, {name: place.found[name] for name in named})
    except Exception:
        return []


def _main(proto):
    graph = proto.graph
    found = _stored(graph)
    for name in ({value.name for value in graph.input} | {""}) & set(found):
        del found[name]  # a caller may replace it; an input without a name is left out
    stored = [*(t.name for t in graph.initializer), *(item.values.name for item in graph.sparse_initializer)]
    unknown = set(stored) - set(found) - {value.name for value in graph.input} - {""}
    functions = {(f.domain, f.name, getattr(f, "overload", "")): f for f in proto.functions}
    return _computed(Place(list(graph.node), found, "", proto.opset_import[0].version, functions, unknown))


def _inner(place, node, label):
    """Yield the places inside a node: its bodies, or the function that it calls."""
    for attribute in node.attribute:
        for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            own = {value.name for value in body.input} | {name for one in body.node for name in one.output}
            seen = {name: value for name, value in place.found.items() if name not in own}
            inside = seen | {
                n: v for n, v in _stored(body).items() if n and n not in {i.name for i in body.input}
            }
            unknown = place.unknown - own - set(inside)
            yield _computed(
                Place(
                    list(body.node),
                    inside,
                    f"{label}/{attribute.name}/",
                    place.opset,
                    place.functions,
                    unknown,
                )
            )
    function = place.functions.get((node.domain, node.op_type, getattr(node, "overload", "")))
    if function is not None and label.count("/") < 8:
        bound = list(zip(function.input, node.input, strict=False))
        given = {formal: place.found[name] for formal, name in bound if name in place.found}
        unknown = {formal for formal, name in bound if name in place.unknown}
        opset = next((o.version for o in function.opset_import if o.domain in _ONNX), place.opset)
        yield _computed(Place(list(function.node), given, f"{label}/", opset, place.functions, unknown))


def _places(place):
    yield place
    for node in place.nodes:
        for inside in _inner(place, node, place.prefix + node.name):
            yield from _places(inside)


def constants(proto):
    """Return the values of the main graph that depend on no input, as far as they are small and can be had."""
    return _main(proto).found


def labels(proto):
    """Return the names of all nodes, those in bodies and functions with what leads there in front; "" without one."""
    return [place.prefix + n.name if n.name else "" for place in _places(_main(proto)) for n in place.nodes]


def verdicts(proto):
    """Return (node's label, input, "holds", "broken" or "not-groupable") of every weight that this reader knows."""
    for place in _places(_main(proto)):
        for node in place.nodes:
            if node.domain not in _ONNX or any(a.ref_attr_name for a in node.attribute) or not node.name:
                continue
            if node.op_type in _PRODUCTS and place.unknown & set(node.input):
                continue  # it may be a product of constants, whose result is the weight of whoever reads it
            for position, weight, axis, *runs in _weights(node, place.found):
                yield place.prefix + node.name, position, counted(weight, axis, *runs)


def _weights(node, found):
    """Yield of each weight of a node: its input, its values, the axis that is summed over, and in how many parts."""
    given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    values = [found.get(name) for name in node.input]
    read = _READERS.get(node.op_type)
    if read is not None and len(values) > 1:
        yield from read(node, given, values)
    elif node.op_type in _INTEGER:
        yield from _integer(node, values)


def _one_of_two(values, ranks, axes):
    """Yield the one constant of two factors; two make a constant that is the weight of whoever reads it."""
    left, right = values[:2]
    if left is not None and right is not None:
        return
    for position, value in ((0, left), (1, right)):
        if value is not None and value.ndim in ranks:
            yield position, value, axes[position]


def _conv(node, given, values):
    weight = values[1]
    if weight is not None and weight.ndim >= 3 and values[0] is None:
        if node.op_type == "Conv":
            yield 1, weight, 1
        elif (groups := given.get("group", 1)) > 0 and weight.shape[0] % groups == 0:
            yield 1, weight, 0, groups


def _gemm(node, given, values):
    yield from _one_of_two(values, (2,), (0 if given.get("transA") else 1, 1 if given.get("transB") else 0))


def _matmul(node, given, values):
    yield from _one_of_two(values, range(2, 33), (-1, -2))


def _einsum(node, given, values):
    terms, arrow, result = given.get("equation", b"").decode().replace(" ", "").partition("->")
    if not arrow:
        result = "".join(sorted(label for label in set(terms) - {","} if terms.count(label) == 1))
    terms = terms.split(",")
    if (
        len(values) != 2
        or len(terms) != 2
        or not result
        or not all(t.isalpha() and len(set(t)) == len(t) for t in terms)
    ):
        return
    summed = (set(terms[0]) & set(terms[1])) - set(result)
    only_one = (set(terms[0]) ^ set(terms[1])) - set(result)
    if len(summed) != 1 or only_one:
        return
    label = summed.pop()
    for position, value, term in _one_of_two(values, range(1, 33), terms):
        if value.ndim == len(term):
            yield position, value, term.index(label)


def _recurrent(node, given, values):
    for position in (1, 2):
        weight = values[position] if position < len(values) else None
        if weight is not None and weight.ndim == 3 and values[0] is None:
            yield position, weight, 2


def _integer(node, values):
    found = []
    for position, zero in _INTEGER[node.op_type]:
        weight = values[position] if position < len(values) else None
        if weight is None:
            continue
        given = zero < len(node.input) and node.input[zero]
        point = values[zero] if given else np.zeros((), weight.dtype)
        conv = node.op_type in ("ConvInteger", "QLinearConv")
        if point is None or point.size != 1 or weight.ndim < (3 if conv else 2):
            return
        axis = 1 if conv else (-1 if position == 0 else -2)
        found.append((position, weight.astype("i4") - point.reshape(()).astype("i4"), axis))
    if len(found) == 1 and (found[0][0] == 0 or values[0] is None):
        yield found[0]


_READERS = {
    "Conv": _conv,
    "ConvTranspose": _conv,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def counted(weight, axis, runs=1):
    """Count group by group; an axis that is summed in several parts, each by itself."""
    lines = np.moveaxis(weight, axis, -1)
    lines = lines.reshape(*lines.shape[:-1], runs, lines.shape[-1] // runs)
    if lines.shape[-1] % 4:
        return "not-groupable"
    lines = lines.reshape(-1, lines.shape[-1])
    for line in lines:
        for start in range(0, len(line), 4):
            if sum(1 for value in line[start : start + 4] if value != 0) > 2:
                return "broken"
    return "holds"
