"""Sound small models of many forms, and structure-aware mutations of them."""

import contextlib
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPERATORS = """Cast Constant Transpose Reshape Slice Pad Split Gather Conv Gemm MatMul Einsum ConstantOfShape Loop Scan LSTM
GRU DequantizeLinear QuantizeLinear ConvTranspose MatMulInteger Concat Expand Tile Range Squeeze Where Identity If
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
NODE = helper.make_node


def two_of_four(weight, axis):
    weight = np.moveaxis(weight.copy(), axis, -1)
    weight[..., 2::4] = 0
    weight[..., 3::4] = 0
    return np.ascontiguousarray(np.moveaxis(weight, -1, axis))


@dataclass
class Parts:
    """What a form puts in front of the last node, and the name of the weight that this node reads."""

    nodes: list = field(default_factory=list)
    stored: dict = field(default_factory=dict)
    sparse: list = field(default_factory=list)
    functions: list = field(default_factory=list)
    source: str = "w"


def _plain(weight, *_):
    return Parts(stored={"w": weight})


def _constant(weight, *_):
    return Parts([NODE("Constant", [], ["w"], name="k", value=numpy_helper.from_array(weight))])


def _cast(weight, *_):
    node = NODE("Cast", ["w"], ["v"], name="cast", to=TensorProto.FLOAT)
    return Parts([node], {"w": weight}, source="v")


def _moved(weight, *_):
    nodes = [NODE("Transpose", ["w"], ["t"], name="t"), NODE("Reshape", ["t", "s"], ["v"], name="r")]
    return Parts(nodes, {"w": weight, "s": np.array([16, 16])}, source="v")


def _quantised(weight, *_):
    stored = {"w": (weight * 20).astype("i1"), "c": np.float32(0.1)}
    return Parts([NODE("DequantizeLinear", ["w", "c"], ["v"], name="dq")], stored, source="v")


def _sparse(*_):
    values, places = np.arange(1, 5, dtype="f4"), np.array([0, 5, 9, 100])
    tensors = numpy_helper.from_array(values, "w"), numpy_helper.from_array(places)
    return Parts(sparse=[helper.make_sparse_tensor(*tensors, [16, 16])])


def _conv(weight, random, _):
    stored = {
        "w": weight,
        "k": two_of_four(random.standard_normal((16, 16, 3, 3)).astype("f4"), 1),
        "s": np.array([0, 16, 1, 1]),
    }
    stored |= {name: random.random(16).astype("f4") for name in ("scale", "shift", "mean", "var")}
    nodes = [
        NODE("Reshape", ["x", "s"], ["i"], name="image"),
        NODE("Conv", ["i", "k"], ["c"], name="conv", pads=[1] * 4),
        NODE("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["b"], name="norm"),
        NODE("Relu", ["b"], ["a"], name="relu"),
        NODE("Flatten", ["a"], ["h"], name="flat"),
    ]
    return Parts(nodes, stored)


def _function(weight, *_):
    body = [NODE("MatMul", ["p", "q"], ["r"], name="inner")]
    function = helper.make_function("local", "F", ["p", "q"], ["r"], body, [helper.make_opsetid("", 18)])
    node = NODE("F", ["x", "w"], ["h"], domain="local", name="call")
    return Parts([node], {"w": weight}, functions=[function])


def _if(weight, *_):
    value = helper.make_tensor_value_info
    branches = [
        helper.make_graph([NODE(o, i, [n], name=n)], n, [], [value(n, 1, None)])
        for o, i, n in (("MatMul", ["x", "w"], "then"), ("Identity", ["x"], "else"))
    ]
    node = NODE("If", ["cond"], ["h"], name="if", then_branch=branches[0], else_branch=branches[1])
    return Parts([node], {"w": weight, "cond": np.array(True)})


def _loop(weight, _, draw):
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [NODE("MatMul", ["c", "w"], ["d"], name="inner"), NODE("Identity", ["g"], ["on"], name="on")], "body",
        [value("i", 7, []), value("g", 9, []), value("c", 1, None)], [value("on", 9, []), value("d", 1, None)],
    )  # fmt: skip
    stored = {"w": weight, "turns": np.array(draw.choice([2, 2**62])), "go": np.array(True)}
    return Parts([NODE("Loop", ["turns", "go", "x"], ["h"], name="loop", body=body)], stored)


def _lstm(weight, random, _):
    stored = {
        "w": weight,
        "k": random.standard_normal((1, 64, 16)).astype("f4"),
        "u": random.standard_normal((1, 64, 16)).astype("f4"),
        "s": np.array([1, -1, 16]),
        "z": np.array([-1, 16]),
    }
    nodes = [
        NODE("Reshape", ["x", "s"], ["i"], name="in"),
        NODE("LSTM", ["i", "k", "u"], ["o"], name="lstm", hidden_size=16),
        NODE("Reshape", ["o", "z"], ["h"], name="out"),
    ]
    return Parts(nodes, stored)


def _left(weight, *_):
    nodes = [
        NODE("Transpose", ["x"], ["xt"], name="there"),
        NODE("MatMul", ["w", "xt"], ["ht"], name="left"),
        NODE("Transpose", ["ht"], ["h"], name="back"),
    ]
    return Parts(nodes, {"w": weight})


FORMS = {
    "plain": _plain,
    "sparse-weight": _plain,
    "constant": _constant,
    "cast": _cast,
    "moved": _moved,
    "quantised": _quantised,
    "sparse": _sparse,
    "conv": _conv,
    "function": _function,
    "if": _if,
    "loop": _loop,
    "external": _plain,
    "lstm": _lstm,
    "left": _left,
}


def sound(draw, form=None):
    """Return a sound model, whose inputs and outputs are x and y of shape (n, 16), and whether its weights lie outside."""
    form = form or draw.choice(list(FORMS))
    random = np.random.default_rng(draw.randrange(9))
    weight = random.standard_normal((16, 16)).astype("f4")
    if draw.random() < 0.5:
        weight = two_of_four(weight, draw.choice([0, 1]))
    last = NODE(draw.choice(["MatMul", "Gemm"]), ["h", "{w}"], ["y"], name="last")
    parts = FORMS[form](weight, random, draw)
    last.input[0] = "h" if any("h" in node.output for node in parts.nodes) else "x"
    last.input[1] = parts.source
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in parts.stored.items()]
    graph = helper.make_graph(
        [*parts.nodes, last], "g", infos[:1], infos[1:], tensors, sparse_initializer=parts.sparse
    )
    opsets = [helper.make_opsetid("", draw.choice([13, 18, 21]))]
    opsets += [helper.make_opsetid("local", 1)] if parts.functions else []
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=parts.functions)
    return model, form == "external"


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


def bomb(proto, draw):
    """Put a constant that costs much in front of the last node's weight."""
    big = draw.choice(
        [[1 << 20, 1 << 10], [16, 1 << 27], [1 << 62, 16], [65536, 65536], [4096, 4096], [2, 3], [-1, 16]]
    )
    one = numpy_helper.from_array(np.ones(1, draw.choice(["f4", "i8", "f8", "?"])))
    kind = draw.choice(
        [
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
        ]
    )
    stored = {
        "_s": np.array(big),
        "_one": np.ones(1, "f4"),
        "_1": np.array([1]),
        "_r": np.array(big),
        "_0": np.array(0),
        "_n": np.array(abs(big[1]) % (1 << 40)),
    }
    nodes = {
        "fill": [NODE("ConstantOfShape", ["_s"], ["_w"], value=one)],
        "expand": [NODE("Expand", ["_one", "_s"], ["_w"])],
        "tile": [NODE("Reshape", ["_one", "_11"], ["_q"]), NODE("Tile", ["_q", "_r"], ["_w"])],
        "range": [NODE("Range", ["_0", "_n", "_u"], ["_i"]), NODE("Cast", ["_i"], ["_w"], to=1)],
        "pad": [NODE("Reshape", ["_one", "_11"], ["_q"]), NODE("Pad", ["_q", "_p"], ["_w"])],
        "resize": [NODE("Reshape", ["_one", "_11"], ["_q"]), NODE("Resize", ["_q", "", "", "_s"], ["_w"])],
        "gather": [NODE("ConstantOfShape", ["_s"], ["_i"], value=numpy_helper.from_array(np.zeros(1, "i8"))), NODE("Gather", ["_one", "_i"], ["_w"])],
        "onehot": [NODE("OneHot", ["_r", "_n", "_v"], ["_w"])],
        "eye": [NODE("ConstantOfShape", ["_s"], ["_i"], value=one), NODE("EyeLike", ["_i"], ["_w"], dtype=1)],
        "cumsum": [NODE("ConstantOfShape", ["_s"], ["_i"], value=one), NODE("CumSum", ["_i", "_0"], ["_w"])],
        "einsum": [NODE("ConstantOfShape", ["_n1"], ["_i"], value=one), NODE("Einsum", ["_i", "_i"], ["_w"], equation="i,j->ij")],
        "product": [NODE("ConstantOfShape", ["_s"], ["_i"], value=one), NODE("MatMul", ["_i", "_i"], ["_w"])],
        "chain": [NODE("ConstantOfShape", ["_s"], ["_c0"], value=one), *[NODE("Add", [f"_c{i}", f"_c{i}"], [f"_c{i + 1}"]) for i in range(40)], NODE("Identity", ["_c40"], ["_w"])],
    }[kind]  # fmt: skip
    stored |= {
        "_11": np.array([1, 1]),
        "_u": np.array(1),
        "_p": np.array([0, 0, *big]),
        "_v": np.array([0, 1], "f4"),
        "_n1": stored["_n"].reshape(1),
    }
    for number, node in enumerate(nodes):
        node.name = f"bomb{number}"
        proto.graph.node.insert(number, node)
    needed = {name for node in nodes for name in node.input}
    proto.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in stored.items() if k in needed)
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


def spoil(proto, draw):
    """Change one thing; what protobuf itself refuses leaves the model as it was."""
    graph = draw.choice(list(graphs(proto.graph)))
    node = draw.choice(graph.node or proto.graph.node)
    tensor = draw.choice([*tensors(proto), TensorProto()])
    sizes = [draw.choice(SIZES) for _ in range(draw.choice([0, 1, 2, 3, 72]))]
    change = draw.randrange(21)
    if change == 0 and node.attribute:
        del node.attribute[draw.randrange(len(node.attribute))]
    elif change == 1 and node.attribute:
        draw.choice(node.attribute).type = draw.randrange(15)
    elif change == 2:
        tensor.dims[:] = sizes
    elif change == 3:
        tensor.data_type = draw.randrange(-1, 28)
    elif change == 4:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif change == 5:
        node.input[:] = [draw.choice(NAMES) for _ in range(draw.randrange(4))]
    elif change == 6:
        node.op_type = draw.choice(OPERATORS)
    elif change == 7:
        node.attribute.append(helper.make_attribute(draw.choice(ATTRIBUTES), draw.choice(VALUES)))
    elif change == 8:
        node.output[:] = [draw.choice(NAMES) for _ in range(draw.randrange(3))]
    elif change == 9:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=draw.choice(LOCATIONS))
        tensor.external_data.add(key="offset", value=draw.choice(["0", "-1", "x", "9" * 5000, str(2**63)]))
        if draw.random() < 0.5:
            tensor.external_data.add(key="length", value=draw.choice(["0", "-1", "1024", str(2**40), "1e3"]))
    elif change == 10:
        for item in graph.sparse_initializer:
            item.dims[:] = sizes
    elif change == 11:
        keys = ["nm2trt.plan", "nm2trt.lineage", "nm2trt.mask_sha256", "\x1b[2J"]
        helper.set_model_props(proto, {draw.choice(keys): draw.choice(RECORDS)})
    elif change == 12:
        rename(proto, tensor.name, draw.choice(NAMES))
    elif change == 13:
        node.name = draw.choice(NAMES)
    elif change == 14:
        value = draw.choice([*graph.input, *graph.output])
        draw.choice([
            lambda: value.type.tensor_type.shape.dim.add(dim_value=draw.choice(SIZES)),
            lambda: setattr(value.type.tensor_type, "elem_type", draw.randrange(-1, 28)),
            lambda: value.ClearField("type"),
            lambda: setattr(value, "name", draw.choice(NAMES)),
            lambda: setattr(value.type.tensor_type.shape.dim[0], "dim_param", draw.choice(NAMES)),
            lambda: value.type.sequence_type.elem_type.tensor_type.SetInParent(),
        ])()  # fmt: skip
    elif change == 15:
        draw.choice([
            lambda: proto.ClearField("opset_import"),
            lambda: setattr(proto.opset_import[0], "version", draw.choice([0, -1, 1, 7, 99, 2**40])),
            lambda: proto.opset_import.add(domain=draw.choice(NAMES), version=1),
            lambda: setattr(proto, "ir_version", draw.choice([-1, 0, 3, 99])),
            lambda: proto.ClearField("graph"),
        ])()  # fmt: skip
    elif change == 16:
        node.domain = draw.choice(["local", "com.microsoft", "ai.onnx", "ai.onnx.ml", "\x1b[31m"])
    elif change == 17:
        graph.node.append(node)
    elif change == 18:
        graph.initializer.append(tensor)
    elif change == 19:
        for function in proto.functions:
            function.node.append(NODE("F", ["p", "q"], ["again"], domain="local"))
    else:
        bomb(proto, draw)


def rename(proto, old, new):
    """Rename a tensor wherever it is named."""
    for graph in graphs(proto.graph):
        for tensor in [*graph.initializer, *(item.values for item in graph.sparse_initializer)]:
            tensor.name = new if tensor.name == old else tensor.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]


def mutant(draw, changes=None):
    """Return a model with a few changes, and whether its weights belong in another file."""
    proto, external = sound(draw)
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
