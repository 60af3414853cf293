"""A second opinion on weights: every value computed by onnx's reference implementation, every group counted.

Bounds: it reads Conv, Gemm and MatMul of the main graph, and values of at most a million elements; weights of
other operators, of bodies and of functions have no second opinion here.
"""

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

_LARGEST = 1 << 20


def constants(proto):
    """Return the values of the main graph that depend on no input, as far as they are small and can be had."""
    graph = proto.graph
    found, taken = {}, {value.name for value in graph.input}
    for tensor in graph.initializer:
        if np.prod([float(d) for d in tensor.dims] or [1.0]) <= _LARGEST:
            found[tensor.name] = onnx.numpy_helper.to_array(tensor)
    for item in graph.sparse_initializer:
        dense = np.zeros(list(item.dims), onnx.helper.tensor_dtype_to_np_dtype(item.values.data_type))
        places = onnx.numpy_helper.to_array(item.indices)
        values = onnx.numpy_helper.to_array(item.values)
        at = tuple(places.T) if places.ndim == 2 else np.unravel_index(places, dense.shape)
        dense[at] = values
        found[item.values.name] = dense
    for name in (taken | {""}) & set(found):  # a caller may replace it; an input without a name is left out
        del found[name]
    for node in graph.node:
        if any(name not in found for name in node.input if name) or not node.output:
            continue
        if any(a.HasField("g") for a in node.attribute) or node.op_type in ("ConstantOfShape", "Expand", "Tile", "Range", "Pad", "Resize"):  # fmt: skip
            continue  # may be large
        try:
            values = ReferenceEvaluator(node, opsets={"": proto.opset_import[0].version}).run(None, {n: found[n] for n in node.input if n})  # fmt: skip
        except Exception:
            continue
        found |= {n: v for n, v in zip(node.output, values, strict=False) if isinstance(v, np.ndarray) and v.size <= _LARGEST}  # fmt: skip
    return found


def verdicts(proto):
    """Return (node's name, input, "holds", "broken" or "not-groupable") of every weight that this reader knows."""
    found = constants(proto)
    for node in proto.graph.node:
        if node.domain not in ("", "ai.onnx") or len(node.input) < 2:
            continue
        given = {a.name: a.i for a in node.attribute if a.type == onnx.AttributeProto.INT}
        left, right = (found.get(name) for name in node.input[:2])
        if left is not None and right is not None:
            continue  # a product of constants is the weight of whoever reads it
        if node.op_type == "Conv" and right is not None and right.ndim >= 3:
            yield node.name, 1, counted(right, 1)
        elif node.op_type == "Gemm" and right is not None and right.ndim == 2:
            yield node.name, 1, counted(right, 1 if given.get("transB") else 0)
        elif node.op_type == "Gemm" and left is not None and left.ndim == 2 and node.input[1] not in found:
            yield node.name, 0, counted(left, 0 if given.get("transA") else 1)
        elif node.op_type == "MatMul" and right is not None and right.ndim >= 2:
            yield node.name, 1, counted(right, -2)
        elif node.op_type == "MatMul" and left is not None and left.ndim >= 2:
            yield node.name, 0, counted(left, -1)


def counted(weight, axis):
    """Count group by group."""
    lines = np.moveaxis(weight, axis, -1)
    if lines.shape[-1] % 4:
        return "not-groupable"
    lines = lines.reshape(-1, lines.shape[-1])
    for line in lines:
        for start in range(0, len(line), 4):
            if sum(1 for value in line[start : start + 4] if value != 0) > 2:
                return "broken"
    return "holds"
