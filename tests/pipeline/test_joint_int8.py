"""prune --to int8: what is written is what was solved, on its grid, and it beats rounding afterwards."""

import json
import re

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.errors import DataError, InputError, ModelError
from nm2trt.graph.execute.output_verdict import VerdictSum
from nm2trt.graph.reconstruct.activation_grid import with_pairs
from nm2trt.graph.reconstruct.layer_walk import LayerWalk
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.reconstruct.test_reconstruct_model import network, samples


@pytest.fixture
def made(tmp_path):
    network(tmp_path / "a.onnx")
    samples(tmp_path / "s.npz", 64)
    return tmp_path


def outputs(path, x):
    with open_onnx(path, optimize=False) as session:
        return session.run({"x": x})["y"]


def verdict(folder, name, x):
    total = VerdictSum("y")
    total.add(outputs(folder / "a.onnx", x), outputs(folder / name, x))
    return total.verdict()


def test_the_verdict_of_the_solve_is_that_of_the_file(made):
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", calib=made / "s.npz", to="int8")
    x = np.load(made / "s.npz")["x"]
    held_out = verdict(made, "b.onnx", x[56:])  # the last of eight chunks of eight
    (solved,) = report.report.outputs
    assert solved.samples == 8
    assert held_out.error == pytest.approx(solved.error, rel=0.05)
    assert held_out.kl == pytest.approx(solved.kl, rel=0.1)


def test_the_file_is_int8_holds_the_pattern_and_says_what_was_done(made):
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", calib=made / "s.npz", to="int8")
    rows = {row.weight: row for row in verify_model(made / "b.onnx").weights}
    pruned = {row.weight for row in report.report.weights if row.status == "pruned"}
    assert len(pruned) == 5
    assert all(rows[name].pattern == "holds" and rows[name].dtype == "int8" for name in pruned)
    assert [entry.stage for entry in read_lineage(load(made / "b.onnx").proto)][-2:] == [
        "prune --calib",
        "quantize int8",
    ]
    assert report.quantized.work.sparse > 0
    json.dumps(report.to_json(), allow_nan=False)


def test_no_weight_moves_when_pairs_are_inserted(made):
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", calib=made / "s.npz", to="int8")
    assert sum(layer.lost for layer in report.quantized.layers) == 0
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(made / "b.onnx").graph.initializer}
    for name in ("w1", "w3", "w4", "w5", "w6"):
        assert tensors[name].dtype == np.int8
        # Half of every group is zero, and no channel has lost its largest numbers.
        assert (tensors[name] != 0).mean() <= 0.5
        assert np.abs(tensors[name]).max() > 60


def test_rounding_in_the_solve_costs_less_than_rounding_afterwards():
    """On one layer whose inputs move together, where the error of a weight can be moved to others."""
    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.solver.layer_moments import moments_of
    from nm2trt.nm.solver.layer_solver import fit_layer

    random = np.random.default_rng(0)
    x = random.normal(size=(4000, 6)) @ random.normal(size=(6, 32)) + 0.1 * random.normal(size=(4000, 32))
    weight = random.normal(size=(16, 32))
    x = x.astype(np.float32)
    moments = moments_of(x, (x @ weight.T).astype(np.float32))
    found = {
        largest: fit_layer(moments, None, weight, NMPattern(2, 4), bias=False, largest=largest)
        for largest in (None, 7)
    }
    exact, rounded = found[None], found[7]
    assert exact.step is None
    integers = rounded.weight / rounded.step[:, None]
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-6)
    assert np.abs(integers).max() <= 7 + 1e-6
    step = np.abs(exact.weight).max(1, keepdims=True) / 7
    nearest = np.rint(exact.weight / step) * step

    def error(w):
        return float(((x @ (w - weight).T) ** 2).mean())

    assert error(exact.weight) < error(rounded.weight) < 0.5 * error(nearest)


@pytest.mark.parametrize(
    ("limits_only", "wanted"), [(False, [0, 0, 0.5, 2.0, 63.5]), (True, [0, 0.2, 0.3, 2.0, 63.5])]
)
def test_values_in_a_segment_are_rounded_or_limited_as_int8_does(limits_only, wanted):
    nodes = [onnx.helper.make_node("Relu", ["x"], ["r"]), onnx.helper.make_node("Neg", ["r"], ["y"])]
    paired, constants = with_pairs(nodes, {"r": 0.5}, limits_only=limits_only)
    graph = onnx.helper.make_graph(
        paired,
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [5])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [5])],
        constants,
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    with open_onnx(model.SerializeToString(), optimize=False) as session:
        found = session.run({"x": np.array([-1, 0.2, 0.3, 2.0, 99], np.float32)})["y"]
    np.testing.assert_array_equal(found, -np.array(wanted, np.float32))
    assert [node.output[0] for node in nodes] == ["r", "y"]


def test_layers_see_the_rounding_of_weights_that_nothing_solves(made, monkeypatch):
    """One weight holds 2:4 already, and is one input channel so large that INT8 loses the others."""
    model = onnx.load(made / "a.onnx")
    (stored,) = (t for t in model.graph.initializer if t.name == "w3")
    weight = onnx.numpy_helper.to_array(stored).copy()
    weight[:, 2::4], weight[:, 3::4] = 0, 0
    weight[:, 0] *= 60
    stored.CopyFrom(onnx.numpy_helper.from_array(weight, "w3"))
    onnx.save(model, made / "a.onnx")
    seen, run = [], LayerWalk.run

    def spied(walk, *given):
        run(walk, *given)
        seen.append(walk.weights["w3"])

    monkeypatch.setattr(LayerWalk, "run", spied)
    x = np.load(made / "s.npz")["x"][56:]
    given = {"calib": made / "s.npz", "to": "int8", "permute": False}
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", **given)
    assert {row.weight: row.status for row in report.report.weights}["w3"] == "kept"
    (solved,) = report.report.outputs
    assert verdict(made, "b.onnx", x).error == pytest.approx(solved.error, rel=0.02)
    written = onnx.load(made / "b.onnx").graph
    numbers = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in written.initializer}
    (scale,) = (
        numbers[node.input[1]]
        for node in written.node
        if node.op_type == "DequantizeLinear" and node.input[0] == "w3"
    )
    shape = (-1, *[1] * (weight.ndim - 1))
    np.testing.assert_allclose(seen[0], numbers["w3"] * scale.reshape(shape), rtol=1e-6)
    assert np.abs(seen[0] - weight).max() > 1e-3


def test_a_limit_leaves_sharp_layers_in_float_and_solves_on_that_placement(made):
    """One channel of the first map is far wider than the others, so that one scale for all loses them."""
    model = onnx.load(made / "a.onnx")
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "w2", "w3", "w4"):
            weight = onnx.numpy_helper.to_array(tensor).copy()
            if tensor.name == "w1":
                weight[0] *= 60
            elif tensor.name == "w2":
                weight[0] /= 60
            elif tensor.name == "w4":
                weight[:, 0] /= 60
            tensor.CopyFrom(onnx.numpy_helper.from_array(weight, tensor.name))
    onnx.save(model, made / "a.onnx")
    given = {"calib": made / "s.npz", "to": "int8", "permute": False}
    free = nm2trt.prune(made / "a.onnx", made / "b.onnx", **given)
    held = nm2trt.prune(made / "a.onnx", made / "c.onnx", **given, max_loss="7%")
    assert held.quantized.search is not None
    assert held.quantized.search.chosen.loss <= 0.07
    floating = {layer.weight for layer in held.quantized.layers if not layer.quantised}
    assert floating
    x = np.load(made / "s.npz")["x"]
    assert verdict(made, "c.onnx", x).error < 0.5 * verdict(made, "b.onnx", x).error
    (solved,) = held.report.outputs
    assert verdict(made, "c.onnx", x[56:]).error == pytest.approx(solved.error, rel=0.05)
    assert not free.quantized.search


@pytest.mark.parametrize("sample", [0, 63], ids=["for ranges", "held out"])
def test_infinity_in_a_quantised_input_is_refused_as_quantize_refuses_it(made, sample):
    x = np.load(made / "s.npz")["x"]
    x[sample].flat[5] = np.inf
    np.savez(made / "i.npz", x=x)
    with pytest.raises(DataError, match="'x' is NaN or infinite in the model"):
        nm2trt.prune(made / "a.onnx", made / "b.onnx", calib=made / "i.npz", to="int8")
    assert not (made / "b.onnx").exists()


def test_what_was_converted_first_is_told(tmp_path, capsys):
    network(tmp_path / "a.onnx")
    samples(tmp_path / "s.npz", 16)
    model = onnx.load(tmp_path / "a.onnx")
    model.opset_import[0].version = 12
    onnx.save(model, tmp_path / "a.onnx")
    assert main(["prune", str(tmp_path / "a.onnx"), "--calib", str(tmp_path / "s.npz"), "--to", "int8"]) == 0
    assert "note: converted from opset 12 to 13 first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"to": None, "max_loss": "2%"}, "give --max-loss with --to int8"),
        ({"max_loss": "0%"}, "a share of the samples"),
        ({"calib": None}, "the integers are solved from samples; give them with --calib"),
        ({"data": "s.npz", "max_drop": "1pt"}, "an accuracy budget is kept in float"),
    ],
)
def test_what_does_not_go_together_is_refused(made, monkeypatch, arguments, words):
    monkeypatch.chdir(made)
    with pytest.raises(InputError, match=words):
        nm2trt.prune("a.onnx", "b.onnx", **{"calib": "s.npz", "to": "int8", **arguments})
    assert sorted(path.name for path in made.iterdir()) == ["a.onnx", "s.npz"]


def test_the_command_prints_both_tables(made, capsys):
    words = ["prune", str(made / "a.onnx"), "--calib", str(made / "s.npz"), "--to", "int8"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "weights pruned to 2:4" in out
    assert "layers compute in int8" in out
    assert out.count("wrote ") == 1


@pytest.mark.parametrize(
    ("dtype", "left", "words"),
    [
        (np.float32, True, "no Conv, Gemm or MatMul to quantise; MatMul#0: its constant is the left operand"),
        (np.float16, False, "a.onnx has no .*MatMul#0: its weight is float16; quantise the float32 model"),
        (np.float64, False, "a.onnx has no .*MatMul#0: its weight is float64; quantise the float32 model"),
    ],
)
@pytest.mark.parametrize("max_loss", [None, 0.02])
def test_a_model_without_a_layer_to_quantise_is_refused_as_quantize_refuses_it(
    tmp_path, dtype, left, words, max_loss
):
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    operands = ["w", "x"] if left else ["x", "w"]
    graph = helper.make_graph(
        [helper.make_node("MatMul", operands, ["y"])],
        "net",
        [helper.make_tensor_value_info("x", kind, [16, 16])],
        [helper.make_tensor_value_info("y", kind, [16, 16])],
        [numpy_helper.from_array(np.ones((16, 16), dtype), "w")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path / "a.onnx")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(0).normal(size=(32, 16)).astype(dtype))
    for verb, more in ((nm2trt.quantize, {}), (nm2trt.prune, {"to": "int8"})):
        with pytest.raises(ModelError, match=words):
            verb(
                tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz", max_loss=max_loss, **more
            )


def test_a_converted_model_is_called_by_its_own_name(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [numpy_helper.from_array(np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32), "w")],
    )
    opsets = [helper.make_opsetid("", 11)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=6), tmp_path / "a.onnx")
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(1).normal(size=(64, 16)).astype(np.float32))
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz", to="int8")
    assert report.report.channels_kept.startswith(
        f"channels stay in their order: no channel of {tmp_path / 'a.onnx'} can move"
    )


@pytest.mark.parametrize("more", [{}, {"to": "int8"}], ids=["float", "int8"])
def test_an_error_names_the_model_and_no_copy_of_it(tmp_path, more):
    # ONNX Runtime has no product of bfloat16 on a CPU.
    narrow = numpy_helper.from_array(np.ones((16, 16), ml_dtypes.bfloat16), "narrow")
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["x"], ["low"], to=TensorProto.BFLOAT16),
            helper.make_node("MatMul", ["low", "narrow"], ["product"]),
            helper.make_node("Cast", ["product"], ["wide"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["wide", "w"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
        [narrow, numpy_helper.from_array(np.eye(16, dtype=np.float32), "w")],
    )
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    with pytest.raises(ModelError, match=f"ONNX Runtime cannot load {re.escape(str(path))}: ") as caught:
        nm2trt.prune(path, tmp_path / "b.onnx", calib={"x": np.ones((8, 16), np.float32)}, **more)
    assert "nm2trt-" not in str(caught.value)
