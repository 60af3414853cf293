"""cast: what is cast, what stays in fp32 and why, that nothing is cast twice, that zeros stay, what is refused."""

import json
import tracemalloc

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import nm2trt
from nm2trt.cli import main
from nm2trt.errors import InputError, ModelError
from nm2trt.graph.cast.cast_rules import KEEP, LOW, low_slots
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.storage.tensors import read_tensor
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.qdq_nets import NODE, Builder, residual_net, samples, transformer_net

FLOAT, HALF, BF16 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16


def cast(model, tmp_path, **arguments):
    onnx.save(model, tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", **arguments)
    return report, onnx.load(tmp_path / "c.onnx")


def types_of(model):
    """Return the element type of every value, inferred in strict mode, which a wrong type makes fail."""
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True)
    values = [*inferred.graph.value_info, *inferred.graph.input, *inferred.graph.output]
    return {
        **{value.name: value.type.tensor_type.elem_type for value in values},
        **{tensor.name: tensor.data_type for tensor in model.graph.initializer},
    }


def run(model, feeds):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def casts(model):
    return [node for node in model.graph.node if node.op_type == "Cast"]


def test_inputs_and_outputs_keep_their_type_and_everything_between_is_fp16(tmp_path):
    report, model = cast(residual_net(), tmp_path)
    types = types_of(model)
    assert types.pop("x") == types.pop("y") == FLOAT
    assert set(types.values()) == {HALF}
    assert [node.input[0] for node in casts(model)] == ["x", "y_fp16"]
    assert (report.casts, report.cast_nodes, report.kept) == (2, 16, ())
    feeds = {"x": samples()}
    assert run(model, feeds)[0] == pytest.approx(run(residual_net(), feeds)[0], rel=0.02, abs=0.02)


def test_weights_are_rounded_to_nearest(tmp_path):
    _, model = cast(residual_net(), tmp_path)
    before = {t.name: onnx.numpy_helper.to_array(t) for t in residual_net().graph.initializer}
    for tensor in model.graph.initializer:
        assert np.array_equal(onnx.numpy_helper.to_array(tensor), before[tensor.name].astype(np.float16))


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("to", LOW)
def test_weights_in_a_data_file_are_cast_into_one(tmp_path, to, apart):
    model = residual_net()
    before = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=apart, location="w.data", size_threshold=0)
    nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to=to)
    assert (tmp_path / "c.onnx.data").exists() == apart
    for tensor in load(tmp_path / "c.onnx").proto.graph.initializer:
        found = read_tensor(tensor, tmp_path)
        assert found.tobytes() == before[tensor.name].astype(LOW[to].dtype).tobytes()


def test_a_large_weight_is_cast_by_pieces(tmp_path):
    size = (4096, 2048)
    weight = TensorProto(name="w", data_type=FLOAT, dims=size, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "w.data"), ("offset", "0"), ("length", str(4 * size[0] * size[1]))):
        weight.external_data.add(key=key, value=value)
    np.full(size, 0.1, np.float32).tofile(tmp_path / "w.data")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "large",
        [helper.make_tensor_value_info("x", FLOAT, [1, size[0]])],
        [helper.make_tensor_value_info("y", FLOAT, [1, size[1]])],
        [weight],
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "m.onnx")
    tracemalloc.start()
    try:
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", compare=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 0.75 * 4 * size[0] * size[1]  # the weight in float32 alone would be more
    assert set(np.fromfile(tmp_path / "c.onnx.data", np.float16)) == {np.float16(0.1)}


def test_norms_stay_in_fp32_with_one_cast_before_and_one_behind(tmp_path):
    report, model = cast(transformer_net(), tmp_path)
    types = types_of(model)
    assert [(node.node, node.operator) for node in report.kept] == [("norm", "LayerNormalization")]
    assert types["g"] == FLOAT
    norm = next(node for node in model.graph.node if node.op_type == "LayerNormalization")
    assert types[norm.input[0]] == types["norm"] == FLOAT
    assert len(casts(model)) == 4


@pytest.mark.parametrize("to", LOW)
@pytest.mark.parametrize("net", [residual_net, transformer_net])
def test_no_value_is_cast_twice_to_one_type_nor_there_and_back(tmp_path, net, to):
    _, model = cast(net(), tmp_path, to=to, keep=["Relu"])
    pairs = [(node.input[0], node.attribute[0].i) for node in casts(model)]
    assert len(pairs) == len(set(pairs))
    made = {node.output[0] for node in casts(model)}
    outputs = {value.name for value in model.graph.output}
    assert not [node for node in casts(model) if node.input[0] in made and node.output[0] not in outputs]


def test_bf16_is_compared_by_rounding_every_value(tmp_path):
    report, model = cast(transformer_net(), tmp_path, to="bf16")
    assert "each value rounded to bf16" in report.comparison
    assert 1e-4 < report.differences[0].max_relative < 0.05
    stored = {t.name: read_tensor(t, None) for t in model.graph.initializer}
    wanted = {t.name: onnx.numpy_helper.to_array(t) for t in transformer_net().graph.initializer}
    assert np.array_equal(stored["w1"], wanted["w1"].astype(ml_dtypes.bfloat16))


def test_what_held_holds_and_the_lineage_says_so(tmp_path):
    report, _ = cast(residual_net(), tmp_path)
    rows = verify_model(tmp_path / "c.onnx").weights
    assert [(row.pattern, row.dtype) for row in rows] == [("holds", "float16")] * 6
    assert all(row.eligible == "yes" for row in rows)
    assert report.relation == "equal"
    assert read_lineage(load(tmp_path / "c.onnx").proto)[-1].stage == "cast fp16"


def with_weight(array):
    b = Builder()
    w = b.constant("w", array.astype(np.float32))
    return b.model(b.node("MatMul", ["x", w], "y"), shape=("n", 4))


def test_small_weights_that_become_zero_are_counted_and_the_masks_a_subset(tmp_path):
    array = np.ones((4, 4))
    array[0, 0], array[1, 1], array[2, 2] = 1e-9, 3e-6, 6.2e-5
    report, _ = cast(with_weight(array), tmp_path)
    (tensor,) = report.tensors
    assert (tensor.name, tensor.lost, tensor.subnormal, tensor.overflow, tensor.size) == ("w", 1, 1, 0, 16)
    assert report.relation == "subset"


def test_a_weight_that_overflows_stays_in_fp32(tmp_path):
    array = np.ones((4, 4))
    array[3, 3] = 7e4
    b = Builder()
    w = b.constant("w", array.astype(np.float32))
    b.node("Relu", [b.node("MatMul", ["x", w], "m")], "r")
    report, _ = cast(
        b.model(b.node("MatMul", ["r", b.weight("v", 4, 4)], "y"), shape=("n", 4)), tmp_path, compare=False
    )
    (tensor,) = report.tensors
    assert (tensor.overflow, tensor.cast, tensor.largest) == (1, False, 7e4)
    assert {node.node: "overflows" in node.reason for node in report.kept} == {"m": True, "r": True}


def test_a_small_constant_that_would_vanish_stays(tmp_path):
    b = Builder()
    total = b.node("Add", ["x", b.constant("eps", np.array(1e-12, np.float32))], "a")
    report, model = cast(
        b.model(b.node("MatMul", [total, b.weight("w", 4, 4)], "y"), shape=("n", 4)), tmp_path
    )
    assert [node.node for node in report.kept] == ["a"]
    assert types_of(model)["eps"] == FLOAT


def held_by_attribute(b):
    b.nodes.append(NODE("Constant", [], ["eps"], "c", value_float=1e-12))
    return "eps"


def behind(operator, *more):
    def make(b):
        inputs = [b.constant("stored", np.array(1e-12, np.float32)), *(b.constant("axes", a) for a in more)]
        return b.node(operator, inputs, "eps")

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda b: b.constant("eps", np.array(1e-12, np.float32)), id="stored"),
        pytest.param(held_by_attribute, id="value_float"),
        pytest.param(behind("Identity"), id="Identity"),
        pytest.param(behind("Unsqueeze", np.array([0])), id="Unsqueeze"),
    ],
)
def test_an_epsilon_under_a_root_holds_for_all_who_read_it(tmp_path, make):
    b = Builder()
    eps = make(b)
    zero = b.node("Mul", ["x", b.constant("zero", np.array(0, np.float32))], "zeros")
    ends = []
    for i in "01":
        root = b.node("Sqrt", [b.node("Add", [zero, eps], f"sum{i}")], f"root{i}")
        ends.append(b.node("Div", [zero, root], f"div{i}"))
    last = b.node("Add", [b.node("Add", ends, "both"), "x"], "all")
    model = b.model(b.node("MatMul", [last, b.weight("w", 4, 4)], "y"), shape=("n", 4))
    report, out = cast(model, tmp_path)
    assert {"sum0", "sum1", "root0", "root1"} <= {node.node for node in report.kept}
    feeds = {"x": samples(shape=(4,))}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.02, abs=0.02)


@pytest.mark.parametrize(
    ("floor", "eps", "opset", "inverse"),
    [
        pytest.param("Add", 1e-9, 18, ["Reciprocal"], id="reciprocal"),
        pytest.param(
            "Add", 1e-6, 18, ["Reciprocal"], id="an epsilon that fp16 holds, and not its reciprocal"
        ),
        pytest.param("Max", 1e-12, 18, ["Sqrt", "Reciprocal"], id="reciprocal of a root"),
        pytest.param("Add", 1e-12, 18, ["Pow"], id="power"),
        pytest.param("Add", 1e-6, 18, ["one over", "Reshape"], id="one over it, reshaped"),
        pytest.param("Clip", 1e-12, 18, [], id="clip"),
        pytest.param("Clip", 1e-12, 10, [], id="clip by attributes"),
        pytest.param("Add", 1e-20, 18, ["Sqrt"], id="root that is zero too"),
    ],
)
def test_nothing_divided_by_an_epsilon_stays_nothing(tmp_path, floor, eps, opset, inverse):
    b = Builder()
    stored = {"min": eps, "max": 3e38} if opset == 10 else {}
    more = [] if stored else [b.constant("eps", np.array(eps, np.float32))]
    last = b.node(floor, ["x", *more], "floor", **stored)
    for number, step in enumerate(inverse):
        if step == "one over":
            read = [b.constant("one", np.array(1, np.float32)), last]
        elif step == "Pow":
            read = [last, b.constant("e", np.array(-0.5, np.float32))]
        else:
            read = [last, *([b.constant("shape", np.array([0, 4]))] if step == "Reshape" else [])]
        last = b.node("Div" if step == "one over" else step, read, f"step{number}")
    divides = not inverse or inverse == ["Sqrt"]
    quotient = b.node("Div" if divides else "Mul", ["x", last], "quotient")
    model = b.model(b.node("MatMul", [quotient, b.weight("w", 4, 4)], "y"), (2, 4), opset)
    _, out = cast(model, tmp_path, compare=False)
    assert types_of(out)["w"] == HALF
    zeros = np.zeros((2, 4), np.float32)
    assert np.array_equal(ReferenceEvaluator(out).run(None, {"x": zeros})[0], zeros)


def test_the_epsilon_of_a_norm_keeps_nothing_after_it_in_fp32(tmp_path):
    b = Builder()
    b.nodes.append(
        NODE(
            "LayerNormalization", ["x", b.constant("s", np.ones(4, np.float32))], ["n"], "norm", epsilon=1e-12
        )
    )
    turned = b.node("Transpose", [b.node("Transpose", ["n"], "turned")], "back")
    product = b.node("MatMul", [turned, b.weight("w", 4, 4)], "product")
    model = b.model(b.node("Add", [product, "n"], "y"), (2, 4), 17)
    report, _ = cast(model, tmp_path, compare=False)
    assert [node.node for node in report.kept] == ["norm"]


@pytest.mark.parametrize("power", [-30, 30])
def test_powers_of_an_epsilon_beyond_any_type_are_followed_without_a_warning(tmp_path, recwarn, power):
    b = Builder()
    floor = b.node("Add", ["x", b.constant("eps", np.array(1e-30, np.float32))], "floor")
    raised = b.node("Pow", [floor, b.constant("e", np.array(power, np.float32))], "raised")
    over = b.node("Reciprocal", [raised], "over")
    model = b.model(b.node("MatMul", [b.node("Mul", ["x", over], "m"), b.weight("w", 4, 4)], "y"), (2, 4), 18)
    report, _ = cast(model, tmp_path, compare=False)
    assert {"floor", "raised", "over", "m"} <= {node.node for node in report.kept}
    assert not recwarn.list


def test_a_large_number_in_an_attribute_stays_in_fp32(tmp_path):
    b = Builder()
    b.nodes.append(NODE("Constant", [], ["k"], "c", value_floats=[7e4] * 4))
    back = b.node("Relu", [b.node("Div", [b.node("Mul", ["x", "k"], "m"), "k"], "d")], "r")
    model = b.model(b.node("MatMul", [back, b.weight("w", 4, 4)], "y"), shape=("n", 4))
    report, _ = cast(model, tmp_path)
    assert [node.node for node in report.kept] == ["m", "d", "r"]
    assert [(t.name, t.overflow, t.cast) for t in report.tensors] == [("k", 4, False)]


def growing():
    b = Builder()
    large = b.node("Mul", ["x", b.constant("k", np.array(6e4, np.float32))], "large")
    small = b.node("Mul", [large, b.constant("l", np.array(1e-3, np.float32))], "small")
    return b.model(b.node("MatMul", [small, b.weight("w", 4, 4)], "y"), shape=("n", 4))


def test_values_that_calibration_shows_to_overflow_stay(tmp_path):
    np.savez(tmp_path / "x.npz", x=samples(shape=(4,)))
    report, model = cast(growing(), tmp_path, calib=tmp_path / "x.npz")
    largest = np.abs(samples(shape=(4,))).max() * 6e4
    assert report.overflowing == {"large": pytest.approx(largest, rel=1e-6)}
    assert {node.node for node in report.kept} == {"large", "small"}
    feeds = {"x": samples(shape=(4,))}
    assert np.isfinite(run(model, feeds)[0]).all()


def test_nodes_and_operators_are_kept_by_name(tmp_path):
    report, _ = cast(residual_net(), tmp_path, keep=["stem*", "Gemm"])
    assert [node.node for node in report.kept] == ["stem", "stem.relu", "y"]


def test_a_tensor_that_both_sides_read_is_stored_in_both_types(tmp_path):
    b = Builder()
    w = b.weight("w", 4, 4)
    report, model = cast(
        b.model(b.node("MatMul", [b.node("MatMul", ["x", w], "m"), w], "y"), shape=("n", 4)),
        tmp_path,
        keep=["m"],
    )
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    assert stored == {"w": FLOAT, "w_fp16": HALF}
    assert report.casts == 2


def test_casts_of_the_file_lead_straight_to_the_lower_type(tmp_path):
    b = Builder()
    b.nodes.append(NODE("Cast", ["x"], ["i"], "to_int", to=TensorProto.INT32))
    b.nodes.append(NODE("Cast", ["i"], ["f"], "to_float", to=FLOAT))
    _, model = cast(b.model(b.node("MatMul", ["f", b.weight("w", 4, 4)], "y"), shape=("n", 4)), tmp_path)
    assert [(node.input[0], node.attribute[0].i) for node in casts(model)] == [
        ("x", TensorProto.INT32),
        ("i", HALF),
        ("y_fp16", FLOAT),
    ]


def listed(model, ir_version):
    """List every weight as an input too."""
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        model.graph.input.append(value)
    model.ir_version = ir_version
    return model


@pytest.mark.parametrize("ir_version", [3, 10])
def test_weights_that_are_inputs_too(tmp_path, ir_version):
    model = listed(with_weight(np.eye(4)), ir_version)
    _, out = cast(model, tmp_path)
    stored = {tensor.name: tensor.data_type for tensor in out.graph.initializer}
    # From IR 4 on a caller may put another weight in its place, which would be float32.
    assert stored == {"w": HALF if ir_version == 3 else FLOAT}
    assert {value.name: value.type.tensor_type.elem_type for value in out.graph.input} == {
        "x": FLOAT,
        **stored,
    }
    feeds = {"x": samples(shape=(4,))}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.01, abs=0.01)


def test_a_cast_of_the_file_to_fp32_behind_an_fp16_node_is_passed_by(tmp_path):
    """As in the norms of T5, whose embedding becomes fp16 while the square of what it gives stays fp32."""
    b = Builder()
    b.constant("square", np.float32(2))
    rows = b.node("MatMul", ["x", b.weight("w", 8, 8, axis=0)], "rows")
    wide = b.node("Cast", [rows], "wide", to=TensorProto.FLOAT)
    power = b.node("Pow", [wide, "square"], "power")
    b.node("Add", [wide, b.node("Sqrt", [power], "root")], "y")
    path = tmp_path / "m.onnx"
    onnx.save(b.model("y", shape=(2, 8)), path)
    nm2trt.cast(path, tmp_path / "c.onnx")
    written = onnx.load(tmp_path / "c.onnx")
    made = {out: node for node in written.graph.node for out in node.output}
    assert [made[node.input[0]].op_type for node in written.graph.node if node.op_type == "Pow"] == ["Cast"]
    add = next(node for node in written.graph.node if node.op_type == "Add")
    assert made[add.input[0]].op_type == "MatMul"


def test_inputs_and_outputs_are_cast_where_asked(tmp_path):
    report, model = cast(residual_net(), tmp_path, io=True)
    assert {types_of(model)["x"], types_of(model)["y"]} == {HALF}
    assert (report.casts, len(casts(model))) == (0, 0)
    _, model = cast(residual_net(), tmp_path, io=True, keep=["stem", "y"])
    assert {types_of(model)["x"], types_of(model)["y"]} == {HALF}
    assert run(model, {"x": samples().astype(np.float16)})[0].dtype == np.float16


def test_an_output_that_nodes_read_too_has_one_cast(tmp_path):
    b = Builder()
    middle = b.node("Relu", [b.conv("x", "c", 8, 8)], "r")
    kept = b.node("Exp", [middle], "e")
    model = b.model(b.node("Add", [b.conv(middle, "d", 8, 8), kept], "y"), more=["r"])
    _, out = cast(model, tmp_path)
    types = types_of(out)
    assert {types["y"], types["r"], types["e"]} == {FLOAT}
    assert [node.input[0] for node in casts(out)].count("r_fp16") == 1
    feeds = {"x": samples()}
    for one, other in zip(run(out, feeds), run(model, feeds), strict=True):
        assert one == pytest.approx(other, rel=0.05, abs=0.05)


def test_what_a_body_reads_stays_float32(tmp_path):
    b = Builder()
    inner = b.conv("x", "c", 8, 8)
    body = helper.make_graph([NODE("Neg", [inner], ["n"], "neg")], "body", [], [helper.make_tensor_value_info("n", FLOAT, None)])  # fmt: skip
    b.constant("yes", np.array(True))
    b.nodes.append(NODE("If", ["yes"], ["y"], "if", then_branch=body, else_branch=body))
    model = b.model("y")
    _, out = cast(model, tmp_path)
    feeds = {"x": samples()}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.01, abs=0.02)


def test_a_model_whose_body_reads_an_input_keeps_its_type(tmp_path):
    b = Builder()
    value = helper.make_tensor_value_info("n", FLOAT, None)
    body = helper.make_graph([NODE("Neg", ["x"], ["n"], "neg")], "body", [], [value])
    b.constant("yes", np.array(True))
    b.nodes.append(NODE("If", ["yes"], ["z"], "if", then_branch=body, else_branch=body))
    model = b.model(b.conv("z", "y", 8, 8))
    _, out = cast(model, tmp_path, io=True)
    assert (types_of(out)["x"], types_of(out)["y"]) == (FLOAT, HALF)
    feeds = {"x": samples()}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.01, abs=0.02)


def test_what_a_loop_or_a_scan_carries_stays_float32(tmp_path):
    def value(name, kind=FLOAT, shape=(8,)):
        return helper.make_tensor_value_info(name, kind, shape)

    b = Builder()
    for name, number in (("n", np.int64(3)), ("yes", np.array(True))):
        b.constant(name, number)
    looped = helper.make_graph(
        [NODE("Identity", ["go"], ["on"]), NODE("Neg", ["c"], ["d"])],
        "loop",
        [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("c", FLOAT, [4, 8])],
        [value("on", TensorProto.BOOL, []), value("d", FLOAT, [4, 8])],
    )
    scanned = helper.make_graph(
        [NODE("Add", ["s", "e"], ["t"]), NODE("Identity", ["t"], ["o"])],
        "scan",
        [value("s"), value("e")],
        [value("t"), value("o")],
    )
    b.node("MatMul", ["x", b.weight("w", 8, 8)], "a")
    b.nodes.append(NODE("Loop", ["n", "yes", "a"], ["l"], "loop", body=looped))
    start = b.constant("start", np.zeros(8, np.float32))
    scan = NODE("Scan", [start, "l"], ["f", "k"], "scan", body=scanned, num_scan_inputs=1)
    b.nodes.append(scan)
    model = b.model(b.node("MatMul", ["k", "w"], "y"), shape=(4, 8))
    _, out = cast(model, tmp_path)
    assert types_of(out)["w"] == HALF
    feeds = {"x": np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.01, abs=0.05)


def test_what_goes_through_a_sequence_stays_float32(tmp_path):
    b = Builder()
    b.node("SplitToSequence", [b.node("Relu", ["x"], "r")], "s", axis=0)
    part = b.node("SequenceAt", ["s", b.constant("at", np.int64(1))], "part")
    model = b.model(b.node("Exp", [part], "y"), shape=(2, 4), more=["r"])
    _, out = cast(model, tmp_path)
    assert types_of(out)["y"] == FLOAT
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.01)


def test_an_fp16_island_of_the_file_stays_one(tmp_path):
    b = Builder()
    b.node("Cast", [b.conv("x", "one", 8, 8)], "down", to=HALF)
    b.node("Neg", ["down"], "inside")
    model = b.model(b.conv(b.node("Cast", ["inside"], "up", to=FLOAT), "y", 8, 8))
    _, out = cast(model, tmp_path)
    types = types_of(out)
    assert {types["one"], types["inside"]} == {HALF}
    assert casts(out)[0].input[0] == "x"
    feeds = {"x": samples()}
    assert run(out, feeds)[0] == pytest.approx(run(model, feeds)[0], rel=0.02, abs=0.1)


def test_a_model_that_gives_fp16_already_is_cast_and_compared(tmp_path):
    b = Builder()
    b.conv("x", "y", 8, 8)
    b.node("Cast", ["y"], "half", to=HALF)
    model = b.model("y", more=["half"])
    model.graph.output[1].type.tensor_type.elem_type = HALF
    report, out = cast(model, tmp_path)
    assert [item.name for item in report.differences] == ["y", "half"]
    assert all(item.max_relative < 0.01 for item in report.differences)
    for one, other in zip(run(out, {"x": samples()}), run(model, {"x": samples()}), strict=True):
        assert one.dtype == other.dtype
        assert one == pytest.approx(other, rel=0.01, abs=0.05)


def test_an_input_that_is_an_output_too_has_one_type(tmp_path):
    b = Builder()
    model = b.model(b.conv("x", "y", 8, 8), more=["x"])
    _, out = cast(model, tmp_path, io=True)
    assert {v.type.tensor_type.elem_type for v in [*out.graph.input, *out.graph.output]} == {HALF}


def test_a_quantised_model_is_cast_around_its_pairs(tmp_path):
    onnx.save(residual_net(opset=19), tmp_path / "f.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    nm2trt.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", calib=tmp_path / "x.npz")
    report, model = cast(onnx.load(tmp_path / "q.onnx"), tmp_path)
    assert len(casts(model)) == 2
    rows = verify_model(tmp_path / "c.onnx").weights
    assert {(row.pattern, row.dtype) for row in rows} == {("holds", "int8")}
    assert report.differences[0].max_relative < 0.05


def test_a_resize_keeps_its_scales(tmp_path):
    b = Builder()
    scales = b.constant("scales", np.array([1, 1, 2, 2], np.float32))
    _, model = cast(b.model(b.node("Resize", ["x", "", scales], "y")), tmp_path)
    assert types_of(model)["scales"] == FLOAT


@pytest.mark.parametrize("to", LOW)
@pytest.mark.parametrize("net", [residual_net, transformer_net])
def test_tensorrt_for_rtx_builds_it_strongly_typed(tmp_path, net, to):
    pytest.importorskip("tensorrt_rtx")
    cast(net(), tmp_path, to=to)
    assert main(["build", str(tmp_path / "c.onnx"), "--target", "sm80", "-o", str(tmp_path / "c.rtx")]) == 0


def test_every_operator_of_the_list_exists_and_could_be_cast():
    for operator, (reason, types) in KEEP.items():
        assert reason
        schema = onnx.defs.get_schema(operator)
        names = [item.name for item in schema.inputs]
        node = helper.make_node(operator, names, [item.name for item in schema.outputs])
        for name in types:
            found = low_slots(node, onnx.defs.onnx_opset_version(), LOW[name])
            assert found is not None, operator
            assert found[0], operator


def half_net():
    value = helper.make_tensor_value_info
    weight = onnx.numpy_helper.from_array(np.ones((4, 4), np.float16), "w")
    sized = [value(name, TensorProto.FLOAT16, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([NODE("MatMul", ["x", "w"], ["y"])], "g", sized[:1], sized[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(
    ("make", "arguments", "kind", "words"),
    [
        pytest.param(residual_net, {"to": "fp8"}, InputError, "cannot cast to 'fp8'; choose fp16 or bf16", id="type"),
        pytest.param(residual_net, {"keep": ["no*"]}, InputError, r"'no\*' matches no node and no operator", id="glob"),
        pytest.param(residual_net, {"keep": ["*"]}, ModelError, "no float32 node to cast", id="all-kept"),
        pytest.param(lambda: Builder().model("x"), {}, ModelError, "no float32 node to cast", id="empty"),
        pytest.param(half_net, {"to": "bf16"}, ModelError, "no float32 node to cast to bf16: it computes in float16", id="fp16"),
        pytest.param(lambda: with_weight(np.ones((4, 4))), {"calib": "none.npz"}, InputError, "none.npz does not exist", id="samples"),
        pytest.param(lambda: residual_net(opset=12), {"to": "bf16"}, ModelError, "opset 12; bf16 needs opset 13", id="opset"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, make, arguments, kind, words):
    with pytest.raises(kind, match=words):
        cast(make(), tmp_path, **arguments)
    assert not (tmp_path / "c.onnx").exists()


def test_scales_of_an_old_opset_are_refused(tmp_path):
    onnx.save(residual_net(), tmp_path / "f.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    nm2trt.quantize(tmp_path / "f.onnx", tmp_path / "q.onnx", calib=tmp_path / "x.npz")
    with pytest.raises(ModelError, match="quantised in opset 18, whose scales are float32 only"):
        cast(onnx.load(tmp_path / "q.onnx"), tmp_path)


@pytest.mark.parametrize("opset", [18, 28])
@pytest.mark.parametrize("to", ["bf16", "fp16"])
def test_operators_that_the_opset_does_not_let_compute_in_the_type_are_named(opset, to, tmp_path):
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    nodes = [
        helper.make_node("Einsum", ["x", "w"], ["h"], equation="ij,jk->ik"),
        helper.make_node("Softplus", ["h"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["y"]),
    ]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", made[:1], made[1:], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    report, file = cast(model, tmp_path, to=to)
    if (opset, to) == (18, "bf16"):
        assert report.notes[0].startswith("opset 18 names no bf16 for Einsum, Softplus: TensorRT reads it")
        with pytest.raises(onnx.shape_inference.InferenceError):
            onnx.shape_inference.infer_shapes(file, check_type=True, strict_mode=True)
    else:
        assert report.notes == ()
        onnx.shape_inference.infer_shapes(file, check_type=True, strict_mode=True)


def test_the_command_prints_what_was_done(tmp_path, capsys):
    onnx.save(transformer_net(), tmp_path / "m.onnx")
    assert main(["cast", str(tmp_path / "m.onnx"), "--to", "bf16"]) == 0
    captured = capsys.readouterr()
    assert "LayerNormalization" in captured.out
    assert "it sums squares" in captured.out
    assert "8 nodes compute in bf16, 1 stays in fp32; 4 casts added; masks: equal" in captured.out
    assert "names no bf16" not in captured.err
    assert main(["cast", str(tmp_path / "m.onnx"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"] == "fp16"
