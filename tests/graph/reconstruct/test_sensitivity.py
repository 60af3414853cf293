"""Layers that stay dense by choice: which, and how well the measured sensitivity tells the outputs' loss."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.graph.reconstruct.sensitivity import Sensitivity, dense_by_sensitivity
from nm2trt.graph.verify.verify_model import verify_model

WIDTH, CLASSES = 32, 8


@pytest.fixture
def made(tmp_path):
    """Three branches of equal work whose sum is the score; the second counts thirty times as much."""
    random = np.random.default_rng(0)
    weights = {name: random.normal(size=(WIDTH, CLASSES)) / WIDTH**0.5 for name in ("w1", "w2", "w3")}
    weights["w2"] *= 30
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"a{i}"]) for i in (1, 2, 3)]
    nodes += [helper.make_node("Sum", ["a1", "a2", "a3"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "branches",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "a.onnx",
    )
    np.savez(tmp_path / "s.npz", x=random.normal(size=(128, WIDTH)).astype(np.float32))
    return tmp_path


def test_the_layer_that_moves_the_outputs_most_stays_dense(made):
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", calib=made / "s.npz", share="60%")
    assert {row.weight: row.status for row in report.weights} == {
        "w1": "pruned",
        "w2": "refitted",
        "w3": "pruned",
    }
    assert report.pruned_share == pytest.approx(2 / 3)
    assert "pruned alone it moves" in report.weights[1].reason
    assert verify_model(made / "b.onnx").passed()


def test_the_divergence_alone_is_that_of_a_run_that_prunes_only_this_layer(made):
    options = {"calib": made / "s.npz", "permute": False}
    report = nm2trt.prune(made / "a.onnx", made / "b.onnx", dense_choice="sensitivity", **options)
    assert report.counts["pruned"] == 3
    for row in report.weights:
        alone = nm2trt.prune(made / "a.onnx", made / "c.onnx", include=[row.weight], **options)
        assert row.divergence_alone == pytest.approx(alone.outputs[0].kl, rel=0.5)


def test_work_and_gain_choose():
    found = {"a": Sensitivity(1.0, 10), "b": Sensitivity(2.0, 40), "c": Sensitivity(0.1, 50)}
    assert list(dense_by_sensitivity(found, 0.9)) == ["a"]
    assert list(dense_by_sensitivity(found, 0.5)) == ["a", "b"]
    assert dense_by_sensitivity(found, 1.0) == {}
    assert list(dense_by_sensitivity(found, 0.6, gains={"a": 100, "b": 1, "c": 1})) == ["b"]
    assert list(dense_by_sensitivity(found, 0.5, sparse=["a"])) == ["b"]
    assert list(dense_by_sensitivity({**found, "c": Sensitivity(None, 50)}, 0.5)) == ["c"]


def test_a_share_needs_samples_and_a_choice(made, capsys):
    with pytest.raises(InputError, match="give them with --calib"):
        nm2trt.prune(made / "a.onnx", share="50%")
    with pytest.raises(InputError, match="needs a choice of the dense layers"):
        nm2trt.prune(made / "a.onnx", calib=made / "s.npz", share="50%", dense_choice="none")
    words = ["prune", str(made / "a.onnx"), "--calib", str(made / "s.npz"), "--share"]
    assert main([*words, "0"]) == 2
    assert "is not a share of the work" in capsys.readouterr().err
    assert main([*words, "40%", "-o", str(made / "b.onnx")]) == 0
    assert "66.7 % of the work that can be pruned holds 2:4" in capsys.readouterr().out
