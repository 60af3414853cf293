"""quantize: where pairs stand, what the numbers are, that zeros stay, and what is refused."""

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.backends.ort import OrtSession
from nm2trt.cli import main
from nm2trt.errors import DataError, DifferenceError, InputError, ModelError
from nm2trt.graph.analysis import shapes
from nm2trt.graph.quantize.number_formats import FORMATS, quantise_weight, scale_for
from nm2trt.graph.storage.model import load, metadata
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.storage.tensors import read_tensor
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry
from tests.graph.qdq_nets import NODE, Builder, every_value, residual_net, samples, transformer_net


@pytest.fixture
def folder(tmp_path):
    onnx.save(residual_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(), labels=np.zeros(12, np.int64))
    return tmp_path


def quantise(folder, **arguments):
    arguments = {"calib": folder / "x.npz", "output": folder / "q.onnx", **arguments}
    return nm2trt.quantize(folder / "m.onnx", **arguments)


def tensors(path):
    model = load(path)
    return {t.name: read_tensor(t, model.root) for t in model.proto.graph.initializer}


def readers(path, value):
    return sorted(node.op_type for node in load(path).proto.graph.node if value in node.input)


def test_every_layer_is_int8_in_and_out_but_the_last_which_leaves_the_model(folder):
    report = quantise(folder)
    assert all(layer.quantised for layer in report.layers)
    assert [(island.consumer, island.code) for island in report.islands] == [("y", "output-float")]


def test_pairs_stand_behind_kernels_and_not_inside(folder):
    report = quantise(folder)
    # "two" goes into the residual Add with its kernel; "one" and "stem" end behind their Relu.
    assert list(report.scales) == ["x", "stem.relu", "one.relu", "sum.relu", "left.relu", "pool", "joined", "last", "flat"]  # fmt: skip
    assert readers(folder / "q.onnx", "two") == ["Add"]
    assert readers(folder / "q.onnx", "stem.relu") == ["QuantizeLinear"]
    assert readers(folder / "q.onnx", "last") == ["QuantizeLinear"]


def test_what_a_concat_joins_and_what_is_only_moved_share_a_scale(folder):
    scales = quantise(folder).scales
    assert scales["left.relu"] == scales["joined"] == scales["pool"] == scales["sum.relu"]
    assert scales["x"] != scales["stem.relu"]


def test_scales_are_the_largest_magnitude_over_127(folder):
    report = quantise(folder, batch=5)
    reached = every_value(residual_net(), {"x": samples()})
    for value in ("x", "stem.relu", "one.relu", "last", "flat"):
        largest = np.abs(reached[value]).max()
        assert report.scales[value] == pytest.approx(largest / 127, rel=1e-5), value
    shared = max(np.abs(reached[v]).max() for v in ("left.relu", "sum.relu", "joined", "pool"))
    assert report.scales["joined"] == pytest.approx(shared / 127, rel=1e-5)


def test_weights_are_rounded_channel_by_channel(folder):
    quantise(folder)
    before, after = tensors(folder / "m.onnx"), tensors(folder / "q.onnx")
    for name in ("stem.weight", "two.weight", "fc.weight"):
        assert after[name].dtype == np.int8
        for channel, scale in enumerate(after[f"{name}_scale"]):
            exact = before[name][channel] / scale
            assert np.abs(exact - after[name][channel]).max() <= 0.5001
            assert np.abs(after[name][channel]).max() == 127
        assert not after[f"{name}_zero_point"].any()
        assert not after[name][before[name] == 0].any()


def test_what_held_holds_in_the_integer_domain(folder):
    before = {row.weight: row for row in verify_model(folder / "m.onnx").weights}
    report = quantise(folder)
    rows = verify_model(folder / "q.onnx").weights
    assert [row.weight for row in rows] == list(before)
    for row in rows:
        assert (row.pattern, row.dtype) == (before[row.weight].pattern, "int8")
        assert row.eligible == ("no" if row.consumer == "y" or row.pattern != "holds" else "yes")
    entry = read_lineage(load(folder / "q.onnx").proto)[-1]
    assert (entry.stage, entry.parent, entry.child) == ("quantize int8", report.parent_mask_sha256, report.mask_sha256)  # fmt: skip


def test_outputs_are_near_the_float_models(folder):
    (item,) = quantise(folder).differences
    assert item.name == "y"
    assert 0 < item.max_relative < 0.05
    assert item.cosine > 0.999


def test_outputs_are_compared_in_the_order_of_the_model(folder):
    model = onnx.load(folder / "m.onnx")
    for name in "fdbace":
        given = model.graph.output[0]
        model.graph.node.append(NODE("Sigmoid", [given.name], [name], name))
        model.graph.output.append(given)
        model.graph.output[-1].name = name
    onnx.save(model, folder / "m.onnx")
    names = [output.name for output in model.graph.output]
    assert [item.name for item in quantise(folder).differences] == names


def test_weights_may_stay_float_behind_a_pair(folder):
    quantise(folder, float_weights=True)
    after = tensors(folder / "q.onnx")
    assert after["one.weight"].dtype == np.float32
    assert all(
        row.eligible == "yes" for row in verify_model(folder / "q.onnx").weights if row.consumer != "y"
    )


@pytest.mark.parametrize("float_weights", [False, True])
def test_convolutions_of_quantised_weights_name_their_kernels_shape(folder, float_weights):
    # ONNX lets a reader infer it; the parser of TensorRT 8.6 compares an unset one with the weight and refuses.
    convolutions = [node for node in residual_net().graph.node if node.op_type == "Conv"]
    assert not any(a.name == "kernel_shape" for node in convolutions for a in node.attribute)
    quantise(folder, float_weights=float_weights)
    after = load(folder / "q.onnx")
    weights, seen = tensors(folder / "q.onnx"), 0
    made_by = {node.output[0]: node for node in after.proto.graph.node}
    for node in after.proto.graph.node:
        source = made_by.get(node.input[1]) if node.op_type == "Conv" else None
        if source is None:
            continue
        while source.input[0] in made_by:
            source = made_by[source.input[0]]
        (shape,) = [list(a.ints) for a in node.attribute if a.name == "kernel_shape"]
        assert shape == list(weights[source.input[0]].shape[2:])
        seen += 1
    assert seen == len(convolutions)


def test_excluded_layers_stay_float_and_are_listed_as_islands(folder):
    report = quantise(folder, exclude=["stem", "fc.*"])
    left = {layer.layer: layer.reason for layer in report.layers if not layer.quantised}
    assert left == {"stem": "excluded by 'stem'", "y": "excluded by 'fc.*'"}
    islands = {island.consumer: island.code for island in report.islands}
    assert islands["stem"] == islands["y"] == "float"


def test_depthwise_convolutions_stay_float_where_asked(tmp_path):
    b = Builder()
    w, v = b.weight("w", 8, 1, 3, 3), b.weight("v", 8, 4, 1, 1)
    b.node("Conv", [b.conv("x", "plain", 8, 8), w], "depthwise", group=8, pads=[1] * 4)
    onnx.save(b.model(b.node("Conv", ["depthwise", v], "grouped", group=2)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path, float_depthwise=True)
    assert [layer.layer for layer in report.layers if not layer.quantised] == ["depthwise"]
    assert all(layer.quantised for layer in quantise(tmp_path).layers)


def test_a_sum_that_goes_on_in_float_stays_float(tmp_path):
    onnx.save(transformer_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(shape=(5, 16)))
    report = quantise(tmp_path)
    assert list(report.scales) == ["x", "r1", "a2", "norm", "m3"]
    assert not report.islands
    assert readers(tmp_path / "q.onnx", "sum") == ["LayerNormalization"]


@pytest.mark.parametrize("hiding", [-np.inf, np.finfo(np.float32).min, -1e9, -1e4])
@pytest.mark.parametrize("place", ["added", "bias"])
def test_scores_that_a_constant_hides_stay_float_and_keep_their_steps(tmp_path, place, hiding):
    b = Builder()
    flat = b.node("Flatten", ["x"], "flat")
    first = [flat, b.weight("first", 288, 32, axis=0)]
    mask = b.constant("mask", np.where(np.arange(32) % 8 == 3, hiding, 0).astype(np.float32))
    if place == "added":
        near = b.node("Add", [b.node("MatMul", first, "scores"), b.constant("b", np.ones(32, "f"))], "biased")
        hidden = b.node("Add", [mask, near], "hidden")
    else:
        hidden = b.node("Gemm", [*first, mask], "hidden")
    shares = b.node("Softmax", [hidden], "shares")
    onnx.save(b.model(b.node("MatMul", [shares, b.weight("end", 32, 16, axis=0)], "y")), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path)
    # A bias is in the kernel; what is added to hide is not.
    assert list(report.scales) == ["flat", *(["biased"] if place == "added" else []), "shares"]
    assert all(layer.quantised for layer in report.layers)
    assert report.differences[0].cosine > 0.999
    islands = [(island.consumer, island.code) for island in report.islands]
    assert islands == [(name, "output-float") for name in (["hidden"] if place == "bias" else []) + ["y"]]


def test_a_weight_that_two_layers_read_is_stored_and_counted_once(tmp_path):
    b = Builder()
    w = b.weight("w", 8, 8, 1, 1)
    one = b.node("Relu", [b.node("Conv", ["x", w], "c1")], "r1")
    onnx.save(b.model(b.node("Conv", [one, w], "c2")), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path)
    stored = tensors(tmp_path / "q.onnx")["w"]
    assert stored.dtype == np.int8
    lost = np.count_nonzero(tensors(tmp_path / "m.onnx")["w"]) - np.count_nonzero(stored)
    assert f"{lost} of {stored.size} weights were rounded to zero" in str(report)
    assert all(row.pattern == "holds" for row in verify_model(tmp_path / "q.onnx").weights)


def test_a_weight_that_is_an_embedding_too_keeps_its_floats_and_the_plan_follows(tmp_path):
    b = Builder()
    table = b.weight("table", 32, 16)
    rows = b.node("Gather", [table, b.constant("ids", np.arange(3))], "rows")
    total = b.node("Add", ["x", b.node("ReduceSum", [rows], "bag", keepdims=0)], "total")
    transposed = b.node("Transpose", [table], "transposed", perm=[1, 0])
    model = b.model(b.node("MatMul", [total, transposed], "y"), shape=("n", 16))
    plan = Plan((PlanEntry("table", NMPattern(2, 4), "", (16, 32), 0),), "test")
    model.metadata_props.add(key=METADATA_KEY, value=plan.to_json())
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(shape=(16,)))
    quantise(tmp_path)
    report = verify_model(tmp_path / "q.onnx")
    assert tensors(tmp_path / "q.onnx")["table"].dtype == np.float32
    assert not report.missing
    assert [(row.weight, row.pattern, row.dtype) for row in report.weights] == [
        ("table_quantized", "holds", "int8")
    ]


def test_external_data_stays_external(folder):
    onnx.save(
        residual_net(), folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    quantise(folder)
    assert (folder / "q.onnx.data").is_file()
    assert [row.pattern for row in verify_model(folder / "q.onnx").weights].count("holds") == 6


def test_fp8_is_e4m3fn_and_keeps_the_zeros(tmp_path):
    onnx.save(residual_net(opset=19), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path, to="fp8")
    after = tensors(tmp_path / "q.onnx")
    assert after["one.weight"].dtype == ml_dtypes.float8_e4m3fn
    assert report.scales["x"] == pytest.approx(np.abs(samples()).max() / 448, rel=1e-5)
    assert [row.pattern for row in verify_model(tmp_path / "q.onnx").weights].count("holds") == 6
    assert report.differences[0].max_relative < 0.1


@pytest.mark.parametrize(("to", "opset", "target"), [("int8", 18, "sm80"), ("fp8", 19, "sm89")])
def test_tensorrt_for_rtx_builds_it(tmp_path, to, opset, target):
    pytest.importorskip("tensorrt_rtx")
    onnx.save(residual_net(opset=opset), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    quantise(tmp_path, to=to)
    options = ["--sparsity", "--target", target, "-o", str(tmp_path / "q.rtx")]
    assert main(["build", str(tmp_path / "q.onnx"), *options]) == 0


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("axis", [0, 1, None])
def test_rounding_is_to_the_nearest_number_of_the_format(form, axis):
    weight = np.random.default_rng(3).standard_normal((5, 7)).astype(np.float32)
    weight[2] = 0
    done = quantise_weight(weight, form, axis)
    scale = done.scale.reshape((-1, 1) if axis == 0 else (1, -1) if axis == 1 else ())
    grid = np.arange(-127, 128.0) if form.name == "int8" else np.arange(256, dtype=np.uint8).view(form.dtype).astype(np.float32)  # fmt: skip
    grid = grid[np.isfinite(grid)]
    gaps = np.abs(weight[..., None] / np.broadcast_to(scale, weight.shape)[..., None] - grid)
    chosen = np.abs(weight / scale - done.numbers.astype(np.float32))
    assert chosen == pytest.approx(gaps.min(-1), abs=1e-5)
    assert done.lost == np.count_nonzero((weight != 0) & (done.numbers.astype(np.float32) == 0))


def test_a_range_of_nothing_but_zeros_has_a_scale_all_the_same():
    assert scale_for(0.0, FORMATS["int8"]) == 1.0
    assert scale_for(1e-44, FORMATS["int8"]) == 1.0


def test_constant_activations_are_noted_and_give_no_nan(folder):
    np.savez(folder / "x.npz", x=np.zeros((4, 8, 6, 6), np.float32))
    report = quantise(folder)
    assert "'x' is 0 for all samples" in report.notes
    assert "all 4 samples are equal" in report.notes[-1]
    assert "over 4 samples; values that no sample reaches are cut off: give about 100" in str(report)
    assert report.scales["x"] == 1.0
    assert np.isfinite(report.differences[0].max_abs)


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_empty_values_and_layers_leave_the_scales_of_others_alone(tmp_path, method):
    b = Builder()
    ends = [b.constant(name, np.array([number])) for name, number in (("zero", 0), ("one", 1))]
    empty = b.node("Slice", ["x", ends[0], ends[0], ends[1]], "empty")
    left = b.conv("x", "left", 8, 8)
    joined = b.node("Concat", [left, empty], "joined", axis=1)
    onnx.save(b.model(b.conv(b.conv(joined, "middle", 8, 16), "last", 16, 16)), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path, method=method)
    assert len({report.scales[name] for name in ("left", "empty", "joined")}) == 1
    if method == "minmax":
        largest = np.abs(every_value(load(tmp_path / "m.onnx").proto, {"x": samples()})["left"]).max()
        assert report.scales["empty"] == pytest.approx(largest / 127, rel=1e-6)
    assert report.differences[0].cosine > 0.99


def test_a_layer_without_elements_stays_float(tmp_path):
    b = Builder()
    flat = b.node("Flatten", ["x"], "flat")
    narrow = b.node("MatMul", [flat, b.constant("narrow", np.zeros((288, 0), np.float32))], "no columns")
    wide = b.node("MatMul", [narrow, b.constant("wide", np.zeros((0, 16), np.float32))], "zeros")
    full = b.node("MatMul", [flat, b.weight("full", 288, 16, axis=0)], "numbers")
    b.node("Add", [full, wide], "sum")
    onnx.save(b.model(b.node("MatMul", ["sum", b.weight("end", 16, 16, axis=0)], "y")), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path)
    reasons = {layer.weight: layer.reason for layer in report.layers}
    assert reasons["narrow"] == "its weight of shape [288, 0] has no elements"
    assert [name for name, why in reasons.items() if not why] == ["full", "end"]


def test_each_column_of_a_matmul_has_its_scale_and_its_work_counts_as_sparse(tmp_path):
    b = Builder()
    flat = b.node("Flatten", ["x"], "flat")
    first = b.node("Relu", [b.node("MatMul", [flat, b.weight("first", 288, 32, axis=0)], "one")], "r")
    onnx.save(b.model(b.node("MatMul", [first, b.weight("end", 32, 16, axis=0)], "y")), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    work = quantise(tmp_path).work
    weights, stored = tensors(tmp_path / "m.onnx"), tensors(tmp_path / "q.onnx")
    for name in ("first", "end"):
        np.testing.assert_allclose(stored[f"{name}_scale"], np.abs(weights[name]).max(0) / 127, rtol=1e-6)
    assert (work.total, work.low, work.sparse) == (288 * 32 + 32 * 16, 288 * 32, 288 * 32)


def test_unfused_batchnorms_are_noted(tmp_path):
    b = Builder()
    norm = [b.constant(name, np.ones(8, np.float32)) for name in "gbmv"]
    onnx.save(
        b.model(b.node("BatchNormalization", [b.conv("x", "c", 8, 8), *norm], "y")), tmp_path / "m.onnx"
    )
    np.savez(tmp_path / "x.npz", x=samples())
    assert "run nm2trt fuse first" in quantise(tmp_path).notes[0]


def old_net():
    """A file of an old opset whose Squeeze has its axes as an attribute, as opset 13 no longer does."""
    b = Builder()
    wide = b.node("Unsqueeze", [b.conv("x", "c", 8, 8)], "wide", axes=[0])
    return b.model(b.node("Squeeze", [wide], "narrow", axes=[0]), opset=12)


@pytest.mark.parametrize(("factor", "passes"), [(1 + 2e-5, True), (1.01, False)])
def test_a_conversion_is_judged_before_the_sigmoid_of_outputs_near_0(folder, monkeypatch, factor, passes):
    """Outputs of 1e-20 move by much of themselves though the scores move by rounding only."""
    b = Builder()
    lower = b.node("Add", [b.conv("x", "c", 8, 8), b.constant("low", np.float32([-4000.0]))], "low scores")
    scores = b.node("Mul", [lower, b.constant("scale", np.float32([0.01]))], "scores")
    onnx.save(b.model(b.node("Sigmoid", [scores], "y"), opset=12), folder / "m.onnx")
    convert = onnx.version_converter.convert_version

    def changed(proto, version):
        made = convert(proto, version)
        scale = next(tensor for tensor in made.graph.initializer if tensor.name == "scale")
        scale.CopyFrom(onnx.numpy_helper.from_array(np.float32([0.01 * factor]), "scale"))
        return made

    monkeypatch.setattr(onnx.version_converter, "convert_version", changed)
    if passes:
        assert quantise(folder).notes[0].startswith("converted from opset 12 to 13 first; outputs moved by ")
    else:
        with pytest.raises(DifferenceError, match="where the graph was changed"):
            quantise(folder)


def unconvertible(folder):
    model = old_net()
    model.graph.node[-1].op_type = "Upsample"
    del model.graph.node[-1].attribute[:]
    onnx.save(model, folder / "m.onnx")


@pytest.mark.parametrize("old_onnx", [False, True])
def test_a_file_of_an_old_opset_is_converted_and_its_outputs_compared(folder, monkeypatch, old_onnx):
    """With onnx before 1.22 too, though a convolution says nothing of its kernel's shape."""
    monkeypatch.setattr(shapes, "_onnx_is_before_1_22", lambda: old_onnx)
    model = old_net()
    plan = Plan((PlanEntry("c.weight", NMPattern(2, 4), "", (8, 8, 1, 1), 1),), "test")
    model.metadata_props.add(key=METADATA_KEY, value=plan.to_json())
    model.metadata_props.add(key="character", value="a\nb")
    onnx.save(model, folder / "m.onnx")
    before = (folder / "m.onnx").read_bytes()
    report = quantise(folder)
    assert report.model == str(folder / "m.onnx")
    assert (folder / "m.onnx").read_bytes() == before
    assert report.notes[0].startswith("converted from opset 12 to 13 first; outputs moved by ")
    written = load(folder / "q.onnx").proto
    assert [(entry.domain, entry.version) for entry in written.opset_import] == [("", 13)]
    assert metadata(written)["character"] == "a\nb"
    assert [entry.stage for entry in read_lineage(written)] == ["convert opset 13", "quantize int8"]
    onnx.save(onnx.version_converter.convert_version(old_net(), 13), folder / "m13.onnx")
    nm2trt.quantize(folder / "m13.onnx", folder / "q13.onnx", calib=folder / "x.npz")
    x = {"x": samples()}
    first, second = (every_value(onnx.load(folder / name), x) for name in ("q.onnx", "q13.onnx"))
    np.testing.assert_array_equal(first["narrow"], second["narrow"])


def test_fp8_converts_to_its_own_opset(folder):
    assert quantise(folder, to="fp8").notes[0].startswith("converted from opset 18 to 19 first")


def twice(folder):
    quantise(folder)
    (folder / "q.onnx").rename(folder / "m.onnx")


def half(folder):
    model = onnx.load(folder / "m.onnx")
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    onnx.save(model, folder / "m.onnx")


def samples_of(**arrays):
    return lambda folder: np.savez(folder / "x.npz", **arrays)


X = samples()
BAD = np.where(np.arange(X.size).reshape(X.shape) == 70, np.nan, X).astype(np.float32)
INFINITE = np.where(np.isnan(BAD), np.float32(-np.inf), X)


@pytest.mark.parametrize(
    ("change", "arguments", "kind", "words"),
    [
        pytest.param(unconvertible, {}, ModelError, "of opset 12 and cannot be converted to opset 13: .*export it again", id="old-opset"),
        pytest.param(twice, {}, ModelError, "is quantised already: QuantizeLinear", id="twice"),
        pytest.param(half, {}, ModelError, "is float16; quantise the float32 model", id="fp16"),
        pytest.param(None, {"exclude": ["nothing*"]}, InputError, "'nothing\\*' matches no layer; the model has stem", id="glob"),
        pytest.param(None, {"exclude": ["*"]}, ModelError, "no Conv, Gemm or MatMul to quantise", id="all-excluded"),
        pytest.param(None, {"to": "int4"}, InputError, "cannot quantise to 'int4'; choose int8 or fp8", id="format"),
        pytest.param(None, {"method": "best"}, InputError, "'best' is not a calibration method; choose minmax", id="method"),
        pytest.param(None, {"method": "percentile", "percentile": 7}, InputError, "a percentile of 7", id="percentile"),
        pytest.param(None, {"calib": "one.npy"}, InputError, r"one.npy is neither an .npz nor a recipe", id="npy"),
        pytest.param(None, {"calib": "."}, InputError, r"\. is a folder; give an .npz of arrays", id="folder"),
        pytest.param(None, {"calib": "none.npz"}, InputError, "none.npz does not exist", id="missing"),
        pytest.param(samples_of(z=X), {}, DataError, r"inputs are \['x'\], the data has \['z'\]; rename 'z' to 'x'", id="names"),
        pytest.param(samples_of(x=X[:, :4]), {}, DataError, r"takes shape nx8x6x6, the samples have \(4, 4, 6, 6\)", id="shape"),
        pytest.param(samples_of(x=(X * 9).astype(np.uint8)), {}, DataError, "takes float32, the samples have uint8", id="dtype"),
        pytest.param(samples_of(x=BAD), {}, DataError, "input 'x' holds NaN$", id="nan"),
        pytest.param(samples_of(x=X[:0]), {}, DataError, "holds no sample", id="none"),
        pytest.param(samples_of(x=X, z=X[:3]), {}, DataError, "do not have one sample each", id="lengths"),
        pytest.param(samples_of(labels=X), {}, DataError, "holds no array", id="only-labels"),
        pytest.param(samples_of(x=np.full_like(X, 3e38)), {}, DataError, "is NaN or infinite in the model", id="overflow"),
        pytest.param(samples_of(x=INFINITE), {}, DataError, "^'x' is NaN or infinite in the model on these", id="infinity"),
        pytest.param(samples_of(x=INFINITE), {"method": "entropy"}, DataError, "^'x' is NaN or", id="infinity, whole"),
        pytest.param(None, {"output": "m.onnx"}, InputError, "the output m.onnx is the input", id="same"),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence_and_leaves_nothing(folder, monkeypatch, change, arguments, kind, words):
    if change is not None:
        change(folder)
    monkeypatch.chdir(folder)
    with pytest.raises(kind, match=words):
        quantise(folder, **{"output": "out.onnx", **arguments})
    assert not (folder / "out.onnx").exists()


@pytest.mark.parametrize("command", ["quantize", "cast"])
@pytest.mark.parametrize(
    ("output", "cache", "words"),
    [
        pytest.param("x.npz", "c.npz", "output x.npz is the file of samples", id="output"),
        pytest.param("q.onnx", "x.npz", "cache x.npz is the file of samples", id="samples"),
        pytest.param("q.onnx", "m.onnx", "cache m.onnx is the model", id="model"),
        pytest.param("q.onnx", "q.onnx", "cache q.onnx is the output", id="both"),
        pytest.param("q.onnx", "w.data", "w.data holds weights of m.onnx", id="weights"),
    ],
)
def test_nothing_that_is_read_is_replaced(folder, monkeypatch, capsys, command, output, cache, words):
    monkeypatch.chdir(folder)
    onnx.save(onnx.load("m.onnx"), "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    arguments = [command, "m.onnx", "--calib", "x.npz", "-o", output, "--cache", cache]
    assert main([*arguments, "--to", "int8" if command == "quantize" else "fp16"]) == 2
    assert words in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_recipe_that_names_a_missing_file_is_refused(folder, capsys):
    pytest.importorskip("pydantic")
    recipe = folder / "r.yaml"
    recipe.write_text("source: {kind: npz, path: gone.npz}\ncount: 4\ninput: x\n")
    status = main(["quantize", str(folder / "m.onnx"), "--calib", str(recipe)])
    assert status == 2
    assert "gone.npz does not exist" in capsys.readouterr().err


def test_an_interruption_leaves_a_cache_and_no_model(folder, monkeypatch, capsys):
    whole = quantise(folder, output=folder / "whole.onnx").scales
    run, batches = OrtSession.run, []

    def stopped(self, feeds):
        batches.append(feeds)
        if len(batches) == 3:
            raise KeyboardInterrupt
        return run(self, feeds)

    monkeypatch.setattr(OrtSession, "run", stopped)
    words = [
        "quantize",
        str(folder / "m.onnx"),
        "--calib",
        str(folder / "x.npz"),
        "-o",
        str(folder / "q.onnx"),
    ]
    assert main(words) == 130
    assert "stopped after 8 of 12 samples; what was found is in" in capsys.readouterr().err
    assert not (folder / "q.onnx").exists()
    assert (folder / "q.ranges.npz").is_file()
    monkeypatch.setattr(OrtSession, "run", run)
    report = quantise(folder)
    assert (report.ranges.reused, report.scales) == (8, whole)


def test_a_recipe_calibrates_like_its_arrays(folder):
    pytest.importorskip("pydantic")
    recipe = folder / "r.yaml"
    recipe.write_text("source: {kind: npz, path: x.npz}\ncount: 12\ninput: x\nbatch: 3\n")
    assert quantise(folder, calib=recipe).scales == quantise(folder).scales


def test_the_command_prints_what_was_done(folder, capsys):
    arguments = ["quantize", str(folder / "m.onnx"), "--calib", str(folder / "x.npz"), "--exclude", "stem"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "excluded by 'stem'" in printed
    assert "5 of 6 layers compute in int8, 4 of them in and out" in printed
    assert "placement was not searched; with --max-loss 2%" in printed
    assert (folder / "m.int8.onnx").is_file()
    assert main([*arguments, "--json", "-o", str(folder / "other.onnx")]) == 0
    assert json.loads(capsys.readouterr().out)["calibration"]["samples"] == 12


def test_a_body_is_left_in_float(tmp_path):
    b = Builder()
    w = b.weight("w", 8, 8, 1, 1)
    c = b.node("Conv", ["x", w], "c")
    body = helper.make_graph([NODE("Conv", ["c", w], ["inner"], "inner")], "body", [], [helper.make_tensor_value_info("inner", TensorProto.FLOAT, None)])  # fmt: skip
    b.constant("yes", np.array(True))
    b.nodes.append(NODE("If", ["yes"], ["y"], "if", then_branch=body, else_branch=body))
    onnx.save(b.model("y"), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples())
    report = quantise(tmp_path)
    assert c == "c"
    assert {layer.layer for layer in report.layers if not layer.quantised} == {"if/then_branch/inner", "if/else_branch/inner"}  # fmt: skip
    assert metadata(load(tmp_path / "q.onnx").proto)


def fixed_net(dtype=TensorProto.FLOAT):
    b = Builder()
    model = b.model(b.node("MatMul", [b.node("Relu", ["x"], "r"), b.weight("w", 4, 4)], "y"), shape=(8, 4))
    if dtype != TensorProto.FLOAT:
        model.graph.node[1].input[:] = ["r16", "w16"]
        model.graph.node[1].output[0] = "y16"
        cast = [("r", "r16", dtype), ("w", "w16", dtype), ("y16", "y", TensorProto.FLOAT)]
        nodes = [NODE("Cast", [a], [b], b, to=to) for a, b, to in cast]
        old = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend([old[0], *nodes[:2], old[1], nodes[2]])
    return model


@pytest.mark.parametrize("method", ["minmax", "percentile"])
def test_fewer_samples_than_a_fixed_batch_serve_again_from_the_cache(tmp_path, method):
    onnx.save(fixed_net(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(5, shape=(4,)))
    once, again = (quantise(tmp_path, method=method) for _ in range(2))
    assert (once.ranges.reused, again.ranges.reused) == (0, 5)
    assert again.differences[0].max_abs == pytest.approx(once.differences[0].max_abs)


def test_a_float32_weight_that_is_read_as_fp16_is_refused(tmp_path):
    onnx.save(fixed_net(TensorProto.FLOAT16), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(8, shape=(4,)))
    with pytest.raises(ModelError, match=r"y: its weight is float16; quantise the float32 model"):
        quantise(tmp_path, compare=False)
    assert not (tmp_path / "q.onnx").exists()


def test_a_weight_stored_as_fp16_is_quantised_if_its_layer_computes_in_fp32(tmp_path):
    b = Builder()
    half = b.constant("w", samples(16, shape=(16,)).astype(np.float16))
    first = b.node("MatMul", ["x", b.node("Cast", [half], "wide", to=TensorProto.FLOAT)], "first")
    low = b.node("Cast", [first], "low", to=TensorProto.FLOAT16)
    own = b.constant("own", samples(16, shape=(16,)).astype(np.float16))
    second = b.node("MatMul", [low, own], "second")
    b.node("Cast", [second], "y", to=TensorProto.FLOAT)
    onnx.save(b.model("y", shape=[None, 16]), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(12, shape=(16,)))
    report = quantise(tmp_path)
    assert [(one.weight, one.quantised) for one in report.layers] == [("w", True), ("own", False)]
    assert "its weight is float16; quantise the float32 model" in report.layers[1].reason
    assert report.differences[0].max_relative < 0.05
    stored = {t.name: t.data_type for t in onnx.load(tmp_path / "q.onnx").graph.initializer}
    assert (stored["w"], stored["own"]) == (TensorProto.INT8, TensorProto.FLOAT16)


@pytest.mark.parametrize("verb", ["quantize", "cast"])
def test_a_weight_that_stays_float_for_another_layer_keeps_its_place_in_the_plan(tmp_path, verb):
    b = Builder()
    weight = b.weight("w", 32, 32, axis=0)
    first = b.node("Relu", [b.node("MatMul", ["x", weight], "one")], "r")
    onnx.save(b.model(b.node("MatMul", [first, weight], "two"), shape=("n", 32)), tmp_path / "d.onnx")
    nm2trt.prune(tmp_path / "d.onnx", tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=samples(8, shape=(32,)))
    if verb == "quantize":
        quantise(tmp_path, exclude=["two"])
    else:
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "q.onnx", keep=["two"])
    plan = Plan.from_json(metadata(load(tmp_path / "q.onnx").proto)[METADATA_KEY])
    suffix = "quantized" if verb == "quantize" else "fp16"
    assert [entry.weight for entry in plan.sparse] == ["w", f"w_{suffix}"]


def test_counts_are_of_layers_that_are_quantised_and_carry_their_names(tmp_path, capsys):
    """A ConvTranspose stays float; unnamed layers are called by positions, which pairs in front shift."""
    random = np.random.default_rng(0)
    shapes = {"wt": (16, 16, 2, 2), "w": (16, 16, 1, 1), "u": (16, 16, 1, 1)}
    tensors = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in shapes.items()
    ]
    nodes = [
        onnx.helper.make_node("ConvTranspose", ["x", "wt"], ["t"], strides=[2, 2]),
        onnx.helper.make_node("Conv", ["t", "w"], ["c"]),
        onnx.helper.make_node("Conv", ["c", "u"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, ["n", 16, 4, 4])],
        [value("y", onnx.TensorProto.FLOAT, ["n", 16, 8, 8])],
        tensors,
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=random.standard_normal((4, 16, 4, 4)).astype(np.float32))
    words = ["quantize", str(tmp_path / "m.onnx"), "--calib", str(tmp_path / "x.npz")]
    assert main([*words, "-o", str(tmp_path / "q.onnx")]) == 0
    said = capsys.readouterr().out
    assert "2 of 3 layers compute in int8, 1 of them in and out" in said
    island = next(line for line in said.splitlines() if "output-float" in line)
    assert island.startswith("Conv#2"), "the last layer's output is the model's, and its old name is this"


def test_a_size_that_depends_on_the_data_does_not_stop_it(tmp_path):
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 16, 1, 1)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["c"]),
        onnx.helper.make_node("Greater", ["c", "th"], ["g"]),
        onnx.helper.make_node("NonZero", ["g"], ["y"]),
    ]
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [value("x", onnx.TensorProto.FLOAT, [2, 16, 8, 8])],
        [value("y", onnx.TensorProto.INT64, [4, "rows"])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.float32(0.5), "th")],
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=random.standard_normal((2, 16, 8, 8)).astype(np.float32))
    for done in (
        nm2trt.quantize(tmp_path / "m.onnx", tmp_path / "q.onnx", calib=tmp_path / "x.npz"),
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to="bf16"),
        nm2trt.cast(tmp_path / "m.onnx", tmp_path / "h.onnx", to="fp16", calib=tmp_path / "x.npz"),
    ):
        (item,) = done.differences
        assert item.unequal_shapes in (0, 1)


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("kind", ["cast", "shape"])
def test_a_weight_computed_from_integers_stays_float(tmp_path, kind, mixed):
    """It is float32 where the layer reads it, but no stored float numbers can be rounded."""
    draw = np.random.default_rng(0)
    stored = {"i": np.array([32, 8]), "w": draw.standard_normal((8, 4)).astype("f4")}
    made = helper.make_node("ConstantOfShape", ["i"], ["k"], value=helper.make_tensor("v", 1, [1], [0.5]))
    if kind == "cast":
        stored["i"] = draw.integers(-3, 4, (32, 8))
        made = helper.make_node("Cast", ["i"], ["k"], to=TensorProto.FLOAT)
    nodes = [made, helper.make_node("MatMul", ["x", "k"], ["a"], name="first")]
    if mixed:
        nodes.append(helper.make_node("MatMul", ["a", "w"], ["y"], name="second"))
    else:
        nodes.append(helper.make_node("Relu", ["a"], ["y"]))
    infos = [
        helper.make_tensor_value_info(name, 1, ["n", size])
        for name, size in (("x", 32), ("y", 4 if mixed else 8))
    ]
    tensors = [numpy_helper.from_array(stored[name], name) for name in ("iw" if mixed else "i")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "m.onnx",
    )
    np.savez(tmp_path / "x.npz", x=draw.standard_normal((8, 32)).astype("f4"))
    if not mixed:
        with pytest.raises(
            ModelError, match=r"to quantise; first: its weight is computed from integers: 'i'"
        ):
            quantise(tmp_path)
        return
    report = quantise(tmp_path)
    assert {row.layer: row.reason for row in report.layers} == {
        "first": "its weight is computed from integers: 'i' is int64",
        "second": "",
    }


def test_an_output_that_is_a_sequence_is_not_compared_and_the_report_says_so(tmp_path):
    weight = np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            helper.make_node("SplitToSequence", ["y"], ["parts"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16]),
            helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "a.onnx",
    )
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(1).normal(size=(8, 16)).astype(np.float32))
    for verb in (nm2trt.quantize, nm2trt.cast):
        report = verb(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz")
        assert any(line.startswith("outputs were not compared: 'parts' is") for line in report.remarks())


def test_a_model_without_operators_of_onnx_has_nothing_to_lower(tmp_path):
    """As converters of decision trees write it: the opsets name the domain of machine learning only."""
    trees = helper.make_node("Binarizer", ["x"], ["y"], domain="ai.onnx.ml", threshold=0.5)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = helper.make_graph([trees], "net", ends[:1], ends[1:])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx.ml", 1)], ir_version=8),
        tmp_path / "m.onnx",
    )
    np.savez(tmp_path / "x.npz", x=np.ones((4, 4), np.float32))
    with pytest.raises(ModelError, match="has no Conv, Gemm or MatMul to quantise"):
        quantise(tmp_path)
    for to in ("fp16", "bf16"):
        with pytest.raises(ModelError, match=f"has no float32 node to cast to {to}$"):
            nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", to=to)
