"""Channel spaces: what passes an order on, what freezes it, and that a missed freeze would be seen."""

import numpy as np
import onnx
import pytest
from onnx import helper

from nm2trt.errors import DifferenceError
from nm2trt.graph.permute import channel_spaces
from nm2trt.graph.permute.channel_spaces import find_spaces
from nm2trt.graph.permute.operator_rules import RULES
from nm2trt.graph.permute.permute_model import permute_model
from nm2trt.graph.storage.model import load
from tests.graph.permute.permute_nets import Net, stored, value


def free_all(node):
    """Settle every dimension of a node as if its order meant nothing: the fault that a rule must not have."""
    for slot in node.slots:
        for axis in range(len(node.shape(slot))):
            node.free(slot, axis)
    for result in node.results:
        for axis in range(len(node.result_shape(result))):
            node.free_result(axis, result)


def body(net, name):
    """If: both branches read `first` from outside and scale its channels by constants of their own."""
    scale = np.linspace(0.5, 2, 16, dtype=np.float32).reshape(16, 1, 1)
    branches = [
        helper.make_graph(
            [helper.make_node("Mul", ["first", f"s{i}"], [f"out{i}"])],
            f"b{i}",
            [],
            [value(f"out{i}", None)],
            [onnx.numpy_helper.from_array(scale, f"s{i}")],
        )
        for i in (0, 1)
    ]
    return net.node(
        "If", [net.tensor("yes", np.array(True))], name, then_branch=branches[0], else_branch=branches[1]
    )


# Operator -> what it makes of `first` (1, 16, 8, 8): the value that the next convolution reads, and its channels.
FROZEN = {
    "Concat": lambda n: (n.node("Concat", ["first", "first"], "mid", axis=1), 32),
    "Reshape": lambda n: (n.node("Reshape", ["first", n.ints("s", 1, 64, 4, 4)], "mid"), 64),
    "Slice": lambda n: (
        n.node("Slice", ["first", n.ints("a", 2), n.ints("b", 14), n.ints("c", 1)], "mid"),
        12,
    ),
    "Gather": lambda n: (n.node("Gather", ["first", n.ints("i", *range(15, 3, -1))], "mid", axis=1), 12),
    "Split": lambda n: (n.node("Split", ["first", n.ints("s", 12, 4)], ["mid", "rest"], axis=1)[0], 12),
    "CumSum": lambda n: (n.node("CumSum", ["first", n.tensor("a", np.array(1))], "mid"), 16),
    "LRN": lambda n: (n.node("LRN", ["first"], "mid", size=3, alpha=1.0), 16),
    "DepthToSpace": lambda n: (n.node("DepthToSpace", ["first"], "mid", blocksize=2), 4),
    "Pad": lambda n: (n.node("Pad", ["first", n.ints("p", 0, 4, 0, 0, 0, 0, 0, 0)], "mid"), 20),
    "If": lambda n: (body(n, "mid"), 16),
    "Conv": lambda n: (n.conv("first", "mid", 16, 16, group=4), 16),
}


def two_convolutions(make):
    net = Net()
    net.conv("x", "first", 16, 3)
    mid, channels = make(net)
    net.conv(mid, "second", 20, channels)
    # A second reader of `first` gives the search a reason to move its channels.
    net.conv("first", "side", 24, 16)
    net.node("GlobalAveragePool", ["side"], "side_y")
    return net


@pytest.mark.parametrize("operator", FROZEN)
def test_an_operator_that_depends_on_the_order_freezes_it(operator, tmp_path):
    source = two_convolutions(FROZEN[operator]).save(tmp_path / "m.onnx", "second", "side_y")
    (space,) = (s for s in find_spaces(load(source)) if "side.weight" in [w.weight for w in s.weights])
    assert space.obstacle


@pytest.mark.parametrize("operator", FROZEN)
def test_without_the_freeze_the_comparison_fails(operator, tmp_path, monkeypatch):
    source = two_convolutions(FROZEN[operator]).save(tmp_path / "m.onnx", "second", "side_y")
    if operator == "Conv":
        whole = RULES["", "Conv"]
        rule = lambda node: (free_all if node.attributes.get("group", 1) > 1 else whole)(node)  # noqa: E731
    else:
        rule = free_all
    monkeypatch.setattr(channel_spaces, "RULES", {**RULES, ("", operator): rule})
    monkeypatch.setattr(
        channel_spaces, "pins", lambda proto: [(v.name, "an output") for v in proto.graph.output]
    )
    with pytest.raises(DifferenceError, match="before and after"):
        permute_model(source, tmp_path / "p.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_softmax_freezes_the_axis_that_it_sums_over_alone(tmp_path):
    for axis, free in ((1, False), (-1, True)):
        net = two_convolutions(lambda n, axis=axis: (n.node("Softmax", ["first"], "mid", axis=axis), 16))
        space = next(s for s in find_spaces(load(net.proto("second", "side_y"))) if s.channels == 16)
        assert (space.obstacle == "") is free
    old = Net(opset=11)
    old.conv("x", "first", 16, 3)
    old.conv(old.node("Softmax", ["first"], "mid", axis=1), "second", 16, 16)
    assert "Softmax" in find_spaces(load(old.proto("second")))[-1].obstacle


@pytest.mark.parametrize(
    ("sizes", "free"),
    [((1, 16, 64), True), ((1, 1, 16, 8, 8), True), ((1, 4, 4, 64), False)],
)
def test_a_reshape_passes_the_sizes_that_it_leaves(sizes, free):
    net = two_convolutions(lambda n: (n.node("Reshape", ["first", n.ints("s", *sizes)], "mid"), 16))
    net.nodes = [node for node in net.nodes if node.output[0] != "second"]
    net.node("ReduceSum", ["mid", net.ints("all", *range(1, len(sizes)))], "second")
    (space,) = (s for s in find_spaces(load(net.proto("second", "side_y"))) if s.channels == 16)
    assert (space.obstacle == "") is free


def test_inputs_and_outputs_of_the_model_are_frozen(tmp_path, monkeypatch):
    net = Net((1, 16, 8, 8))
    net.conv("x", "first", 16, 16)
    net.conv("first", "second", 16, 16)
    source = net.save(tmp_path / "m.onnx", "second", "first")
    assert ["input" in s.obstacle or "output" in s.obstacle for s in find_spaces(load(source))] == [
        True,
        True,
    ]
    monkeypatch.setattr(channel_spaces, "pins", lambda _: [("second", "an output")])
    with pytest.raises(DifferenceError):
        permute_model(source, tmp_path / "p.onnx")


def test_shapes_that_are_not_known_freeze(tmp_path):
    net = Net(None)  # rank unknown
    net.node("Relu", ["x"], "r")
    net.conv("r", "first", 16, 16)
    assert "not known" in find_spaces(load(net.proto("first")))[0].obstacle


def residual(net):
    """Inverted residual with a squeeze and excitation, PRelu, per-channel scales and a BatchNormalization."""
    net.conv("x", "stem", 16, 3, 3, pads=[1] * 4)
    net.conv("stem", "up", 32, 16)
    vectors = [net.random(f"bn.{i}", 32) for i in "123"] + [
        net.tensor("bn.var", np.linspace(0.5, 2, 32, dtype=np.float32))
    ]
    net.node("BatchNormalization", ["up", *vectors], "bn")
    net.node("PRelu", ["bn", net.random("slope", 32, 1, 1)], "act")
    net.conv("act", "dw", 32, 32, 3, group=32, pads=[1] * 4)
    net.node("GlobalAveragePool", ["dw"], "pool")
    net.conv("pool", "squeeze", 16, 32)
    net.node("HardSwish", ["squeeze"], "hs")
    net.conv("hs", "excite", 32, 16)
    net.node("Sigmoid", ["excite"], "gate")
    net.node("Mul", ["dw", "gate"], "gated")
    net.node("Mul", ["gated", net.random("scale", 1, 32, 1, 1)], "scaled")
    net.conv("scaled", "down", 16, 32)
    net.node("Add", ["stem", "down"], "sum")
    net.node("Flatten", [net.node("ReduceMean", ["sum", net.ints("hw", 2, 3)], "mean", keepdims=1)], "flat")
    net.node("Gemm", ["flat", net.random("fc.weight", 10, 16), net.random("fc.bias", 10)], "y", transB=1)
    return "y"


def transformer(net):
    """Tokens (2, 6, 16): LayerNormalization and an MLP beside a skip, twice; MatMuls, then a Gemm on one token."""
    net.node("MatMul", ["x", net.random("in.weight", 8, 16)], "h0")
    for i in (0, 1):
        net.node(
            "LayerNormalization", [f"h{i}", net.random(f"ln{i}.w", 16), net.random(f"ln{i}.b", 16)], f"n{i}"
        )
        net.node("MatMul", [f"n{i}", net.random(f"up{i}.weight", 16, 32)], f"u{i}")
        net.node("Add", [f"u{i}", net.random(f"up{i}.bias", 32)], f"b{i}")
        net.node("Gelu" if net.opset >= 20 else "Erf", [f"b{i}"], f"g{i}")
        # A weight that is stored (out, in) and transposed in the graph.
        net.node("Transpose", [net.random(f"down{i}.weight", 16, 32)], f"t{i}", perm=[1, 0])
        net.node("MatMul", [f"g{i}", f"t{i}"], f"d{i}")
        net.node("Add", [f"h{i}", f"d{i}"], f"h{i + 1}")
    net.node("Gather", ["h2", net.tensor("first", np.array(0))], "token", axis=1)
    net.node("Gemm", ["token", net.random("fc.weight", 16, 10)], "y")
    return "y"


def mixed(net):
    """ConvTranspose, InstanceNormalization, Pad, Resize, pooling, Where, Expand, a decomposed norm, Constants."""
    net.node(
        "ConvTranspose",
        ["x", net.random("t.weight", 3, 16, 2, 2), net.random("t.bias", 16)],
        "t",
        strides=[2, 2],
    )
    net.node("InstanceNormalization", ["t", net.random("in.w", 16), net.random("in.b", 16)], "i")
    net.node("Pad", ["i", net.ints("pads", 0, 0, 1, 1, 0, 0, 1, 1)], "p", mode="reflect")
    net.node("MaxPool", ["p"], "m", kernel_shape=[2, 2], strides=[2, 2])
    net.node(
        "Resize", ["m", "", net.tensor("scales", np.array([1, 1, 2, 2], np.float32))], "r", mode="nearest"
    )
    net.node("ReduceMean", ["r", net.ints("c", 1)], "mu", keepdims=1)
    net.node("Sub", ["r", "mu"], "centred")
    net.node(
        "Constant",
        [],
        "half",
        value=onnx.numpy_helper.from_array(np.linspace(-1, 1, 16, dtype=np.float32).reshape(16, 1, 1)),
    )
    net.node("Greater", ["centred", "half"], "mask")
    net.node("Where", ["mask", "centred", "half"], "w")
    net.node("Slice", ["w", net.ints("from", 1), net.ints("to", 9), net.ints("ax", 3)], "cut")
    net.node("Concat", ["cut", "cut"], "wide", axis=3)
    net.node("ConvTranspose", ["wide", net.random("t2.weight", 16, 24, 1, 1)], "t2")
    net.node("Transpose", ["t2"], "nhwc", perm=[0, 2, 3, 1])
    net.node("MatMul", ["nhwc", net.random("mm.weight", 24, 16)], "mm")
    net.node(
        "Unsqueeze",
        [
            net.node("GlobalMaxPool", [net.node("Transpose", ["mm"], "back", perm=[0, 3, 1, 2])], "gp"),
            net.ints("u", 0),
        ],
        "un",
    )
    net.node("Squeeze", ["un", net.ints("sq", 0, 3, 4)], "flat")
    net.node("Gemm", [net.random("left", 5, 16), "flat"], "y", transB=1)
    return "y"


NETS = {
    "residual": (residual, {}),
    "transformer": (transformer, {"shape": (2, 6, 8), "opset": 20}),
    "mixed": (mixed, {}),
}


@pytest.mark.parametrize("name", NETS)
def test_every_space_of_a_network_is_free_and_its_function_stays(name, tmp_path):
    make, options = NETS[name]
    net = Net(**options)
    source = net.save(tmp_path / "m.onnx", make(net))
    inner = [space for space in find_spaces(load(source)) if space.channels not in (3, 8)]
    assert [space.obstacle for space in inner] == [""] * len(inner)
    report = permute_model(source, tmp_path / "p.onnx")
    assert report.moved >= 2
    assert not report.not_measured
    assert max(item.max_relative for item in report.differences) <= 1e-5
    before, after = stored(source), stored(tmp_path / "p.onnx")
    moved = {name for name in before if not np.array_equal(before[name], after[name])}
    assert moved <= {tensor for space in report.spaces for tensor in space.tensors}
    for tensor in before:
        assert sorted(before[tensor].ravel().tolist()) == sorted(after[tensor].ravel().tolist())


def test_everything_that_a_residual_space_holds_moves_together():
    net = Net()
    spaces = find_spaces(load(net.proto(residual(net))))
    by_weight = {weight.weight: space for space in spaces for weight in space.weights}
    wide = by_weight["down.weight"]
    assert by_weight["squeeze.weight"] is wide
    assert set(wide.stored) == {
        ("up.weight", 0), ("up.bias", 0), ("bn.1", 0), ("bn.2", 0), ("bn.3", 0), ("bn.var", 0), ("slope", 0),
        ("dw.weight", 0), ("dw.bias", 0), ("squeeze.weight", 1), ("excite.weight", 0), ("excite.bias", 0),
        ("scale", 1), ("down.weight", 1),
    }  # fmt: skip
    skip = by_weight["up.weight"]
    assert by_weight["fc.weight"] is skip
    assert set(skip.stored) == {
        ("stem.weight", 0), ("stem.bias", 0), ("up.weight", 1), ("down.weight", 0), ("down.bias", 0),
        ("fc.weight", 1),
    }  # fmt: skip


def test_a_weight_that_two_nodes_read_is_permuted_once_for_both(tmp_path):
    net = Net()
    net.conv("x", "a", 16, 3)
    net.conv("x", "b", 16, 3)
    shared = net.random("shared", 20, 16, 1, 1)
    net.conv("a", "left", 20, 16, weight=shared)
    net.conv("b", "right", 20, 16, weight=shared)
    net.node("Concat", ["left", "right"], "y", axis=1)
    source = net.save(tmp_path / "m.onnx", "y")
    (space,) = (s for s in find_spaces(load(source)) if s.channels == 16)
    assert len(space.weights) == 1  # read alike, so it counts once
    assert {"a.weight", "b.weight", "shared"} <= {name for name, _ in space.stored}
    assert permute_model(source, tmp_path / "p.onnx").moved == 1


def test_a_weight_that_is_read_along_both_axes_joins_both_spaces(tmp_path):
    net = Net((4, 16))
    square = net.random("square", 16, 16)
    net.node("Gemm", ["x", net.random("in", 16, 16)], "h")
    net.node("Gemm", [net.node("Relu", ["h"], "r"), square], "s")
    net.node("Gemm", [net.node("Relu", ["s"], "t"), square], "u", transB=1)
    net.node("Gemm", ["u", net.random("out", 16, 8)], "y")
    source = net.save(tmp_path / "m.onnx", "y")
    space = next(s for s in find_spaces(load(source)) if "square" in [w.weight for w in s.weights])
    assert ("square", 0) in space.stored
    assert ("square", 1) in next(s for s in find_spaces(load(source)) if ("square", 1) in s.stored).stored
    assert permute_model(source, tmp_path / "p.onnx").moved >= 1


def test_a_tied_embedding_follows_in_its_columns_and_keeps_its_rows(tmp_path):
    net = Net((1, 4))
    table = net.random("table", 24, 16)
    net.node("Cast", ["x"], "ids", to=onnx.TensorProto.INT64)
    net.node("Gather", [table, "ids"], "e")
    net.node("LayerNormalization", ["e", net.random("w", 16)], "n")
    net.node("Transpose", [table], "head", perm=[1, 0])
    net.node("MatMul", ["n", "head"], "y")
    source = net.save(tmp_path / "m.onnx", "y")
    (space,) = find_spaces(load(source))
    assert set(space.stored) == {("table", 1), ("w", 0)}
    assert permute_model(source, tmp_path / "p.onnx").moved == 1
    before, after = stored(source)["table"], stored(tmp_path / "p.onnx")["table"]
    assert all(sorted(a) == sorted(b) for a, b in zip(before.tolist(), after.tolist(), strict=True))
