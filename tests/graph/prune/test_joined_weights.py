"""Weights that a Concat joins: every part is zeroed as a brute-force mask of the whole says, or all stay dense."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.graph.verify.verify_model import verify_model

NODE = helper.make_node
RANDOM = np.random.default_rng(5)


def matrix(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def write(path, nodes, stored):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 32])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def stored(path):
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def brute_force(weight):
    """Keep the two largest of every four along axis 0, one group at a time."""
    left = weight.copy()
    for row, column in itertools.product(range(0, weight.shape[0], 4), range(weight.shape[1])):
        group = np.abs(weight[row : row + 4, column])
        for weak in np.argsort(-group, kind="stable")[2:]:
            left[row + weak, column] = 0
    return left


HEAD = NODE("MatMul", ["h", "o"], ["y"])
JOINS = {
    "side by side": (
        [NODE("Concat", ["q", "k", "v"], ["w"], axis=1), NODE("MatMul", ["x", "w"], ["h"]), HEAD],
        {"q": matrix(32, 16), "k": matrix(32, 8), "v": matrix(32, 24)},
        lambda s: np.concatenate([s["q"], s["k"], s["v"]], 1)),
    "along the reduction, across groups": (
        [NODE("Concat", ["q", "k"], ["w"], axis=0), NODE("MatMul", ["x", "w"], ["h"]), HEAD],
        {"q": matrix(30, 48), "k": matrix(2, 48)}, lambda s: np.concatenate([s["q"], s["k"]], 0)),
    "behind a Transpose": (
        [NODE("Transpose", ["q"], ["t"]), NODE("Concat", ["t", "k"], ["w"], axis=1), NODE("MatMul", ["x", "w"], ["h"]),
         HEAD],
        {"q": matrix(24, 32), "k": matrix(32, 24)}, lambda s: np.concatenate([s["q"].T, s["k"]], 1)),
}  # fmt: skip


@pytest.mark.parametrize("name", JOINS)
def test_every_part_is_zeroed(name, tmp_path):
    nodes, parts, joined = JOINS[name]
    source = write(tmp_path / "a.onnx", nodes, parts | {"o": matrix(48, 16)})
    report = prune_model(source, tmp_path / "b.onnx")
    assert {weight.weight: weight.status for weight in report.weights} == dict.fromkeys(
        [*parts, "o"], "pruned"
    )
    after = stored(tmp_path / "b.onnx")
    np.testing.assert_array_equal(joined(after), brute_force(joined(parts)))
    read = verify_model(tmp_path / "b.onnx")
    assert (read.counts, read.missing, read.passed("broken")) == ({"holds": 2}, (), True)


STAYS = {
    "a part is excluded": ([], {"exclude": ["k"]}, "excluded by 'k'"),
    "a part is read by something else": ([NODE("Add", ["h", "k"], ["unused"])], {}, "joined with k"),
    "a part is a weight of its own": ([NODE("MatMul", ["x", "k"], ["unused"])], {}, "reads it too"),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_cannot_be_reached_stays_dense_and_is_named(name, tmp_path):
    more, options, reason = STAYS[name]
    nodes = [NODE("Concat", ["q", "k"], ["w"], axis=1), NODE("MatMul", ["x", "w"], ["h"]), HEAD, *more]
    parts = {"q": matrix(32, 32), "k": matrix(32, 16), "o": matrix(48, 16)}
    report = prune_model(write(tmp_path / "a.onnx", nodes, parts), tmp_path / "b.onnx", **options)
    status = {weight.weight: (weight.status, weight.reason) for weight in report.weights}
    assert (status["q"][0], status["k"][0], status["o"][0]) == ("dense", "dense", "pruned")
    assert reason in status["q"][1]
    after = stored(tmp_path / "b.onnx")
    for part in ("q", "k"):
        np.testing.assert_array_equal(after[part], parts[part])
    assert verify_model(tmp_path / "b.onnx").passed("broken")


def test_a_part_that_is_only_computed_leaves_the_weight_dense(tmp_path):
    nodes = [
        NODE("ConstantOfShape", ["shape"], ["k"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        NODE("Concat", ["q", "k"], ["w"], axis=1),
        NODE("MatMul", ["x", "w"], ["h"]),
        HEAD,
    ]
    parts = {"q": matrix(32, 32), "shape": np.array([32, 16]), "o": matrix(48, 16)}
    report = prune_model(write(tmp_path / "a.onnx", nodes, parts), tmp_path / "b.onnx")
    assert [(weight.weight, weight.status) for weight in report.weights] == [("q", "dense"), ("o", "pruned")]
    assert "not a stored tensor" in report.weights[0].reason
