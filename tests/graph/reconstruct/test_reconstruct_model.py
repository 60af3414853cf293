"""prune --calib: the written model holds the pattern, stays near the dense one, and says what was done."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.calibration.stream import open_sample_stream
from nm2trt.cli import main
from nm2trt.errors import DataError, InputError, ModelError, SparsityError
from nm2trt.graph.reconstruct import layer_walk
from nm2trt.graph.reconstruct.chunks import read_chunks
from nm2trt.graph.reconstruct.layers import find_layers
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.reconstruct_model import METHOD, reconstruct_model
from nm2trt.graph.reconstruct.report import RebuiltLayer, ReconstructOptions, ReconstructReport
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.model import load, metadata
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan
from nm2trt.nm.solver import kept_rows
from nm2trt.nm.solver.array_namespace import thread_count_counts
from nm2trt.tables.layout import lay_out

CHANNELS, SIZE = 16, 8


def network(path, *, batch="n", seed=0, between=(), weights=()):
    """A small residual network: conv, depthwise, conv, skip, pooling, two matrices, one with a bias Add."""
    random = np.random.default_rng(seed)

    def stored(name, *shape, scale=None):
        spread = scale or (2 / np.prod(shape[1:])) ** 0.5
        return numpy_helper.from_array((spread * random.normal(size=shape)).astype(np.float32), name)

    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["c1"], "c1", pads=[1, 1, 1, 1]),
        node("Relu", ["c1"], ["r1"], "r1"),
        node("Conv", ["r1", "w2", "b2"], ["c2"], "c2", pads=[1, 1, 1, 1], group=CHANNELS),
        node("Relu", ["c2"], ["r2"], "r2"),
        node("Conv", ["r2", "w3", "b3"], ["c3"], "c3"),
        node("Add", ["c3", "r1"], ["s"], "s"),
        node("Conv", ["s", "w4"], ["c4"], "c4", pads=[0, 0, 1, 1], strides=[2, 2]),
        node("Add", ["c4", "b4"], ["a4"], "a4"),
        node("Relu", ["a4"], ["r4"], "r4"),
        node("GlobalAveragePool", ["r4"], ["p"], "p"),
        node("Flatten", ["p"], ["f"], "f"),
        node("MatMul", ["f", "w5"], ["m5"], "m5"),
        node("Add", ["m5", "b5"], ["a5"], "a5"),
        *between,
        node("Gemm", ["a5", "w6"], ["y"], "y", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            stored("w1", CHANNELS, CHANNELS, 3, 3),
            stored("b1", CHANNELS, scale=0.1),
            stored("w2", CHANNELS, 1, 3, 3),
            stored("b2", CHANNELS, scale=0.1),
            stored("w3", CHANNELS, CHANNELS, 1, 1),
            stored("b3", CHANNELS, scale=0.1),
            stored("w4", 32, CHANNELS, 2, 2),
            stored("b4", 1, 32, 1, 1, scale=0.1),
            stored("w5", 32, 16),
            stored("b5", 16, scale=0.1),
            stored("w6", 10, 16),
            *weights,
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def samples(path, count=64, seed=1, **more):
    random = np.random.default_rng(seed)
    coarse = random.normal(size=(count, 4, 2, 2)).astype(np.float32)
    mixed = np.einsum("nchw,dc->ndhw", coarse, np.random.default_rng(9).normal(size=(CHANNELS, 4)))
    x = np.repeat(np.repeat(mixed, SIZE // 2, 2), SIZE // 2, 3) + 0.3 * random.normal(
        size=(count, CHANNELS, SIZE, SIZE)
    )
    np.savez(path, x=x.astype(np.float32), **more)
    return path


def outputs(path, x):
    with open_onnx(path) as session:
        return session.run({"x": x})["y"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Give a model and samples that no test changes."""
    folder = tmp_path_factory.mktemp("made")
    return network(folder / "a.onnx"), samples(folder / "s.npz")


@pytest.fixture(scope="module")
def rebuilt(made):
    """Give the file that a prune without options writes, and its report."""
    model, calib = made
    path = model.with_name("b.onnx")
    return path, nm2trt.prune(model, path, calib=calib)


def test_a_sequence_that_is_read_after_a_layer_is_refused(tmp_path):
    taken = helper.make_node("SequenceAt", ["q", "zero"], ["t"])
    zero = numpy_helper.from_array(np.int64(0), "zero")
    model = network(tmp_path / "a.onnx", between=[taken], weights=[zero])
    proto = onnx.load(model)
    proto.graph.node.insert(2, helper.make_node("SequenceConstruct", ["r1", "r1"], ["q"]))
    onnx.save(proto, model)
    with pytest.raises(ModelError, match="'q' is a sequence or text, which cannot be kept between cuts"):
        nm2trt.prune(model, tmp_path / "b.onnx", calib=samples(tmp_path / "s.npz"))
    assert not (tmp_path / "b.onnx").exists()


def test_holds_the_pattern_and_beats_magnitude(tmp_path, made, rebuilt):
    model, _ = made
    path, report = rebuilt
    nm2trt.prune(model, tmp_path / "m.onnx")
    assert report.counts == {"pruned": 5, "refitted": 1, "kept": 0, "dense": 0}
    checked = verify_model(path)
    assert checked.passed()
    assert {row.weight for row in checked.weights if row.pattern == "holds"} == {"w1", "w3", "w4", "w5", "w6"}
    x = np.load(samples(tmp_path / "t.npz", seed=7))["x"]
    dense, mine, magnitude = (outputs(one, x) for one in (model, path, tmp_path / "m.onnx"))
    assert np.square(mine - dense).mean() < 0.4 * np.square(magnitude - dense).mean()
    error = np.square(mine - dense).sum() / np.square(dense - dense.mean()).sum()
    assert report.outputs[0].error == pytest.approx(error, rel=0.8)
    assert report.outputs_held_out


def test_a_weight_that_a_run_chooses_stays_dense_with_that_reason(tmp_path):
    """An expert of three, by the largest of the sample's values: no rows of one matrix can be gathered."""
    nodes = [
        helper.make_node("ArgMax", ["f"], ["expert"], "router", axis=1, keepdims=0),
        helper.make_node("Gather", ["w7", "expert"], ["chosen"], "choose"),
        helper.make_node("Unsqueeze", ["a5", "axis"], ["row"], "row"),
        helper.make_node("MatMul", ["row", "chosen"], ["moved"], "expert"),
        helper.make_node("Squeeze", ["moved", "axis"], ["out"], "out"),
        helper.make_node("Add", ["out", "a5"], ["joined"], "join"),
    ]
    experts = np.random.default_rng(0).normal(size=(32, 16, 16)).astype(np.float32)
    weights = [numpy_helper.from_array(experts, "w7"), numpy_helper.from_array(np.array([1]), "axis")]
    model = network(tmp_path / "a.onnx", between=nodes, weights=weights)
    report = nm2trt.prune(model, tmp_path / "b.onnx", calib=samples(tmp_path / "s.npz"))
    (row,) = (layer for layer in report.weights if layer.weight == "w7")
    assert row.status == "dense"
    assert row.reason.startswith("Gather at choose decides it while the model runs")


def test_plan_and_lineage_say_what_was_done(tmp_path, made):
    model, calib = made
    report = nm2trt.prune(model, tmp_path / "b.onnx", calib=calib, exclude=["w3"])
    written = load(tmp_path / "b.onnx").proto
    plan = Plan.from_json(metadata(written)[METADATA_KEY])
    assert plan.method == METHOD
    assert {e.weight: str(e.pattern) for e in plan} == {
        **dict.fromkeys(("w1", "w4", "w5", "w6"), "2:4"),
        **dict.fromkeys(("w2", "w3"), "None"),
    }
    last = read_lineage(written)[-1]
    assert (last.stage, last.relation, last.child) == ("prune --calib", "rebuilt", report.mask_sha256)
    assert verify_model(tmp_path / "b.onnx").passed()
    excluded = next(row for row in report.weights if row.weight == "w3")
    assert (excluded.status, excluded.reason) == ("refitted", "excluded by 'w3'")


def test_same_bits_again_and_another_seed_other_rows(tmp_path, made, rebuilt):
    model, calib = made
    for seed in (0, 1):
        nm2trt.prune(model, tmp_path / f"{seed}.onnx", calib=calib, seed=seed)
    written = rebuilt[0].read_bytes()
    assert written == (tmp_path / "0.onnx").read_bytes()
    assert written != (tmp_path / "1.onnx").read_bytes()


def test_channels_are_permuted_unless_told_not_to(tmp_path, made, rebuilt):
    found = {}
    as_it_is = nm2trt.prune(made[0], tmp_path / "b.onnx", calib=made[1], permute=False)
    for permute, path, report in ((True, *rebuilt), (False, tmp_path / "b.onnx", as_it_is)):
        assert report.permuted is permute
        stages = [stage.stage for stage in read_lineage(load(path).proto)]
        assert stages == (["permute", "prune --calib"] if permute else ["prune --calib"])
        assert verify_model(path).passed()
        found[permute] = sum(row.error for row in report.weights if row.status == "pruned")
    assert found[True] < found[False]


def test_every_layer_reports_its_errors(rebuilt):
    _, report = rebuilt
    assert len(report.weights) == 6
    for row in report.weights:
        assert row.ridge is not None
        assert row.held_out
        assert row.rows > 0
        if row.status == "pruned":
            assert row.error <= row.magnitude_error * (1 + 1e-9)
            assert row.chosen in ("admm", "magnitude")
        else:
            assert row.error == row.dense_error
    json.dumps(report.to_json())


def test_skip_and_bias_of_an_add_are_found(made):
    layers, _ = find_layers(Network(load(made[0])))
    assert [(layer.weight, layer.bias, layer.skip) for layer in layers] == [
        ("w1", "b1", None),
        ("w2", "b2", None),
        ("w3", "b3", "r1"),
        ("w4", "b4", None),
        ("w5", "b5", None),
        ("w6", None, None),
    ]


@pytest.mark.parametrize("pattern", ["1:4", "3:4", "4:8"])
def test_other_patterns(tmp_path, made, pattern):
    nm2trt.prune(made[0], tmp_path / "b.onnx", calib=made[1], pattern=pattern)
    assert verify_model(tmp_path / "b.onnx", pattern=pattern).passed()


def test_include_keeps_others_dense(tmp_path, made):
    report = nm2trt.prune(made[0], tmp_path / "b.onnx", calib=made[1], include=["w4"])
    status = {row.weight: row.status for row in report.weights}
    # Nothing in front of the first pruned layer changes, what lies behind it is refitted.
    assert status == {
        "w1": "dense",
        "w2": "dense",
        "w3": "dense",
        "w4": "pruned",
        "w5": "refitted",
        "w6": "refitted",
    }


def test_weights_that_hold_already_are_left_alone(tmp_path, made):
    nm2trt.prune(made[0], tmp_path / "m.onnx", include=["w3"])
    before = np.array(numpy_helper.to_array(stored(tmp_path / "m.onnx", "w3")))
    report = nm2trt.prune(tmp_path / "m.onnx", tmp_path / "b.onnx", calib=made[1])
    assert {row.weight: row.status for row in report.weights}["w3"] == "kept"
    np.testing.assert_array_equal(numpy_helper.to_array(stored(tmp_path / "b.onnx", "w3")), before)


def stored(path, name):
    return next(t for t in onnx.load(path).graph.initializer if t.name == name)


def test_batchnorms_are_folded_first(tmp_path, made):
    node = helper.make_node("BatchNormalization", ["c9", "g", "h", "mu", "va"], ["y"], "bn")
    random = np.random.default_rng(0)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["c9"], "c9"), node],
        "bn",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", CHANNELS, SIZE, SIZE])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(random.normal(size=(16, CHANNELS, 1, 1)).astype(np.float32), "w"),
            *(
                numpy_helper.from_array(np.full(16, v, np.float32), n)
                for n, v in zip(("g", "h", "mu", "va"), (2, 1, 3, 4), strict=True)
            ),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "n.onnx",
    )
    report = nm2trt.prune(tmp_path / "n.onnx", tmp_path / "b.onnx", calib=made[1])
    assert report.batchnorms_folded == 1
    assert [s.stage for s in read_lineage(load(tmp_path / "b.onnx").proto)] == ["fuse", "prune --calib"]
    assert [n.op_type for n in onnx.load(tmp_path / "b.onnx").graph.node] == ["Conv"]


def test_a_fixed_batch_is_fed_as_it_is(tmp_path):
    model = network(tmp_path / "a.onnx", batch=3)
    report = nm2trt.prune(model, tmp_path / "b.onnx", calib=samples(tmp_path / "s.npz", 26))
    assert report.samples == 24
    with pytest.raises(DataError, match="2 samples do not fill the model's batch of 3"):
        nm2trt.prune(model, tmp_path / "c.onnx", calib=samples(tmp_path / "s.npz", 2))


def test_too_few_samples_to_hold_any_out_say_so(tmp_path, made, capsys):
    few = samples(tmp_path / "few.npz", 5)
    assert main(["prune", str(made[0]), "--calib", str(few), "-o", str(tmp_path / "b.onnx")]) == 0
    assert "fewer than 8 rows could be held out; give 64 samples or more" in capsys.readouterr().out
    assert verify_model(tmp_path / "b.onnx").passed()


def test_external_data_stays_external(tmp_path, made, rebuilt):
    proto = onnx.load(made[0])
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, size_threshold=0)
    nm2trt.prune(tmp_path / "e.onnx", tmp_path / "x.onnx", calib=made[1])
    assert list(tmp_path.glob("x.onnx*.data"))
    x = np.load(made[1])["x"]
    np.testing.assert_allclose(outputs(tmp_path / "x.onnx", x), outputs(rebuilt[0], x), rtol=1e-4, atol=1e-4)


def test_float16_files_stay_float16(tmp_path, made):
    nm2trt.cast(made[0], tmp_path / "h.onnx", to="fp16")
    report = nm2trt.prune(tmp_path / "h.onnx", tmp_path / "b.onnx", calib=made[1])
    assert {row.dtype for row in report.weights} == {"float16"}
    checked = verify_model(tmp_path / "b.onnx")
    assert checked.passed()
    assert {row.dtype for row in checked.weights} == {"float16"}
    assert report.counts["pruned"] == 5
    assert report.outputs[0].error < 0.5


def rewritten(source, target, nodes, **tensors):
    """Write a copy in which other nodes take the place of the last one, and stored tensors are others."""
    model = onnx.load(source)
    del model.graph.node[-1]
    model.graph.node.extend(nodes)
    for tensor in list(model.graph.initializer):
        if tensor.name in tensors:
            model.graph.initializer.remove(tensor)
    made = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    model.graph.initializer.extend(made)
    onnx.save(model, target)
    return target


@pytest.mark.parametrize(("beta", "permuted"), [(4.0, True), (0.0, False)])
def test_a_gemm_that_transposes_and_scales_is_solved_as_the_plain_one(tmp_path, made, beta, permuted):
    weight = numpy_helper.to_array(onnx.load(made[0]).graph.initializer[-1])
    bias = np.linspace(-1, 1, 10).astype(np.float32)
    gemm = helper.make_node("Gemm", ["a5", "w6", "b6"] if beta else ["a5", "w6"], ["y"], "y", transB=1)
    plain = rewritten(made[0], tmp_path / "p.onnx", [gemm], b6=bias)
    nodes = [
        helper.make_node("Transpose", ["a5"], ["t"], "t"),
        helper.make_node("Gemm", ["t", "w6", "b6"], ["y"], "y", transA=1, transB=1, alpha=-0.5, beta=beta),
    ]
    odd = rewritten(made[0], tmp_path / "o.onnx", nodes, w6=-2 * weight, b6=bias / (beta or 1))
    x = np.load(made[1])["x"]
    results = []
    for path in (plain, odd):
        report = nm2trt.prune(path, tmp_path / "b.onnx", calib=made[1], permute=permuted)
        assert {row.weight: row.status for row in report.weights}["w6"] == "pruned"
        assert verify_model(tmp_path / "b.onnx").passed()
        results.append(outputs(tmp_path / "b.onnx", x))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4, atol=1e-5)
    assert np.abs(results[0] - outputs(plain, x)).max() > 0.01


@pytest.mark.parametrize(("kind", "to"), [("float16", None), ("bfloat16", None), ("bfloat16", "int8")])
def test_weights_that_a_cast_widens_are_rebuilt_where_they_are_stored(tmp_path, made, kind, to):
    numbers = numpy_helper.to_array(onnx.load(made[0]).graph.initializer[-1])
    bias = np.linspace(-1, 1, 10)
    half = element_type(TensorProto(data_type=TensorProto.DataType.Value(kind.upper()))).numpy
    nodes = [
        helper.make_node("Cast", ["w6"], ["wide"], "wide", to=TensorProto.FLOAT),
        helper.make_node("Cast", ["b6"], ["shift"], "shift", to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["a5", "wide", "shift"], ["y"], "y", transB=1),
    ]
    stored = {"w6": numbers.astype(half), "b6": bias.astype(half)}
    source = rewritten(made[0], tmp_path / "h.onnx", nodes, **stored)
    report = nm2trt.prune(source, tmp_path / "b.onnx", calib=made[1], to=to)
    row = (report if to is None else report.report).weights[-1]
    assert (row.weight, row.status, row.dtype) == ("w6", "pruned", kind)
    checked = verify_model(tmp_path / "b.onnx")
    assert checked.passed()
    assert checked.weights[-1].dtype == (to or kind)
    if to is None:
        after = {
            tensor.name: numpy_helper.to_array(tensor)
            for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer
        }
        assert {name: after[name].dtype for name in stored} == {name: np.dtype(half) for name in stored}
        assert np.count_nonzero(after["w6"]) == after["w6"].size // 2
        assert (after["b6"] != stored["b6"]).any()


def test_one_layer_without_a_solution_leaves_the_others_unharmed(tmp_path, made):
    # The square root of a negative number feeds only w6.
    model = onnx.load(made[0])
    model.graph.node.insert(13, helper.make_node("Sqrt", ["a5"], ["q"], "q"))
    model.graph.node[14].input[0] = "q"
    onnx.save(model, tmp_path / "n.onnx")
    report = reconstruct_model(tmp_path / "n.onnx", tmp_path / "b.onnx", open_sample_stream(made[1]))
    rows = {row.weight: row for row in report.weights}
    assert rows["w6"].status == "dense"
    assert "NaN or infinity on the calibration samples" in rows["w6"].reason
    assert all(rows[name].status == "pruned" for name in ("w1", "w3", "w4", "w5"))


def quantised(path):
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["x", "scale"], ["xq"], "quant"))
    model.graph.node.insert(1, helper.make_node("DequantizeLinear", ["xq", "scale"], ["xd"], "dequant"))
    model.graph.node[2].input[0] = "xd"
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "scale"))
    onnx.save(model, path)


def test_bad_input_is_one_sentence_and_writes_nothing(tmp_path, made):
    model, calib = made
    target = tmp_path / "b.onnx"

    def refused(error, words, *, source=model, **options):
        with pytest.raises(error, match=words):
            nm2trt.prune(source, target, **{"calib": calib, **options})
        assert not target.exists()

    refused(DataError, "the model's inputs are", calib=renamed(tmp_path / "r.npz"))
    refused(DataError, "takes shape", calib=shrunk(tmp_path / "k.npz"))
    refused(DataError, "holds NaN", calib=broken(tmp_path / "n.npz"))
    refused(DataError, "no input 'mask'", valid="mask")
    refused(InputError, "matches no weight", include=["nothing*"])
    refused(SparsityError, "no weight of .* is left to prune to 2:4", exclude=["w*"])
    refused(InputError, "valid marks real tokens", calib=None, valid="x")
    quantised(network(tmp_path / "q.onnx"))
    refused(ModelError, "prune the float model with --calib first", source=tmp_path / "q.onnx")
    with pytest.raises(InputError, match="is the file of samples"):
        nm2trt.prune(model, calib, calib=calib)


def renamed(path):
    np.savez(path, z=np.zeros((8, CHANNELS, SIZE, SIZE), np.float32))
    return path


def shrunk(path):
    np.savez(path, x=np.zeros((8, CHANNELS + 1, SIZE, SIZE), np.float32))
    return path


def broken(path):
    np.savez(path, x=np.full((8, CHANNELS, SIZE, SIZE), np.nan, np.float32))
    return path


def test_names_stay_apart_on_a_narrow_terminal():
    """Of layers that were each pruned alone too, which takes a column more."""
    how = ("float32", 1, "pruned", "", 0.001, True, 99, 0.1, 0.2, 0.3, "admm")
    names = [
        f"layer{part}.{block}.conv{which}.weight" for part in (1, 2) for block in (0, 1) for which in (1, 2)
    ]
    rows = [
        RebuiltLayer(name, ("n",), (128, 128 + at, 3, 3), *how, 2.43e-06 / (at + 1))
        for at, name in enumerate(names)
    ]
    rows.append(RebuiltLayer("stem.weight", ("n",), (32, 3, 7, 7), "float32", 1, "dense", "3 input channels"))
    report = ReconstructReport(
        model="a",
        output="b",
        parent_mask_sha256="1",
        mask_sha256="2",
        relation="rebuilt",
        pattern=NMPattern(2, 4),
        weights=tuple(rows),
        outputs=(),
        outputs_held_out=True,
        samples=9,
        source="s.npz",
        samples_sha256="0" * 64,
        plan=Plan(()),
        seconds=1.0,
    )
    (table,) = report.tables()
    lines = [line for line, _ in lay_out(table, 80).lines()]
    assert max(map(len, lines)) <= 80
    assert all(any(line.startswith(name) for line in lines) for name in names)
    assert "alone" in lines[0] or "alone" in lines[1]


def test_valid_draws_rows_at_real_tokens_only(tmp_path):
    random = np.random.default_rng(0)
    weight = random.normal(size=(16, 16)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["mask"], ["m"], "m", to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", ["m"], ["length"], "length"),
            helper.make_node("MatMul", ["x", "w"], ["y"], "y"),
        ],
        "tokens",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 16]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["n", 6]),
        ],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
            helper.make_tensor_value_info("length", TensorProto.FLOAT, None),
        ],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "a.onnx",
    )
    mask = (np.arange(6) < random.integers(1, 6, (64, 1))).astype(np.int64)
    x = random.normal(size=(64, 6, 16)).astype(np.float32)
    options = ReconstructOptions(valid="mask")
    for name, padding in (("b", 0.0), ("c", 100.0)):
        given = np.where(mask[..., None] == 1, x, np.float32(padding) * x)
        np.savez(tmp_path / "s.npz", x=given, mask=mask)
        report = reconstruct_model(
            tmp_path / "a.onnx", tmp_path / f"{name}.onnx", open_sample_stream(tmp_path / "s.npz"), options
        )
        # As many per sample of a chunk as the longest of the chunk has: no row more than there are tokens.
        assert report.weights[0].rows == 8 * mask.sum(1).reshape(8, 8).max(1).sum()
    # What stands at padding tokens plays no part.
    assert stored(tmp_path / "b.onnx", "w").raw_data == stored(tmp_path / "c.onnx", "w").raw_data
    assert report.padding == ""
    told = reconstruct_model(tmp_path / "a.onnx", tmp_path / "d.onnx", open_sample_stream(tmp_path / "s.npz"))
    assert (
        "rows of padding were fitted like others: if 'mask' is 0 there, give --valid mask" in told.remarks()
    )
    # Padding may also come first; zeros between tokens, marks of 2, or nothing but ones are not a mask.
    for marks, found in (
        (mask[:, ::-1], "mask"),
        (mask * (np.arange(6) != 2), ""),
        (2 * mask, ""),
        (np.ones_like(mask), ""),
        (mask * (np.arange(len(mask)) != 1)[:, None], ""),  # a sample of padding only
    ):
        np.savez(tmp_path / "s.npz", x=x, mask=marks)
        assert (
            read_chunks(tmp_path / "a.onnx", open_sample_stream(tmp_path / "s.npz")).padding_mask() == found
        )


def test_command_prints_layers_and_verdict(made, tmp_path, capsys):
    model, calib = made
    assert main(["prune", str(model), "--calib", str(calib), "-o", str(tmp_path / "b.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "5 weights pruned to 2:4, 1 refitted" in printed
    assert "8 held-out calibration samples" in printed
    assert main(["prune", str(model), "--calib", str(calib), "-o", str(tmp_path / "b.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["method"] == "reconstruct"
    assert report["outputs"][0]["samples"] == 8
    assert main(["prune", str(model), "-o", str(tmp_path / "m.onnx")]) == 0
    assert "--calib SAMPLES rebuilds" in capsys.readouterr().out


def test_a_layer_with_fewer_rows_than_weights_is_named_with_its_lambda(tmp_path, made, rebuilt):
    report = nm2trt.prune(made[0], tmp_path / "b.onnx", calib=samples(tmp_path / "s.npz", 8))
    rows = {row.weight: row for row in report.weights}
    assert (rows["w5"].rows, rows["w5"].inputs) == (8, 32)
    (told,) = (line for line in report.remarks() if "fewer rows" in line)
    assert told.startswith("2 of 6 layers were fitted on fewer rows")
    assert f"w5 has 32 weights per output, 8 rows and lambda {rows['w5'].ridge:g}; give more samples" in told
    assert not any("fewer rows" in line for line in rebuilt[1].remarks())


def test_layers_of_kept_rows_are_those_of_their_sums(tmp_path, made, monkeypatch):
    """Four layers have more rows than inputs here, which a solve of kept rows takes as well."""
    model, calib = made
    given, solver = [], layer_walk.fit_layer
    monkeypatch.setattr(
        layer_walk, "fit_layer", lambda fitted, *a, **k: given.append(fitted) or solver(fitted, *a, **k)
    )
    sums = nm2trt.prune(model, tmp_path / "b.onnx", calib=calib)
    monkeypatch.setattr(kept_rows, "_MANY_INPUTS", 16)
    monkeypatch.setattr(kept_rows, "_FEW_ROWS", 1e9)
    rows = nm2trt.prune(model, tmp_path / "c.onnx", calib=calib)
    pairs = [pair for pair in zip(given, given[6:], strict=False) if isinstance(pair[1], kept_rows.KeptRows)]
    assert len(given) == 12
    assert len(pairs) == 5
    # The second pruned layer's skip tensor, and all later inputs, carry the first one's rounding.
    for (summed, kept), near in zip(pairs, (1e-5, 0.01, 0.01), strict=False):
        assert kept.rows == summed.rows
        x, y = kept.inputs, kept.outputs
        own = {"xx": x.T @ x, "yx": y.T @ x, "x": kept.x, "y": kept.y, "yy": kept.yy}
        for name, value in own.items():
            expected = getattr(summed, name)
            np.testing.assert_allclose(value, expected, atol=near * np.abs(expected).max(), err_msg=name)
    for mine, other in zip(rows.weights, sums.weights, strict=True):
        assert (mine.weight, mine.status, mine.rows) == (other.weight, other.status, other.rows)
    assert rows.weights[0].error == pytest.approx(sums.weights[0].error, rel=2e-3)
    assert rows.outputs[0].error == pytest.approx(sums.outputs[0].error, rel=0.5)  # near ties fall otherwise


SOLVE = """
import sys
import nm2trt
model, calib, target = sys.argv[1:]
nm2trt.prune(model, target, calib=calib)
"""


def deep(path):
    """Six convolutions of 32 channels with skip connections: sums that differ by the order of threads."""
    random = np.random.default_rng(3)
    nodes, stored, value = [], [], "x"
    for number in range(6):
        weight = random.normal(size=(32, 32, 3, 3)) * (2 / 288) ** 0.5
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"w{number}"))
        stored.append(numpy_helper.from_array(random.normal(size=32).astype(np.float32) / 10, f"b{number}"))
        nodes.append(
            helper.make_node("Conv", [value, f"w{number}", f"b{number}"], [f"c{number}"], pads=[1] * 4)
        )
        nodes.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"]))
        if number % 2:
            nodes.append(helper.make_node("Add", [f"r{number}", f"r{number - 1}"], [f"s{number}"]))
        value = f"s{number}" if number % 2 else f"r{number}"
    stored.append(numpy_helper.from_array(random.normal(size=(10, 32)).astype(np.float32) / 6, "last"))
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "last"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 32, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


@pytest.mark.slow
def test_another_thread_count_gives_the_same_file(tmp_path):
    if thread_count_counts():
        pytest.skip("numpy computes with another library than OpenBLAS")
    deep(tmp_path / "a.onnx")
    random = np.random.default_rng(0)
    np.savez(tmp_path / "s.npz", x=random.normal(size=(64, 32, 8, 8)).astype(np.float32))
    cores = sorted(os.sched_getaffinity(0))
    written = set()
    for count, asked in {(1, "1"), (1, "4"), (min(2, len(cores)), "2")}:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), asked)
        target = tmp_path / f"{count}_{asked}.onnx"
        subprocess.run(
            [
                *("taskset", "-c", ",".join(map(str, cores[:count])), sys.executable, "-c", SOLVE),
                *map(str, (tmp_path / "a.onnx", tmp_path / "s.npz", target)),
            ],
            env={**os.environ, **threads},
            check=True,
            capture_output=True,
        )
        written.add(target.read_bytes())
    assert len(written) == 1
