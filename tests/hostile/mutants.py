"""Structure-aware mutations of the models of `tests.hostile.forms`."""

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.hostile.forms import NODE, sound

OPERATORS = """Cast Constant Transpose Reshape Slice Pad Split Gather Conv Gemm MatMul Einsum ConstantOfShape Loop Scan LSTM
GRU RNN DequantizeLinear QuantizeLinear ConvTranspose MatMulInteger Concat Expand Tile Range Squeeze Where Identity If
BatchNormalization Relu Resize OneHot EyeLike CumSum GatherND ScatterND TopK NonZero Compress Unique SequenceAt
QLinearMatMul QLinearConv Attention LayerNormalization DynamicQuantizeLinear Upsample TreeEnsemble""".split()
ATTRIBUTES = """to axis perm value group transB kernel_shape equation direction hidden_size axes block_size pads strides
num_scan_inputs value_ints value_float body then_branch blocked_axis alpha epsilon auto_pad dilations mode""".split()
VALUES = (
    3,
    -5,
    2**40,
    1.5,
    float("nan"),
    "ab,bc->ac",
    "\x1b[31m\u202ename",
    b"\xff",
    [1, 0],
    [9],
    [1.0],
    ["a"],
    [2**62],
)
RECURRENT_VALUES = {
    "hidden_size": (0, 1, 8, 16, -1, 2**40),
    "direction": ("forward", "reverse", "bidirectional", "BIDIRECTIONAL", "sideways", "\x1b[31m"),
    "layout": (0, 1, 2),
    "activations": (["Relu"], ["Sigmoid", "Tanh", "Tanh"], ["no such"], ["\x1b[31m"] * 6),
    "clip": (0.0, -1.0, float("nan"), 1e38),
    "input_forget": (0, 1, 7),
    "linear_before_reset": (0, 1, 7),
}
# Operator -> its own attributes and values for them.
OWN_VALUES = {
    "ConvTranspose": {
        "group": (0, 1, 2, 3, 16, -1, 2**40),
        "output_shape": ([1, 1], [3], [2**40, 2**40], [-1, 0]),
        "output_padding": ([1, 1], [-1, -1], [2**31, 0]),
        "strides": ([2, 2], [0, 0], [2**31, 1]),
        "dilations": ([2, 2], [0, 1], [2**40, 1]),
        "kernel_shape": ([1, 1], [3, 3], [5], [2**40, 1]),
        "auto_pad": ("SAME_UPPER", "VALID", "no such"),
    },
    "Einsum": {
        "equation": (
            "ab,bc->ac", "ab,bc", "cb,ab->ac", "aa,ab->b", "ab,bb->a", "...b,bc->...c", "ab,bc->", "ab,ab->a",
            "ab,bc->acc", "ab,bc->az", "AB,BC->AC", "a b , b c -> a c", "ab,bd->abd", "", "->", ",,", "ab->ba",
            "ab,bc,cd->ad", "ab,bc->ac->ac", "\u00e9b,bc->c", "\x1b[31m,b", "ab" * 2000 + ",bc->ac",
        ),
    },
    **dict.fromkeys(("LSTM", "GRU", "RNN"), RECURRENT_VALUES),
}  # fmt: skip
SIZES = (0, 1, -1, 3, 16, 2**31, 2**40, 2**62)
RECORDS = (
    "",
    "{}",
    "[]",
    "[1]",
    "null",
    '{"version": 1}',
    '{"version": 1, "weights": [{}]}',
    "[" * 5000,
    "9" * 5000,
)
NAMES = ("x", "w", "v", "", "y", "nope", "\x1b]0;t\x07", "a\u202eb", "a\rb", "/etc/passwd", "w" * 3000)
LOCATIONS = (
    "none",
    "../x",
    "/etc/passwd",
    "",
    "a" * 5000,
    "m.onnx",
    ".",
    "pipe",
    "/dev/zero",
    "w\0x",
    "x.npz",
)


def graphs(graph):
    """Yield a graph and the bodies in it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                yield from graphs(body)


def tensors(proto):
    """Return every tensor in a model."""
    found = []
    for graph in graphs(proto.graph):
        found += graph.initializer
        for item in graph.sparse_initializer:
            found += [item.values, item.indices]
        found += [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    return found


BOMBS = (
    "fill",
    "expand",
    "tile",
    "range",
    "pad",
    "resize",
    "gather",
    "onehot",
    "eye",
    "cumsum",
    "einsum",
    "product",
    "chain",
)
BIG = ([1 << 20, 1 << 10], [16, 1 << 27], [1 << 62, 16], [65536, 65536], [4096, 4096], [2, 3], [-1, 16])


def _bomb_nodes(kind, one):
    """Return nodes that compute the constant `_w` from what `_bomb_values` stores."""
    filled = NODE("ConstantOfShape", ["_s"], ["_i"], value=one)
    single = NODE("Reshape", ["_one", "_11"], ["_q"])
    return {
        "fill": [NODE("ConstantOfShape", ["_s"], ["_w"], value=one)],
        "expand": [NODE("Expand", ["_one", "_s"], ["_w"])],
        "tile": [single, NODE("Tile", ["_q", "_r"], ["_w"])],
        "range": [NODE("Range", ["_0", "_n", "_u"], ["_i"]), NODE("Cast", ["_i"], ["_w"], to=1)],
        "pad": [single, NODE("Pad", ["_q", "_p"], ["_w"])],
        "resize": [single, NODE("Resize", ["_q", "", "", "_s"], ["_w"])],
        "gather": [
            NODE("ConstantOfShape", ["_s"], ["_i"], value=numpy_helper.from_array(np.zeros(1, "i8"))),
            NODE("Gather", ["_one", "_i"], ["_w"]),
        ],
        "onehot": [NODE("OneHot", ["_r", "_n", "_v"], ["_w"])],
        "eye": [filled, NODE("EyeLike", ["_i"], ["_w"], dtype=1)],
        "cumsum": [filled, NODE("CumSum", ["_i", "_0"], ["_w"])],
        "einsum": [
            NODE("ConstantOfShape", ["_n1"], ["_i"], value=one),
            NODE("Einsum", ["_i", "_i"], ["_w"], equation="i,j->ij"),
        ],
        "product": [filled, NODE("MatMul", ["_i", "_i"], ["_w"])],
        "chain": [
            NODE("ConstantOfShape", ["_s"], ["_c0"], value=one),
            *(NODE("Add", [f"_c{i}", f"_c{i}"], [f"_c{i + 1}"]) for i in range(40)),
            NODE("Identity", ["_c40"], ["_w"]),
        ],
    }[kind]


def _bomb_values(big):
    count = np.array(abs(big[1]) % (1 << 40))
    return {
        "_s": np.array(big),
        "_one": np.ones(1, "f4"),
        "_1": np.array([1]),
        "_r": np.array(big),
        "_0": np.array(0),
        "_n": count,
        "_11": np.array([1, 1]),
        "_u": np.array(1),
        "_p": np.array([0, 0, *big]),
        "_v": np.array([0, 1], "f4"),
        "_n1": count.reshape(1),
    }


def bomb(proto, draw):
    """Put a constant that costs much in front of the last node's weight."""
    big = draw.choice(BIG)
    one = numpy_helper.from_array(np.ones(1, draw.choice(["f4", "i8", "f8", "?"])))
    nodes = _bomb_nodes(draw.choice(BOMBS), one)
    for number, node in enumerate(nodes):
        node.name = f"bomb{number}"
        proto.graph.node.insert(number, node)
    needed = {name for node in nodes for name in node.input}
    proto.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in _bomb_values(big).items() if name in needed
    )
    last = proto.graph.node[-1]
    if len(last.input) > 1 and draw.random() < 0.7:
        last.input[1] = "_w"
    else:  # an activation's operator asks for it
        last.output[0] = "_y"
        proto.graph.node.extend(
            [
                NODE("ReduceMax", ["_w"], ["_m"], name="reduce", keepdims=0),
                NODE("Cast", ["_m"], ["_mf"], name="float", to=1),
                NODE("Add", ["_y", "_mf"], ["y"], name="sum"),
            ]
        )


@dataclass
class Place:
    """Where a model is changed.

    Args:
        proto: The model.
        graph: One of its graphs.
        node: One of the graph's nodes.
        tensor: One of the model's tensors.
        sizes: Dimensions for whatever takes some.
        draw: The source of chance.
    """

    proto: Any
    graph: Any
    node: Any
    tensor: Any
    sizes: list
    draw: Any


def _bomb(place):
    bomb(place.proto, place.draw)


def _attribute_gone(place):
    if not place.node.attribute:
        return _bomb(place)
    del place.node.attribute[place.draw.randrange(len(place.node.attribute))]
    return None


def _attribute_type(place):
    if not place.node.attribute:
        return _bomb(place)
    place.draw.choice(place.node.attribute).type = place.draw.randrange(15)
    return None


def _dimensions(place):
    place.tensor.dims[:] = place.sizes


def _element_type(place):
    place.tensor.data_type = place.draw.randrange(-1, 28)


def _bytes_cut(place):
    raw = place.tensor.raw_data
    place.tensor.raw_data = raw[: place.draw.randrange(len(raw) + 1)]


def _inputs(place):
    place.node.input[:] = [place.draw.choice(NAMES) for _ in range(place.draw.randrange(4))]


def _operator(place):
    place.node.op_type = place.draw.choice(OPERATORS)


def _attribute(place):
    place.node.attribute.append(
        helper.make_attribute(place.draw.choice(ATTRIBUTES), place.draw.choice(VALUES))
    )


def _own_attribute(place):
    """Change an attribute of its operator's own, if one of the graph's nodes has some."""
    nodes = [node for node in place.graph.node if node.op_type in OWN_VALUES]
    if not nodes:
        return _attribute(place)
    node = place.draw.choice(nodes)
    name, values = place.draw.choice(list(OWN_VALUES[node.op_type].items()))
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, place.draw.choice(values))])
    return None


def _weight_moved(place):
    """Give the node another of the model's tensors as its weight, in another order, or one of a strange shape."""
    if len(place.node.input) < 2:
        return _inputs(place)
    at = place.draw.randrange(len(place.node.input))
    names = [tensor.name for tensor in place.proto.graph.initializer] + list(place.node.input)
    place.node.input[at] = place.draw.choice(names)
    return None


def _turned(place):
    """Turn a tensor's dimensions around, so that its bytes still fit."""
    dims = list(place.tensor.dims)
    place.draw.shuffle(dims)
    whole = int(np.prod(dims)) if dims else 1
    other = [[*dims, 1], [1, *dims], [whole], [2, whole // 2], dims[::-1]]
    place.tensor.dims[:] = place.draw.choice([dims, *other])


def _outputs(place):
    place.node.output[:] = [place.draw.choice(NAMES) for _ in range(place.draw.randrange(3))]


def _external(place):
    tensor, draw = place.tensor, place.draw
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=draw.choice(LOCATIONS))
    tensor.external_data.add(key="offset", value=draw.choice(["0", "-1", "x", "9" * 5000, str(2**63)]))
    if draw.random() < 0.5:
        tensor.external_data.add(key="length", value=draw.choice(["0", "-1", "1024", str(2**40), "1e3"]))


def _sparse_dimensions(place):
    for item in place.graph.sparse_initializer:
        item.dims[:] = place.sizes


def _metadata(place):
    keys = ["nm2trt.plan", "nm2trt.lineage", "nm2trt.mask_sha256", "\x1b[2J"]
    helper.set_model_props(place.proto, {place.draw.choice(keys): place.draw.choice(RECORDS)})


def _tensor_name(place):
    rename(place.proto, place.tensor.name, place.draw.choice(NAMES))


def _node_name(place):
    place.node.name = place.draw.choice(NAMES)


def _value_info(place):
    draw = place.draw
    value = draw.choice([*place.graph.input, *place.graph.output])
    draw.choice([
        lambda: value.type.tensor_type.shape.dim.add(dim_value=draw.choice(SIZES)),
        lambda: setattr(value.type.tensor_type, "elem_type", draw.randrange(-1, 28)),
        lambda: value.ClearField("type"),
        lambda: setattr(value, "name", draw.choice(NAMES)),
        lambda: setattr(value.type.tensor_type.shape.dim[0], "dim_param", draw.choice(NAMES)),
        lambda: value.type.sequence_type.elem_type.tensor_type.SetInParent(),
    ])()  # fmt: skip


def _head(place):
    proto, draw = place.proto, place.draw
    draw.choice([
        lambda: proto.ClearField("opset_import"),
        lambda: setattr(proto.opset_import[0], "version", draw.choice([0, -1, 1, 7, 99, 2**40])),
        lambda: proto.opset_import.add(domain=draw.choice(NAMES), version=1),
        lambda: setattr(proto, "ir_version", draw.choice([-1, 0, 3, 99])),
        lambda: proto.ClearField("graph"),
    ])()  # fmt: skip


def _domain(place):
    place.node.domain = place.draw.choice(["local", "com.microsoft", "ai.onnx", "ai.onnx.ml", "\x1b[31m"])


def _node_twice(place):
    place.graph.node.append(place.node)


def _tensor_twice(place):
    place.graph.initializer.append(place.tensor)


def _endless_function(place):
    for function in place.proto.functions:
        function.node.append(NODE("F", ["p", "q"], ["again"], domain="local"))


CHANGES = (
    _attribute_gone,
    _attribute_type,
    _dimensions,
    _element_type,
    _bytes_cut,
    _inputs,
    _operator,
    _attribute,
    _own_attribute,
    _weight_moved,
    _turned,
    _outputs,
    _external,
    _sparse_dimensions,
    _metadata,
    _tensor_name,
    _node_name,
    _value_info,
    _head,
    _domain,
    _node_twice,
    _tensor_twice,
    _endless_function,
    _bomb,
)


def spoil(proto, draw):
    """Change one thing; what protobuf itself refuses leaves the model as it was."""
    graph = draw.choice(list(graphs(proto.graph)))
    node = draw.choice(graph.node or proto.graph.node)
    tensor = draw.choice([*tensors(proto), TensorProto()])
    sizes = [draw.choice(SIZES) for _ in range(draw.choice([0, 1, 2, 3, 72]))]
    CHANGES[draw.randrange(len(CHANGES))](Place(proto, graph, node, tensor, sizes, draw))


def rename(proto, old, new):
    """Rename a tensor wherever it is named."""
    for graph in graphs(proto.graph):
        for tensor in [*graph.initializer, *(item.values for item in graph.sparse_initializer)]:
            tensor.name = new if tensor.name == old else tensor.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]


def mutant(draw, changes=None, form=None):
    """Return a model with a few changes, and whether its weights belong in another file."""
    proto, external = sound(draw, form)
    for _ in range(draw.randrange(1, 4) if changes is None else changes):
        with contextlib.suppress(ValueError, TypeError, IndexError):
            spoil(proto, draw)
    return proto, external


def damaged(data, draw):
    """Return bytes with a few of them changed, cut or repeated."""
    data = bytearray(data)
    for _ in range(draw.randrange(1, 4)):
        if not data:
            break
        place = draw.randrange(len(data))
        kind = draw.randrange(4)
        if kind == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del data[place : place + draw.choice([1, 9, 1 << 30])]
        elif kind == 2:
            data[place:place] = draw.randbytes(draw.randrange(1, 9))
        else:
            data[place:place] = data[place : place + draw.randrange(1, 256)]
    return bytes(data)


def write(proto, external, path, draw):
    """Write a model, now and then with damaged bytes."""
    if external:
        with contextlib.suppress(Exception):
            onnx.save(proto, path, save_as_external_data=True, location="w.bin", size_threshold=100)
            return
    data = proto.SerializeToString()
    path.write_bytes(damaged(data, draw) if draw.random() < 0.1 else data)
