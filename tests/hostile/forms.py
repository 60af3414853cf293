"""Sound small models of many forms."""

from dataclasses import dataclass, field

import numpy as np
from onnx import TensorProto, helper, numpy_helper

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


def _recurrent(operator, gates):
    def form(weight, random, draw):
        directions, hidden = draw.choice([("forward", 16), ("reverse", 16), ("bidirectional", 8)])
        count = 16 // hidden
        weights = {
            name: random.standard_normal((count, gates * hidden, size)).astype("f4")
            for name, size in (("k", 16), ("u", hidden))
        }
        stored = {name: _maybe_sparse(one, 2, draw) for name, one in weights.items()}
        stored |= {"w": weight, "s": np.array([1, -1, 16]), "z": np.array([-1, 16])}
        nodes = [
            NODE("Reshape", ["x", "s"], ["i"], name="in"),
            NODE(operator, ["i", "k", "u"], ["o"], name="cell", hidden_size=hidden, direction=directions),
            NODE("Transpose", ["o"], ["ot"], name="turned", perm=[0, 2, 1, 3]),
            NODE("Reshape", ["ot", "z"], ["h"], name="out"),
        ]
        return Parts(nodes, stored)

    return form


def _maybe_sparse(weight, axis, draw):
    return two_of_four(weight, axis) if draw.random() < 0.5 else weight


def _conv_transpose(weight, random, draw):
    group, size = draw.choice([1, 2, 8]), draw.choice([1, 3])
    kernel = random.standard_normal((16, 16 // group, size, size)).astype("f4")
    stored = {"w": weight, "k": _maybe_sparse(kernel, 0, draw), "s": np.array([0, 16, 1, 1])}
    nodes = [
        NODE("Reshape", ["x", "s"], ["i"], name="image"),
        NODE("ConvTranspose", ["i", "k"], ["c"], name="up", group=group, pads=[size // 2] * 4),
        NODE("Flatten", ["c"], ["h"], name="flat"),
    ]
    return Parts(nodes, stored)


def _einsum(weight, random, draw):
    kernel = random.standard_normal((16, 16)).astype("f4")
    equation, inputs, axis = draw.choice(
        [
            ("ab,bc->ac", ["x", "k"], 0),
            ("ab,cb->ac", ["x", "k"], 1),
            ("bc, ab -> ac", ["k", "x"], 0),
            ("ij,kj", ["x", "k"], 1),
        ]
    )
    node = NODE("Einsum", inputs, ["h"], name="product", equation=equation)
    return Parts([node], {"w": weight, "k": _maybe_sparse(kernel, axis, draw)})


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
    "lstm": _recurrent("LSTM", 4),
    "gru": _recurrent("GRU", 3),
    "rnn": _recurrent("RNN", 1),
    "conv-transpose": _conv_transpose,
    "einsum": _einsum,
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
