"""What verify and init advise for a file that samples cannot rebuild or lower works on that file."""

import json
import re
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.cli import main

WIDTH = 32
node, info = helper.make_node, helper.make_tensor_value_info
ONNX = helper.make_opsetid("", 21)


def stored(name, *shape):
    random = np.random.default_rng(len(name))
    return numpy_helper.from_array((random.normal(size=shape) / 8).astype(np.float32), name)


def matrices():
    return [stored("w", WIDTH, WIDTH), stored("v", WIDTH, WIDTH)]


def function():
    linear = helper.make_function(
        "own", "Linear", ["a", "b"], ["c"], [node("MatMul", ["a", "b"], ["c"])], [ONNX]
    )
    calls = [node("Linear", ["x", "w"], ["h"], domain="own"), node("Linear", ["h", "v"], ["y"], domain="own")]
    return calls, matrices(), {"functions": [linear]}


def body():
    branch = helper.make_graph(
        [node("MatMul", ["x", "w"], ["t"])], "then", [], [info("t", TensorProto.FLOAT, None)]
    )
    other = helper.make_graph(
        [node("MatMul", ["x", "v"], ["e"])], "else", [], [info("e", TensorProto.FLOAT, None)]
    )
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["positive"]),
        node("If", ["positive"], ["y"], then_branch=branch, else_branch=other),
    ]
    return nodes, [*matrices(), numpy_helper.from_array(np.float32(0), "zero")], {}


def batched():
    weights = [stored("w", 2, WIDTH, WIDTH), stored("v", 2, WIDTH, WIDTH)]
    return [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])], weights, {}


def einsum():
    nodes = [
        node("Einsum", ["x", "w"], ["h"], equation="bi,io->bo"),
        node("Einsum", ["h", "v"], ["y"], equation="bi,io->bo"),
    ]
    return nodes, matrices(), {}


def two_axes():
    stores = [
        numpy_helper.from_array(np.array([-1, 4, WIDTH // 4]), "heads"),
        stored("w", 4, WIDTH // 4, WIDTH),
    ]
    nodes = [
        node("Reshape", ["x", "heads"], ["h"]),
        node("Einsum", ["h", "w"], ["y"], equation="nhd,hdo->no"),
    ]
    return nodes, stores, {}


def sequence():
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "v"], ["b"]),
        node("SequenceConstruct", ["a", "b"], ["both"]),
        node("ConcatFromSequence", ["both"], ["y"], axis=1),
    ]
    return nodes, matrices(), {}


def left_operand():
    nodes = [
        node("Transpose", ["x"], ["t"]),
        node("MatMul", ["w", "t"], ["h"]),
        node("MatMul", ["v", "h"], ["y"]),
    ]
    return nodes, matrices(), {}


def grouped():
    weights = [stored("w", WIDTH, WIDTH // 2, 1), stored("v", WIDTH, WIDTH // 2, 1)]
    nodes = [
        node("Unsqueeze", ["x", "last"], ["wide"]),
        node("Conv", ["wide", "w"], ["h"], group=2),
        node("Conv", ["h", "v"], ["y"], group=2),
    ]
    return nodes, [*weights, numpy_helper.from_array(np.array([2]), "last")], {}


def transposed_input():
    nodes = [
        node("Transpose", ["x"], ["t"]),
        node("Gemm", ["t", "w"], ["h"], transA=1),
        node("Gemm", ["h", "v"], ["y"], alpha=0.5),
    ]
    return nodes, matrices(), {}


def scaled_bias():
    nodes = [
        node("Gemm", ["x", "w", "b"], ["h"], beta=2.0),
        node("Gemm", ["h", "v", "b"], ["y"], alpha=2.0, transB=1),
    ]
    return nodes, [*matrices(), stored("b", WIDTH)], {}


def read_twice():
    return [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["y"])], matrices()[:1], {}


def tied():
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["w"], ["back"]),
        node("MatMul", ["h", "back"], ["y"]),
    ]
    return nodes, [stored("w", WIDTH, WIDTH // 2)], {}


def stored_in_half():
    halves = [
        numpy_helper.from_array(numpy_helper.to_array(w).astype(np.float16), f"{w.name}16")
        for w in matrices()
    ]
    nodes = [
        node("Cast", ["w16"], ["w"], to=TensorProto.FLOAT),
        node("Cast", ["v16"], ["v"], to=TensorProto.FLOAT),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "v"], ["y"]),
    ]
    return nodes, halves, {}


def recurrent():
    nodes = [
        node("Unsqueeze", ["x", "first"], ["steps"]),
        node("LSTM", ["steps", "w", "r"], ["y"], hidden_size=WIDTH),
    ]
    weights = [stored("w", 1, 4 * WIDTH, WIDTH), stored("r", 1, 4 * WIDTH, WIDTH)]
    return nodes, [*weights, numpy_helper.from_array(np.array([0]), "first")], {}


def weight_only_int4():
    numbers = np.random.default_rng(0).integers(-7, 8, WIDTH * WIDTH).tolist()
    four = helper.make_tensor("q", TensorProto.INT4, [WIDTH, WIDTH], numbers)
    nodes = [
        node("DequantizeLinear", ["q", "s"], ["w"], axis=0, block_size=16),
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "v"], ["y"]),
    ]
    return nodes, [four, stored("s", 2, WIDTH), stored("v", WIDTH, WIDTH)], {}


def carried():
    """A loop hands its body a weight that stays as it is, as scripted loops do."""
    types = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "c": TensorProto.BOOL}
    given, made = (
        [info(name, types.get(name, TensorProto.FLOAT), None) for name in names.split()]
        for names in ("i go h inner", "c k again")
    )
    inside = [
        node("Identity", ["go"], ["c"]),
        node("MatMul", ["h", "inner"], ["k"]),
        node("Identity", ["inner"], ["again"]),
    ]
    loop = node(
        "Loop", ["trips", "", "x", "w"], ["y", "end"], body=helper.make_graph(inside, "b", given, made)
    )
    return [loop], [stored("w", WIDTH, WIDTH), numpy_helper.from_array(np.array(2), "trips")], {}


def repeated():
    """A weight is made of one stored matrix twice: as it is, and after a Gather and a Pad."""
    constants = {"order": np.arange(WIDTH // 2)[::-1], "pads": np.array([2, 0, 2, 0])}
    nodes = [
        node("Gather", ["w", "order"], ["g"], axis=0),
        node("Concat", ["g", "w"], ["u"], axis=0),
        node("MatMul", ["x", "u"], ["h"]),
        node("Pad", ["v", "pads"], ["p"]),
        node("Concat", ["p", "v"], ["q"], axis=0),
        node("MatMul", ["h", "q"], ["y"]),
    ]
    weights = [stored("w", WIDTH // 2, WIDTH), stored("v", WIDTH // 2 - 2, WIDTH)]
    return nodes, [*weights, *(numpy_helper.from_array(a, name) for name, a in constants.items())], {}


def looked_up():
    nodes = [
        node("ArgMax", ["x"], ["ids"], axis=1, keepdims=0),
        node("Gather", ["w", "ids"], ["e"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["e", "t"], ["y"]),
    ]
    return nodes, matrices()[:1], {}


def square_and_tied():
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Transpose", ["w"], ["t"]),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    return nodes, matrices()[:1], {}


def masked():
    nodes = [
        node("Mul", ["w", "v"], ["m"]),
        node("MatMul", ["x", "m"], ["y"]),
    ]
    return nodes, matrices(), {}


def in_double():
    weight = numpy_helper.from_array(numpy_helper.to_array(stored("w", WIDTH, WIDTH)).astype(np.float64), "w")
    nodes = [
        node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        node("MatMul", ["d", "w"], ["h"]),
        node("Cast", ["h"], ["y"], to=TensorProto.FLOAT),
    ]
    return nodes, [weight], {}


def without_weights():
    return [node("Relu", ["x"], ["y"])], [], {}


@pytest.fixture(
    params=[
        function,
        body,
        batched,
        einsum,
        left_operand,
        grouped,
        transposed_input,
        scaled_bias,
        read_twice,
        tied,
        stored_in_half,
        recurrent,
        weight_only_int4,
        carried,
        repeated,
        looked_up,
        square_and_tied,
        masked,
        in_double,
        without_weights,
    ],
    ids=lambda make: make.__name__,
)
def odd(request, tmp_path, monkeypatch):
    nodes, weights, more = request.param()
    inputs, outputs = (
        [info(name, TensorProto.FLOAT, sizes)] for name, sizes in (("x", ["n", WIDTH]), ("y", None))
    )
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    opsets = [ONNX, helper.make_opsetid("own", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10, **more), tmp_path / "a.onnx")
    np.savez(tmp_path / "SAMPLES.npz", x=np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    return request.param


def following(out):
    return [shlex.split(line.removeprefix("next:")) for line in out.splitlines() if line.startswith("next:")]


def test_the_next_commands_work_until_one_explains_or_builds(odd, capsys):
    assert main(["verify", "a.onnx", "--fail-on", "none"]) == 0
    told = capsys.readouterr().out
    if "(nm2trt prune)" in told:
        assert main(["prune", "a.onnx", "-o", "pruned.onnx", "--json"]) == 0
        capsys.readouterr()
    for _ in range(4):
        words = following(told or capsys.readouterr().out)
        told = ""
        if not words:
            assert odd is without_weights
            return
        if words[0][1] in ("explain", "build"):
            if words[0][1] == "build":
                words[0].append("--dry-run")
            assert main(words[0][1:]) == 0
            return
        assert main(words[0][1:]) == 0
    pytest.fail("the commands go round in circles")


def test_a_recipe_with_samples_runs_as_it_is(odd, capsys):
    assert main(["init", "a.onnx", "--calib", "SAMPLES.npz", "--target", "sm86", "--backend", "trt-rtx"]) == 0
    promised = capsys.readouterr().out
    assert main(["run", "a.yaml", "--until", "verify"]) == 0
    # Those are pruned, and lowered; the others stay as no sparse kernel runs them.
    lowered = (function, batched, transposed_input, scaled_bias, read_twice, stored_in_half, repeated, masked)
    assert ("once the recipe has run, up to" in promised) is (odd in lowered)


@pytest.mark.parametrize("odd", [function, body, carried, looked_up], indirect=True, ids=lambda f: f.__name__)
def test_a_recipe_without_samples_casts_only_what_can_be_cast(odd, capsys):
    assert main(["init", "a.onnx", "--target", "sm86", "--backend", "trt-rtx"]) == 0
    assert ("\n  cast:" in Path("a.yaml").read_text()) is (odd in (function, looked_up))
    assert main(["run", "a.yaml", "--until", "verify"]) == 0


def test_a_recipe_casts_nothing_behind_an_operator_whose_output_has_no_known_type(tmp_path, monkeypatch):
    norm = node("SimplifiedLayerNormalization", ["x", "g"], ["n"], axis=-1)
    gain = numpy_helper.from_array(np.ones(WIDTH, np.float32), "g")
    write(tmp_path / "a.onnx", [norm, node("MatMul", ["n", "w"], ["y"])], [*matrices()[:1], gain])
    monkeypatch.chdir(tmp_path)
    assert main(["init", "a.onnx", "--target", "sm86", "--backend", "trt-rtx"]) == 0
    assert "\n  cast:" not in Path("a.yaml").read_text()
    assert main(["run", "a.yaml", "--until", "verify"]) == 0


def write(path, nodes, weights):
    inputs, outputs = [info("x", TensorProto.FLOAT, ["n", WIDTH])], [info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[ONNX], ir_version=10), path)
    np.savez(
        path.with_name("SAMPLES.npz"),
        x=np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32),
    )


@pytest.mark.parametrize("kind", [batched, body, read_twice, tied])
def test_a_recipe_promises_no_more_than_verify_finds_after_it(kind, tmp_path, monkeypatch, capsys):
    """One weight is rebuilt and lowered, the others are out of the reach of samples."""
    nodes, weights, _ = kind()
    for inner in nodes:
        for at, name in enumerate(inner.input):
            inner.input[at] = "first" if name == "x" else name
        for graph in (attribute.g for attribute in inner.attribute):
            for deeper in graph.node:
                deeper.input[0] = "first"
    write(
        tmp_path / "a.onnx",
        [node("MatMul", ["x", "u"], ["first"]), *nodes],
        [stored("u", WIDTH, WIDTH), *weights],
    )
    monkeypatch.chdir(tmp_path)
    place = ["--target", "sm86", "--backend", "trt-rtx"]
    assert main(["init", "a.onnx", "--calib", "SAMPLES.npz", *place]) == 0
    promised = capsys.readouterr().out
    assert main(["run", "a.yaml", "--until", "verify"]) == 0
    (last,) = (tmp_path / "runs").rglob("prune*.onnx")
    found = nm2trt.verify(last, backend="trt-rtx", targets="sm86").outlook
    if kind is body:  # in front of a body even that one is an island, which "up to" allows for
        found = "1 of 3 weights can run sparse"
    assert f"once the recipe has run, up to {found}" in promised
    # The same if magnitude has pruned all of them before: what lies in a body is not lowered.
    nm2trt.prune("a.onnx", "held.onnx")
    assert main(["init", "held.onnx", "--calib", "SAMPLES.npz", *place]) == 0
    again = capsys.readouterr().out
    assert ("up to 1 of 3 weights" in again) is (kind is body)


def test_a_plan_that_is_broken_leads_back_to_pruning(tmp_path, capsys):
    write(
        tmp_path / "a.onnx",
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])],
        matrices(),
    )
    nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx")
    broken = onnx.load(tmp_path / "b.onnx")
    at = next(at for at, tensor in enumerate(broken.graph.initializer) if tensor.name == "v")
    broken.graph.initializer[at].CopyFrom(stored("v", WIDTH, WIDTH))
    onnx.save(broken, tmp_path / "b.onnx")
    assert main(["verify", str(tmp_path / "b.onnx"), "--fail-on", "none"]) == 0
    assert following(capsys.readouterr().out)[0][:2] == ["nm2trt", "prune"]


def test_samples_that_rebuild_nothing_lead_to_magnitude(tmp_path):
    write(tmp_path / "a.onnx", *batched()[:2])
    with pytest.raises(nm2trt.SparsityError, match="leave --calib out to prune by magnitude"):
        nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "SAMPLES.npz")


def test_samples_that_could_rebuild_only_a_small_layer_lead_to_magnitude(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    write(tmp_path / "a.onnx", nodes, [stored("w", 2, WIDTH, 8), stored("v", 8, 4)])
    told = "2:4; w: a weight of shape .* is not a matrix; leave --calib out to prune by magnitude"
    with pytest.raises(nm2trt.SparsityError, match=told):
        nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "SAMPLES.npz")
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [(row.weight, row.status) for row in report.weights] == [("w", "pruned"), ("v", "dense")]


def test_the_verdict_names_a_weight_that_pruning_mends_and_not_a_larger_lstm(tmp_path):
    nodes = [
        node("LSTM", ["x", "w", "r"], ["h"], hidden_size=WIDTH),
        node("Squeeze", ["h", "one"], ["s"]),
        node("MatMul", ["s", "v"], ["y"]),
    ]
    weights = [stored("w", 1, 4 * WIDTH, WIDTH), stored("r", 1, 4 * WIDTH, WIDTH), stored("v", WIDTH, WIDTH)]
    weights.append(numpy_helper.from_array(np.array([1]), "one"))
    inputs, outputs = [info("x", TensorProto.FLOAT, [5, 1, WIDTH])], [info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[ONNX], ir_version=10), tmp_path / "a.onnx")
    report = nm2trt.verify(tmp_path / "a.onnx", backend="trt-rtx", targets="sm86")
    assert {verdict.weight for verdict in report.weights} == {"w", "r", "v"}
    assert ": v: " in report.outlook


@pytest.mark.parametrize("odd", [sequence], indirect=True, ids=["sequence"])
def test_a_recipe_builds_nothing_that_the_builder_cannot_read(odd, capsys):
    place = ["--target", "sm86", "--backend", "trt-rtx"]
    assert main(["init", "a.onnx", "--calib", "SAMPLES.npz", *place]) == 0
    unread = "does not read this model: it has SequenceConstruct at SequenceConstruct#2"
    assert f"nothing will run sparse on sm86 with trt-rtx: TensorRT for RTX {unread}" in re.sub(
        r" 1\.7[.0-9]*", "", capsys.readouterr().out
    )
    recipe = Path("a.yaml").read_text()
    assert "No engine: the builder's parser does not read SequenceConstruct at SequenceConstruct#2" in recipe
    assert "\n  build:" not in recipe


@pytest.mark.parametrize(
    ("samples", "told"),
    [
        pytest.param({"a": (8, WIDTH)}, "rename 'a' to 'x'", id="misnamed"),
        pytest.param({"x": (8, WIDTH), "b": (8, 1)}, "leave out 'b', or call true", id="one too many"),
        pytest.param({"x": (8, 5)}, f"takes shape nx{WIDTH}, the samples have", id="shape"),
        pytest.param({"x": (8, WIDTH), "labels": (8,)}, "", id="with labels"),
        pytest.param({"x": (0, WIDTH)}, "no sample", id="empty"),
    ],
)
def test_a_recipe_is_not_written_for_samples_that_it_cannot_feed(
    samples, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.onnx", [node("MatMul", ["x", "w"], ["y"])], matrices()[:1])
    np.savez("given.npz", **{name: np.ones(shape, np.float32) for name, shape in samples.items()})
    status = main(["init", "a.onnx", "--calib", "given.npz"])
    assert Path("a.yaml").exists() is not bool(told)
    assert status == (2 if told else 0)
    assert told in capsys.readouterr().err


def test_a_free_size_written_as_minus_1_is_free_in_a_recipe_and_in_info(tmp_path, monkeypatch, capsys):
    """As PaddlePaddle's converters write a free batch."""
    weights = [numpy_helper.from_array(np.ones((16, 16, 1, 1), np.float32), "w")]
    inputs, outputs = ([info(name, TensorProto.FLOAT, [-1, 16, "h", None])] for name in "xy")
    graph = helper.make_graph([node("Conv", ["x", "w"], ["y"])], "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[ONNX], ir_version=10), tmp_path / "a.onnx")
    monkeypatch.chdir(tmp_path)
    assert main(["info", "a.onnx", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["inputs"][0]["shape"] == [None, 16, "h", None]
    assert main(["init", "a.onnx", "--target", "sm86", "--backend", "trt-rtx"]) == 0
    assert "x:1x16x64x64,8x16x128x128,32x16x256x256" in Path("a.yaml").read_text()
    assert main(["run", "a.yaml", "--until", "verify"]) == 0
