"""Weights that a Concat joins: every part is zeroed as a brute-force mask of the whole says, or all stay dense."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import SparsityError
from nm2trt.graph.fuse.fuse_model import fuse_model
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


SPLITS = {
    "output columns": ({"axis": 1}, [20, 12], [("x", "q"), ("x", "k")]),
    "rows": ({"axis": 0}, [12, 20], [("x", "q"), ("z", "k")]),
}


@pytest.mark.parametrize("name", SPLITS)
@pytest.mark.parametrize("quantised", [False, True])
def test_parts_that_a_split_hands_to_several_consumers_are_all_zeroed(name, quantised, tmp_path):
    """One stored tensor, two readers of different parts: neither says anything about the other's elements."""
    attributes, sizes, reads = SPLITS[name]
    nodes = [NODE("Split", ["w", "sizes"], ["q", "k"], **attributes)]
    whole = matrix(32, 32)
    parts = {"sizes": np.array(sizes)}
    if quantised:
        nodes = [NODE("DequantizeLinear", ["i", "s", "p"], ["w"], axis=1), *nodes]
        parts |= {"i": RANDOM.integers(0, 255, (32, 32)).astype(np.uint8), "s": np.full(32, 0.1, np.float32)}
        parts |= {"p": np.arange(100, 132).astype(np.uint8)}
    else:
        parts["w"] = whole
    if name == "rows":
        nodes += [NODE("Slice", ["x", "zero", "twelve", "one"], ["x12"]), NODE("Slice", ["x", "twelve", "end", "one"], ["z"])]  # fmt: skip
        parts |= {
            "zero": np.array([0]),
            "twelve": np.array([12]),
            "end": np.array([32]),
            "one": np.array([1]),
        }
        reads = [("x12", "q"), ("z", "k")]
    nodes += [NODE("MatMul", [left, right], [f"{right}y"]) for left, right in reads]
    nodes += [NODE("Concat", ["qy", "ky"], ["y"], axis=1)]
    report = prune_model(write(tmp_path / "a.onnx", nodes, parts), tmp_path / "b.onnx", min_channels=4)
    assert [weight.status for weight in report.weights] == ["pruned"]
    after = stored(tmp_path / "b.onnx")
    if quantised:
        before, left = ((t["i"].astype(np.int32) - t["p"]) for t in (parts, after))
        before, left = before * np.float32(0.1), left * np.float32(0.1)
    else:
        before, left = whole, after["w"]
    cuts = [slice(0, sizes[0]), slice(sizes[0], 32)]
    for cut in cuts:
        place = (slice(None), cut) if name == "output columns" else (cut, slice(None))
        np.testing.assert_array_equal(left[place], brute_force(before[place]))
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": 2}


def test_parts_that_overlap_and_disagree_stay_dense(tmp_path):
    nodes = [
        NODE("Slice", ["w", "start", "end", "axis"], ["part"]),
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("MatMul", ["z", "part"], ["k"]),
        NODE("Slice", ["x", "start", "end", "one"], ["z"]),
        NODE("Add", ["h", "k"], ["a"]),
        NODE("MatMul", ["a", "o"], ["y"]),
    ]
    nodes.insert(1, nodes.pop(3))
    parts = {"w": matrix(32, 16), "o": matrix(16, 16), "start": np.array([2]), "end": np.array([30])}
    parts |= {"axis": np.array([0]), "one": np.array([1])}
    report = prune_model(write(tmp_path / "a.onnx", nodes, parts), tmp_path / "b.onnx")
    status = {weight.weight: (weight.status, weight.reason) for weight in report.weights}
    assert (status["w"][0], status["o"][0]) == ("dense", "pruned")
    assert "group its elements differently" in status["w"][1]


COMPUTED = {
    "a scaled part": ([NODE("Mul", ["w", "k"], ["v"])], {"w": matrix(32, 16), "k": np.float32(2)}, True),
    "two added": ([NODE("Add", ["w", "k"], ["v"])], {"w": matrix(32, 16), "k": matrix(32, 16)}, True),
    "a low-rank patch": (
        [NODE("MatMul", ["p", "k"], ["l"]), NODE("Add", ["w", "l"], ["v"])],
        {"w": matrix(32, 16), "p": matrix(32, 2), "k": matrix(2, 16)}, True),
    "chosen by a stored mask": (
        [NODE("Where", ["m", "w", "k"], ["v"])],
        {"w": matrix(32, 16), "m": RANDOM.random((32, 16)) > 0.5, "k": np.float32(0)}, True),
    "normalised": (
        [NODE("ReduceL2", ["w"], ["n"], axes=[0]), NODE("Div", ["w", "n"], ["v"])], {"w": matrix(32, 16)}, True),
    "integers times a scale": (
        [NODE("Cast", ["w"], ["f"], to=TensorProto.FLOAT), NODE("Mul", ["f", "k"], ["v"])],
        {"w": RANDOM.integers(-9, 9, (32, 16)).astype(np.int8), "k": np.float32(0.1)}, False),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPUTED)
def test_fuse_first_is_said_only_where_fuse_helps(name, tmp_path):
    nodes, parts, helps = COMPUTED[name]
    source = write(tmp_path / "a.onnx", [*nodes, NODE("MatMul", ["x", "v"], ["y"])], parts)
    with pytest.raises(SparsityError) as refused:
        prune_model(source, tmp_path / "b.onnx")
    assert ("run nm2trt fuse first" in str(refused.value)) is helps
    if helps:
        fuse_model(source, tmp_path / "f.onnx")
        assert prune_model(tmp_path / "f.onnx", tmp_path / "b.onnx").counts["pruned"] == 1
