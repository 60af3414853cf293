"""Shapes and element types of a model's values, which onnx infers without the weights."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from nm2trt.graph.storage import light_onnx
from nm2trt.graph.storage.light_onnx import TensorProto, graphs_of, is_default, onnx
from nm2trt.graph.storage.model import Model, opset
from nm2trt.installed import installed_version

Shapes = Mapping[str, tuple[int | None, ...]]

# Shape tensors are small; anything larger is a weight, whose values no shape depends on.
_LARGEST_SHAPE_TENSOR = 64
# A bias or an index is shorter.
_LONGEST_VECTOR = 1 << 22
# onnx's inference (seen in 1.23) ends the process at one whose input has no known type.
_CRASHING = frozenset({"EyeLike"})
# Before 1.22 it also does so at one of these without kernel_shape, if input and weight differ in rank; the
# weight's place among the inputs.
_CONVOLUTIONS = {"Conv": 1, "ConvTranspose": 1, "ConvInteger": 1, "DeformConv": 1, "QLinearConv": 3}

# Operators whose output shapes follow from the shapes of their inputs and from attributes.
_VALUE_FREE = frozenset(
    """Abs Add AveragePool BatchNormalization Cast Clip Concat Conv ConvTranspose DequantizeLinear Div
    Elu Erf Exp Flatten Gelu Gemm GlobalAveragePool GlobalMaxPool HardSigmoid HardSwish Identity
    InstanceNormalization LayerNormalization LeakyRelu Log LogSoftmax MatMul Max MaxPool Min Mul Neg
    PRelu Pow QuantizeLinear Relu Sigmoid Softmax Softplus Sqrt Sub Sum Tanh Transpose""".split()
)
_FIRST_EINSUM = 12  # the opset
# Operators of onnxruntime's optimiser, of which onnx knows nothing: the operator that stands in for one, the
# inputs that it reads, and the outputs that are as its own. Reshape to an unknown shape gives only the type.
_StandIn = tuple[str, tuple[int | None, ...], tuple[int, ...]]
_STAND_INS: Mapping[str, _StandIn] = {
    **dict.fromkeys(
        "BiasAdd BiasGelu FastGelu Gelu GroupNorm QuickGelu RotaryEmbedding".split(), ("Identity", (0,), (0,))
    ),
    "SkipGroupNorm": ("Identity", (0,), (0, 1)),
    "GemmFastGelu": ("MatMul", (0, 1), (0,)),
    **dict.fromkeys(
        "SkipLayerNormalization SkipSimplifiedLayerNormalization".split(), ("Identity", (0,), (0, 3))
    ),
    "EmbedLayerNormalization": ("Gather", (2, 0), (0, 2)),
    "FusedConv": ("Conv", (0, 1, 2), (0,)),
    "FusedGemm": ("Gemm", (0, 1, 2), (0,)),
    **dict.fromkeys(
        """Attention BiasSplitGelu DecoderMaskedMultiHeadAttention FusedMatMul FusedMatMulActivation
        GroupQueryAttention MultiHeadAttention TransposeMatMul""".split(),
        ("Reshape", (0, None), (0, 1, 2)),
    ),
}


def infer_shapes(model: Model, inputs: Mapping[str, Sequence[int]] | None = None) -> Shapes:
    """Return the shapes of the main graph's values; None stands for a free size.

    Weights are left out before onnx is asked, so that a large model costs no copy of itself.

    Args:
        model: The model.
        inputs: Shapes of its inputs, e.g. those that an engine is optimised for; by default its own.
    """
    shapes: dict[str, tuple[int | None, ...]] = {}
    for value in _inferred(model, inputs):
        if value.type.HasField("tensor_type") and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            # Some exporters write -1 for a free size.
            shapes[value.name] = tuple(
                d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else None for d in dims
            )
    return shapes


def infer_types(model: Model) -> Mapping[str, int]:
    """Return the element types of the main graph's tensors, by ONNX's numbers, if they are known."""
    types = {
        value.name: int(value.type.tensor_type.elem_type)
        for value in _inferred(model, None)
        if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
    }
    graph = model.proto.graph
    types.update({tensor.name: int(tensor.data_type) for tensor in graph.initializer})
    types.update({sparse.values.name: int(sparse.values.data_type) for sparse in graph.sparse_initializer})
    return types


def infer_body_types(model: Model) -> Mapping[str, int]:
    """Return the element types of the values inside bodies of If, Loop and Scan, if they are known.

    Two bodies may use one name; the types of the last one stand then.
    """
    types: dict[str, int] = {}
    graphs = [
        graph
        for node in model.once(("shapes", None), lambda: _light(model, None)).node
        for graph in graphs_of(node)
    ]
    while graphs:
        body = graphs.pop()
        for value in [*body.value_info, *body.input, *body.output]:
            if value.type.tensor_type.elem_type:
                types[value.name] = int(value.type.tensor_type.elem_type)
        types.update({tensor.name: int(tensor.data_type) for tensor in body.initializer})
        graphs += [graph for node in body.node for graph in graphs_of(node)]
    return types


def _inferred(model: Model, inputs: Mapping[str, Sequence[int]] | None) -> list[onnx.ValueInfoProto]:
    fixed = None if inputs is None else tuple((name, tuple(sizes)) for name, sizes in sorted(inputs.items()))
    graph = model.once(("shapes", fixed), lambda: _light(model, inputs))
    return [*graph.value_info, *graph.input, *graph.output]


def _light(model: Model, inputs: Mapping[str, Sequence[int]] | None) -> onnx.GraphProto:
    """Return the graph without its weights, with all types and shapes that onnx infers."""
    light = onnx.ModelProto(ir_version=model.proto.ir_version)
    light.opset_import.extend(model.proto.opset_import)
    light.functions.extend(model.proto.functions)
    source, graph = model.proto.graph, light.graph
    graph.name = "shapes"
    given = {value.name for value in source.input}
    version = opset(model.proto) or 0
    dims = {tensor.name: tensor.dims for tensor in source.initializer}
    for node in source.node:
        weight = _large_constant(node)
        if weight is not None:
            dims[node.output[0]] = weight.dims
            graph.input.append(_typed_value(node.output[0], weight.data_type, weight.dims))
            continue
        graph.node.extend(_known_to_onnx(node, dims, version) if node.domain == "com.microsoft" else [node])
    write_kernel_shapes(graph, dims)
    for position in reversed([at for at, node in enumerate(graph.node) if _may_crash(node)]):
        del graph.node[position]
    graph.input.extend(source.input)
    if inputs is None:
        graph.output.extend(source.output)
        graph.value_info.extend(source.value_info)
    else:
        for value in graph.input:
            if value.name in inputs:
                kind = value.type.tensor_type.elem_type
                value.CopyFrom(_typed_value(value.name, kind, inputs[value.name]))
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _LARGEST_SHAPE_TENSOR and tensor.data_location != TensorProto.EXTERNAL:
            graph.initializer.append(tensor)
        elif tensor.name not in given:
            graph.input.append(_typed_value(tensor.name, tensor.data_type, tensor.dims))
    for sparse in source.sparse_initializer:
        if sparse.values.name not in given:
            graph.input.append(_typed_value(sparse.values.name, sparse.values.data_type, sparse.dims))
    if crashes_inference(light):
        return light.graph
    try:
        found = light_onnx.infer_shapes(light).graph
        if _has_long_vector(found) or _shapes_need_no_values(light):
            return found
        return light_onnx.infer_shapes(light, data_prop=True).graph
    except Exception:  # inference is a courtesy of the format: without it shapes are simply not known
        return light.graph


def _known_to_onnx(
    node: onnx.NodeProto, dims: Mapping[str, Sequence[int]], version: int
) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that give a node's outputs the types that they have; the node, if it is not known."""
    if node.op_type not in _STAND_INS:
        yield node
        return
    operator, slots, outputs = _STAND_INS[node.op_type]
    for slot in outputs:
        if slot < len(node.output) and node.output[slot]:
            first = _first_output(node, dims) if slot == 0 else None
            if first is None or (first[0] == "Einsum" and version < _FIRST_EINSUM):
                first = operator, slots, node.attribute
            kind, own, attributes = first
            read = ["" if at is None or at >= len(node.input) else node.input[at] for at in own]
            yield onnx.NodeProto(op_type=kind, input=read, output=[node.output[slot]], attribute=attributes)


def _first_output(
    node: onnx.NodeProto, dims: Mapping[str, Sequence[int]]
) -> tuple[str, Sequence[int | None], Sequence[onnx.AttributeProto]] | None:
    """Return operator, inputs and attributes that give a node's first output its shape; None without them."""
    given = {attribute.name: attribute.i for attribute in node.attribute}
    separate = len(node.input) > 2 and all(node.input[:3])  # query, key and value, not packed into one
    if node.op_type == "Attention" and "qkv_hidden_sizes" not in given:
        rows, *columns = dims.get("".join(node.input[1:2]), ()) or (0,)
        if len(node.output) == 1 and rows and columns == [3 * rows]:  # no head was pruned
            return "Identity", (0,), ()
    if node.op_type == "GroupQueryAttention" and separate:
        return "Identity", (0,), ()
    if node.op_type == "MultiHeadAttention" and separate:
        return "Einsum", (0, 2), [_equation("bsd,blv->bsv")]
    products = ("FusedMatMul", "FusedMatMulActivation", "TransposeMatMul")
    if node.op_type in products and not (given.get("transBatchA") or given.get("transBatchB")):
        if not (given.get("transA") or given.get("transB")):
            return "MatMul", (0, 1), ()
        left, right = "ki" if given.get("transA") else "ik", "jk" if given.get("transB") else "kj"
        return "Einsum", (0, 1), [_equation(f"...{left},...{right}->...ij")]
    return None


def _equation(text: str) -> onnx.AttributeProto:
    return onnx.AttributeProto(name="equation", type=onnx.AttributeProto.STRING, s=text.encode())


def crashes_inference(proto: onnx.ModelProto) -> bool:
    """Tell whether a model has an operator at which onnx's inference, a part of its converter, may crash.

    Or one at which it may never end: Einsum, if calls of a function give it any equation.
    """
    waiting: list[Iterable[onnx.NodeProto]] = [proto.graph.node, *(f.node for f in proto.functions)]
    while waiting:
        for node in waiting.pop():
            if _may_crash(node):
                return True
            if node.op_type == "Einsum" and any(attribute.ref_attr_name for attribute in node.attribute):
                return True
            waiting += [body.node for body in graphs_of(node)]
    return False


def _may_crash(node: onnx.NodeProto) -> bool:
    if node.op_type not in _CONVOLUTIONS or any(a.name == "kernel_shape" for a in node.attribute):
        return node.op_type in _CRASHING
    return _onnx_is_before_1_22()


@functools.cache
def _onnx_is_before_1_22() -> bool:
    found = re.findall(r"\d+", installed_version("onnx", "onnx-weekly"))
    return tuple(map(int, found[:2])) < (1, 22)  # so is one of which no version is known


def write_kernel_shapes(graph: onnx.GraphProto, known: Mapping[str, Sequence[int]] | None = None) -> None:
    """Write the kernel_shape that a convolution with a stored weight lacks, in the bodies of a graph too.

    Args:
        graph: The graph; it is changed.
        known: Dimensions of values from outside of it, by name.
    """
    dims = {**(known or {}), **{tensor.name: tensor.dims for tensor in graph.initializer}}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            dims.update(dict.fromkeys(node.output, node.attribute[0].t.dims))
        slot = _CONVOLUTIONS.get(node.op_type) if is_default(node) else None
        if slot is not None and not any(attribute.name == "kernel_shape" for attribute in node.attribute):
            kernel = dims.get("".join(node.input[slot : slot + 1]), ())[2:]
            if kernel:
                node.attribute.add(name="kernel_shape", type=onnx.AttributeProto.INTS, ints=kernel)
        for body in graphs_of(node):
            write_kernel_shapes(body, dims)


def _shapes_need_no_values(model: onnx.ModelProto) -> bool:
    """Tell whether no shape depends on numbers, so that there is nothing to propagate."""
    operators = {(node.domain, node.op_type) for node in model.graph.node}
    return not model.functions and all(
        domain in ("", "ai.onnx") and operator in _VALUE_FREE for domain, operator in operators
    )


def _large_constant(node: onnx.NodeProto) -> TensorProto | None:
    """Return the weight that a Constant node holds, as older exporters write them; None if it is small."""
    if node.op_type != "Constant" or len(node.output) != 1:
        return None
    if len(node.attribute) != 1 or node.attribute[0].name != "value":
        return None
    tensor = node.attribute[0].t
    return tensor if math.prod(tensor.dims) > _LARGEST_SHAPE_TENSOR else None


def _has_long_vector(graph: onnx.GraphProto) -> bool:
    """Tell whether propagating values would make a list of millions: onnx does so for every vector."""
    for value in (*graph.value_info, *graph.input, *graph.output):
        dims = value.type.tensor_type.shape.dim
        if len(dims) == 1 and dims[0].dim_value > _LONGEST_VECTOR:
            return True
    return False


def _typed_value(name: str, dtype: int, dims: Iterable[int]) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto(name=name)
    made.type.tensor_type.elem_type = dtype
    made.type.tensor_type.shape.SetInParent()  # a scalar has a shape too, an empty one
    for size in dims:
        made.type.tensor_type.shape.dim.add(dim_value=size)
    return made
