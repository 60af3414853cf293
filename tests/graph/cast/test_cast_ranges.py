"""cast without samples: sums and squares stay in fp32 until they are back in range; dead outputs are refused.

The oracle is onnx.reference, which rounds every tensor to its type, as a GPU's kernels do between operators.
"""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import nm2trt
from nm2trt.cli import main
from nm2trt.compare.outputs import compare_outputs
from nm2trt.errors import DifferenceError, ModelError
from nm2trt.graph.execute.output_requirements import require_alive, require_related

FLOAT = TensorProto.FLOAT
SIZE = 512
NODE = helper.make_node


def tensor(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def model_of(nodes, tensors, *, inputs=None, outputs=None):
    inputs = inputs or [helper.make_tensor_value_info("x", FLOAT, ["n", SIZE])]
    outputs = outputs or [helper.make_tensor_value_info("y", FLOAT, ["n", None])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def normed(*steps):
    """A product, `steps` from "h" to "z", and a product again."""
    random = np.random.default_rng(0)
    wide = (random.standard_normal((SIZE, SIZE)) * SIZE**-0.5).astype(np.float32)
    narrow = random.standard_normal((SIZE, 16)).astype(np.float32)
    nodes = [NODE("MatMul", ["x", "w"], ["h"]), *steps, NODE("MatMul", ["z", "v"], ["y"])]
    constants = [
        tensor("w", wide),
        tensor("v", narrow),
        tensor("ax", np.array([-1])),
        tensor("two", np.float32(2)),
        tensor("half", np.float32(0.5)),
        tensor("minus_half", np.float32(-0.5)),
        tensor("count", np.float32(SIZE)),
        tensor("eps", np.float32(1e-5)),
        tensor("most", np.float32(1e12)),
        tensor("lg", np.float32(0.01)),
        tensor("perm", np.array([1, 0])),
        tensor("grid", np.array([0, 8, 8, 8])),
        tensor("flat", np.array([0, SIZE])),
    ]
    used = {name for node in nodes for name in node.input}
    return model_of(nodes, [one for one in constants if one.name in used])


CENTRED = [NODE("ReduceMean", ["h", "ax"], ["mean"]), NODE("Sub", ["h", "mean"], ["d"])]
NETS = {
    "l2 by squares": normed(
        NODE("Mul", ["h", "h"], ["s"]),
        NODE("ReduceSum", ["s", "ax"], ["t"]),
        NODE("Sqrt", ["t"], ["r"]),
        NODE("Div", ["h", "r"], ["z"]),
    ),
    "l2 by ReduceSumSquare": normed(
        NODE("ReduceSumSquare", ["h", "ax"], ["t"]),
        NODE("Pow", ["t", "half"], ["r"]),
        NODE("Div", ["h", "r"], ["z"]),
    ),
    "l2 by ReduceL2, bounded below": normed(
        NODE("ReduceL2", ["h", "ax"], ["t"]),
        NODE("Clip", ["t", "eps"], ["r"]),
        NODE("Div", ["h", "r"], ["z"]),
    ),
    "l2 of squares that a pool sums": normed(
        NODE("Reshape", ["h", "grid"], ["h4"]),
        NODE("LpPool", ["h4"], ["r"], kernel_shape=[8, 8], p=2),
        NODE("Div", ["h4", "r"], ["z4"]),
        NODE("Reshape", ["z4", "flat"], ["z"]),
    ),
    "layer norm by Pow": normed(
        *CENTRED,
        NODE("Pow", ["d", "two"], ["s"]),
        NODE("ReduceMean", ["s", "ax"], ["t"]),
        NODE("Add", ["t", "eps"], ["u"]),
        NODE("Sqrt", ["u"], ["r"]),
        NODE("Div", ["d", "r"], ["z"]),
    ),
    "layer norm by sums and a reciprocal": normed(
        NODE("ReduceSum", ["h", "ax"], ["sum"]),
        NODE("Div", ["sum", "count"], ["mean"]),
        NODE("Sub", ["h", "mean"], ["d"]),
        NODE("Mul", ["d", "d"], ["s"]),
        NODE("ReduceSum", ["s", "ax"], ["t"]),
        NODE("Div", ["t", "count"], ["var"]),
        NODE("Add", ["var", "eps"], ["u"]),
        NODE("Sqrt", ["u"], ["r"]),
        NODE("Reciprocal", ["r"], ["i"]),
        NODE("Mul", ["d", "i"], ["z"]),
    ),
    "rms norm by a negative power": normed(
        NODE("Mul", ["h", "h"], ["s"]),
        NODE("ReduceMean", ["s", "ax"], ["t"]),
        NODE("Add", ["t", "eps"], ["u"]),
        NODE("Pow", ["u", "minus_half"], ["i"]),
        NODE("Mul", ["h", "i"], ["z"]),
    ),
    "square behind moves": normed(
        NODE("Transpose", ["h"], ["a"], perm=[1, 0]),
        NODE("Transpose", ["a"], ["b"], perm=[1, 0]),
        NODE("Mul", ["h", "b"], ["s"]),
        NODE("ReduceSum", ["s", "ax"], ["t"]),
        NODE("Sqrt", ["t"], ["r"]),
        NODE("Div", ["h", "r"], ["z"]),
    ),
    "product of two norms": normed(
        NODE("ReduceL2", ["h", "ax"], ["p"]),
        NODE("ReduceL2", ["x", "ax"], ["q"]),
        NODE("Mul", ["p", "q"], ["r"]),
        NODE("Mul", ["h", "x"], ["s"]),
        NODE("Div", ["s", "r"], ["z"]),
    ),
    "gelu by a cube": normed(
        NODE("Mul", ["h", "h"], ["s"]),
        NODE("Mul", ["s", "h"], ["c"]),
        NODE("Mul", ["c", "lg"], ["k"]),
        NODE("Add", ["h", "k"], ["a"]),
        NODE("Tanh", ["a"], ["z"]),
    ),
}


def rounded(path, x):
    with np.errstate(over="ignore"):  # two masks of finfo.min add up to -inf
        return ReferenceEvaluator(str(path)).run(None, {"x": x})[0]


@pytest.mark.parametrize("factor", [1, 100], ids="x{}".format)
@pytest.mark.parametrize("net", NETS)
def test_norms_survive_activations_a_hundred_times_larger(tmp_path, net, factor):
    onnx.save(NETS[net], tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")
    x = (factor * 4 * np.random.default_rng(1).standard_normal((4, SIZE))).astype(np.float32)
    wanted, found = rounded(tmp_path / "m.onnx", x), rounded(tmp_path / "c.onnx", x)
    assert np.isfinite(found).all()
    assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "c.onnx").graph.initializer}
    assert sum(kind == TensorProto.FLOAT16 for kind in stored.values()) >= 2, "the products are still cast"
    assert report.cast_nodes >= 2


def test_a_softmax_by_hand_stays_until_its_division(tmp_path):
    nodes = [
        NODE("Exp", ["h"], ["e"]),
        NODE("ReduceSum", ["e", "ax"], ["t"]),
        NODE("Div", ["e", "t"], ["z"]),
    ]
    onnx.save(normed(*nodes), tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")
    assert {node.operator for node in report.kept} == {"Exp", "ReduceSum", "Div"}
    x = 3 * np.random.default_rng(1).standard_normal((4, SIZE)).astype(np.float32)
    assert rounded(tmp_path / "c.onnx", x) == pytest.approx(
        rounded(tmp_path / "m.onnx", x), rel=0.02, abs=0.02
    )


def test_a_mask_of_the_lowest_float32_is_cast_to_bf16_without_samples(tmp_path):
    """bfloat16 has no number near it but minus infinity, whose product with 0 is NaN."""
    nodes = [
        NODE("Shape", ["h"], ["size"]),
        NODE("ConstantOfShape", ["size"], ["low"], value=tensor("", np.finfo(np.float32).min.reshape(1))),
        NODE("Less", ["h", "zero"], ["less"]),
        NODE("Cast", ["less"], ["off"], to=FLOAT),
        NODE("Mul", ["low", "off"], ["mask"]),
        NODE("Add", ["h", "mask"], ["s"]),
        NODE("Softmax", ["s"], ["z"]),
    ]
    net = normed(*nodes)
    net.graph.initializer.append(tensor("zero", np.float32(0)))
    onnx.save(net, tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to="bf16")
    assert "low" in report.overflowing
    assert report.differences[0].cosine > 0.999


def test_a_value_that_overflows_on_ordinary_inputs_stays_without_samples(tmp_path):
    net = normed(NODE("Mul", ["h", "k"], ["a"]), NODE("Mul", ["a", "l"], ["z"]))
    net.graph.initializer.extend([tensor("k", np.float32(6e4)), tensor("l", np.float32(1e-3))])
    onnx.save(net, tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")
    assert set(report.overflowing) == {"a"}
    assert any("trial on random inputs" in node.reason for node in report.kept)
    assert "NaN" not in json.dumps(report.to_json())


@pytest.mark.parametrize("io", [False, True], ids=["outputs in fp32", "outputs in fp16"])
def test_an_output_that_rounding_kills_is_refused_and_nothing_is_written(tmp_path, capsys, io):
    """1 + x/4096 is 1 in fp16 for every x of this size: the output becomes constant."""
    net = normed(NODE("Mul", ["h", "s"], ["a"]), NODE("Add", ["a", "one"], ["z"]))
    del net.graph.node[-1]
    net.graph.node.extend([NODE("Sub", ["z", "one"], ["b"]), NODE("Mul", ["b", "big"], ["y"])])
    constants = {"s": 2.0**-14, "one": 1.0, "big": 2.0**14}
    net.graph.initializer.extend(tensor(name, np.float32(value)) for name, value in constants.items())
    del net.graph.initializer[1]
    onnx.save(net, tmp_path / "m.onnx")
    words = ["cast", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "c.onnx"), *(["--io"] if io else [])]
    assert main(words) == 5
    assert "output 'y' becomes all zero" in capsys.readouterr().err
    assert not (tmp_path / "c.onnx").exists()


@pytest.mark.parametrize("to", ["fp16", "int8"])
def test_outputs_that_have_nothing_in_common_on_the_samples_are_refused_unless_asked_for(
    tmp_path, capsys, to
):
    """A large number is added and taken off again: its rounding is all that remains."""
    net = normed(NODE("Add", ["h", "big"], ["a"]), NODE("Sub", ["a", "big"], ["z"]))
    # From 10,000 on `quantize` would take it for a mask, which stays float.
    net.graph.initializer.append(tensor("big", np.float32(60_000 if to == "fp16" else 9_000)))
    onnx.save(net, tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((32, SIZE)).astype(np.float32)
    np.savez(tmp_path / "s.npz", x=x)
    command = "cast" if to == "fp16" else "quantize"
    out = tmp_path / "c.onnx"
    words = [command, str(tmp_path / "m.onnx"), "--calib", str(tmp_path / "s.npz"), "-o", str(out)]
    assert main(words) == 5
    said = capsys.readouterr().err
    assert "output 'y' " in said
    assert "--no-compare" in said
    assert "give samples" not in said
    assert not out.exists()
    assert main([*words, "--no-compare"]) == 0
    assert out.exists()


def test_what_is_tiny_or_alone_or_was_zero_may_be_unrelated():
    for before, after in (([1e-3, -2e-3], [-1e-3, 2e-3]), ([5.0], [-5.0]), ([0.0, 0.0], [1.0, 2.0])):
        require_related(compare_outputs(*({"y": np.array(one, np.float32)} for one in (after, before))))
    with pytest.raises(
        DifferenceError, match=r"a cosine of -1\.000000 to the original's, from which it differs"
    ):
        require_related(
            compare_outputs(*({"y": np.array(one, np.float32)} for one in ([-1.0, 2.0], [1.0, -2.0])))
        )


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ([1.0, 2.0], [0.0, 0.0], "all zero"),
        ([1.0, 2.0], [3.0, 3.0], "the constant 3"),
        ([1.0, 2.0], [1.0, 2.1], ""),
        ([0.0, 0.0], [0.0, 0.0], ""),
        ([5.0, 5.0], [4.0, 4.0], ""),
        ([1e-6, 2e-6], [0.0, 0.0], ""),
        ([1.0, 1.0001], [1.0, 1.0], ""),
        ([1.0, 2.0, -np.inf], [0.0, 0.0, -np.inf], "all zero"),
        ([1.0, 2.0, -np.inf], [3.0, 3.0, -np.inf], "the constant 3"),
        ([1.0, 2.0, -np.inf], [1.0, 2.1, -np.inf], ""),
        ([-np.inf, 2.0, -np.inf], [-np.inf, 0.0, -np.inf], ""),
    ],
    ids=str,
)
def test_dead_outputs(before, after, words):
    arrays = ({"y": np.array(one, np.float32)} for one in (before, after))
    if not words:
        require_alive(*arrays, epsilon=2**-10, floor=1e-5)
        return
    with pytest.raises(DifferenceError, match=words):
        require_alive(*arrays, epsilon=2**-10, floor=1e-5)


def masked(kind):
    """Causal attention, its mask chosen by Where or added, once or twice, or fed."""
    random = np.random.default_rng(0)
    low = -np.inf if kind == "inf" else np.finfo(np.float32).min
    causal = np.tril(np.ones((8, 8), bool))
    nodes = [
        NODE("MatMul", ["x", "w"], ["q"]),
        NODE("Transpose", ["x"], ["xt"], perm=[0, 2, 1]),
        NODE("MatMul", ["q", "xt"], ["s"]),
    ]
    value = helper.make_tensor_value_info
    inputs = [value("x", FLOAT, ["n", 8, 32])]
    if kind == "fed":
        nodes += [NODE("Add", ["s", "add"], ["m"])]
        inputs, mask = [*inputs, value("add", FLOAT, ["n", 8, 8])], []
    elif kind == "summed":
        nodes += [NODE("Add", ["s", "add"], ["s1"]), NODE("Add", ["s1", "add"], ["m"])]
        mask = [tensor("add", np.where(causal, 0, low).astype(np.float32))]
    else:
        nodes += [NODE("Where", ["mask", "s", "low"], ["m"])]
        mask = [tensor("mask", causal), tensor("low", np.float32(low))]
    nodes += [NODE("Softmax", ["m"], ["p"], axis=-1), NODE("MatMul", ["p", "x"], ["y"])]
    weight = tensor("w", 0.1 * random.standard_normal((32, 32)).astype(np.float32))
    return model_of(
        nodes,
        [weight, *mask],
        inputs=inputs,
        outputs=[value("y", FLOAT, ["n", 8, 32])],
    )


@pytest.mark.parametrize("to", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", ["inf", "least", "summed"])
def test_masks_pass_with_calibration(tmp_path, kind, to):
    onnx.save(masked(kind), tmp_path / "m.onnx")
    x = np.random.default_rng(1).standard_normal((4, 8, 32)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=x)
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to=to, calib=tmp_path / "x.npz")
    json.dumps(report.to_json(), allow_nan=False)
    assert report.differences[0].cosine > 0.999
    if to == "fp16":
        wanted, found = rounded(tmp_path / "m.onnx", x), rounded(tmp_path / "c.onnx", x)
        assert np.abs(found - wanted).max() < 0.02 * np.abs(wanted).max()


def test_samples_may_hold_the_infinity_of_masks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    onnx.save(masked("fed"), "m.onnx")
    x = np.random.default_rng(1).standard_normal((8, 8, 32)).astype(np.float32)
    add = np.where(np.tril(np.ones((8, 8), bool)), 0, -np.inf).astype(np.float32)
    np.savez("x.npz", x=x, add=np.repeat(add[None], 8, axis=0))
    nm2trt.cast("m.onnx", "half.onnx", calib="x.npz")
    nm2trt.quantize("m.onnx", "int8.onnx", calib="x.npz")
    assert nm2trt.prune("m.onnx", "pruned.onnx", calib="x.npz").weights[0].status == "pruned"
    for name, least in (("half.onnx", 0.999), ("int8.onnx", 0.99), ("pruned.onnx", 0.9)):
        (found,) = nm2trt.validate(name, "m.onnx", "x.npz", runs=0).comparison.differences
        assert found.cosine is not None
        assert found.cosine > least


@pytest.mark.parametrize("to", ["fp16", "bf16"])
@pytest.mark.parametrize("way", ["chosen", "multiplied"])
def test_the_softmax_after_a_mask_that_overflows_stays_without_samples(tmp_path, way, to):
    """A row of padding is uniform in float32; rounded to -infinity all along, it would be NaN."""
    if way == "chosen":
        nodes = [
            NODE("Cast", ["mask"], ["b"], to=TensorProto.BOOL),
            NODE("Where", ["b", "zero", "low"], ["a"]),
        ]
    else:
        nodes = [
            NODE("Cast", ["mask"], ["b"], to=TensorProto.FLOAT),
            NODE("Sub", ["one", "b"], ["c"]),
            NODE("Mul", ["c", "low"], ["a"]),
        ]
    nodes += [
        NODE("MatMul", ["x", "w"], ["s"]),
        NODE("Add", ["s", "a"], ["m"]),
        NODE("Softmax", ["m"], ["p"], axis=-1),
        NODE("MatMul", ["p", "v"], ["y"]),
    ]
    random = np.random.default_rng(0)
    stored = {"zero": 0.0, "one": 1.0, "low": np.finfo(np.float32).min}
    stored |= {name: 0.1 * random.standard_normal((8, 8)) for name in ("w", "v")}
    value = helper.make_tensor_value_info
    net = model_of(
        nodes,
        [tensor(name, np.asarray(array, np.float32)) for name, array in stored.items()],
        inputs=[value("x", FLOAT, ["n", 8]), value("mask", TensorProto.INT64, [1, 8])],
        outputs=[value("y", FLOAT, ["n", 8])],
    )
    onnx.save(net, tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to=to)
    assert {"Add", "Softmax"} <= {node.operator for node in report.kept}
    assert report.cast_nodes >= 2, "the products are still cast"
    if to == "fp16":
        feeds = {"x": np.ones((2, 8), np.float32), "mask": np.zeros((1, 8), np.int64)}
        found = ReferenceEvaluator(str(tmp_path / "c.onnx")).run(None, feeds)[0]
        assert found == pytest.approx(np.tile(stored["v"].mean(0), (2, 1)), abs=2e-3)


def test_a_choice_by_a_sum_is_no_large_number(tmp_path):
    """The sum of 512 values may overflow fp16; whether it is positive only says which value is taken."""
    steps = [
        NODE("ReduceSum", ["h", "ax"], ["t"]),
        NODE("Greater", ["t", "eps"], ["c"]),
        NODE("Tanh", ["h"], ["a"]),
        NODE("Where", ["c", "h", "a"], ["z"]),
    ]
    onnx.save(normed(*steps), tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")
    assert {node.operator for node in report.kept} == {"ReduceSum", "Greater"}


def branched(*, outside):
    value = helper.make_tensor_value_info
    bodies = {
        f"{side}_branch": helper.make_graph(
            [NODE("MatMul", ["x", side], [f"{side}_y"])], side, [], [value(f"{side}_y", FLOAT, ["n", 16])]
        )
        for side in ("then", "else")
    }
    random = np.random.default_rng(0)
    weights = [tensor(side, random.standard_normal((16, 16)).astype(np.float32)) for side in ("then", "else")]
    nodes = [NODE("If", ["u"], ["z" if outside else "y"], **bodies)]
    if outside:
        nodes.append(NODE("Relu", ["z"], ["y"]))
    return model_of(
        nodes,
        weights,
        inputs=[value("x", FLOAT, ["n", 16]), value("u", TensorProto.BOOL, [])],
        outputs=[value("y", FLOAT, ["n", 16])],
    )


def test_nodes_of_bodies_are_named_and_counted(tmp_path, capsys):
    onnx.save(branched(outside=True), tmp_path / "m.onnx")
    assert main(["cast", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "c.onnx")]) == 0
    said = capsys.readouterr().out
    assert "1 node computes in fp16, 2 stay in fp32" in said
    assert "it stands in a body of If" in said


def test_a_model_that_is_one_if_says_where_its_nodes_stand(tmp_path):
    onnx.save(branched(outside=False), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"MatMul 'MatMul#0' stays, since it stands in a body of If.*1 more"):
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")


def test_a_gru_stays_out_of_bf16(tmp_path):
    random = np.random.default_rng(0)
    shapes = {"w": (1, 96, 16), "r": (1, 96, 32)}
    weights = [tensor(n, random.standard_normal(s).astype(np.float32)) for n, s in shapes.items()]
    value = helper.make_tensor_value_info
    net = model_of(
        [NODE("GRU", ["x", "w", "r"], ["y"], hidden_size=32)],
        weights,
        inputs=[value("x", FLOAT, [6, 2, 16])],
        outputs=[value("y", FLOAT, [6, 1, 2, 32])],
    )
    onnx.save(net, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"GRU 'GRU#0' stays, since TensorRT for RTX 1.7 refuses it in bf16"):
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to="bf16")
    assert not (tmp_path / "c.onnx").exists()
