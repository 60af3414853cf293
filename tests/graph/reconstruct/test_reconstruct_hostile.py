"""prune --calib on graphs that are legal and unkind: the one layer is left alone, the command does not fail."""

import json
import shlex
import subprocess
import sys
import tracemalloc

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.cli import main
from nm2trt.errors import SparsityError
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.reporting.fields import Fields
from nm2trt.reporting.sentences import sentence_of
from tests.graph.reconstruct.test_reconstruct_model import network, samples

WIDTH = 16
node = helper.make_node


def made(folder, nodes, *, outputs=("y",), weights=("w", "w2"), stored=(), samples=64, change=None):
    """Write a model of `x` (n, 16), its samples, and return what rebuilding it reports."""
    random = np.random.default_rng(0)
    numbers = [
        numpy_helper.from_array((random.normal(size=(WIDTH, WIDTH)) / 4).astype(np.float32), name)
        for name in weights
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*numbers, *(numpy_helper.from_array(array, name) for name, array in dict(stored).items())],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        folder / "a.onnx",
    )
    x = random.normal(size=(samples, WIDTH)).astype(np.float32)
    if change is not None:
        change(x)
    np.savez(folder / "s.npz", x=x)
    report = nm2trt.prune(folder / "a.onnx", folder / "b.onnx", calib=folder / "s.npz")
    assert verify_model(folder / "b.onnx").passed()
    return report


def status(report):
    return {row.weight: row.status for row in report.weights}


def first_positive(value, limit):
    """Keep the rows whose first entry exceeds a limit: a shape that depends on the values."""
    nodes = [
        node("Gather", [value, "zero"], ["first"], axis=1),
        node("Greater", ["first", "limit"], ["keep"]),
        node("Compress", [value, "keep"], ["kept"], axis=0),
    ]
    return nodes, {"zero": np.array(0), "limit": np.array(limit, np.float32)}


def test_nodes_that_nothing_reads(tmp_path):
    nodes = [
        node("Relu", ["x"], ["unread"]),
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "w2"], ["y"]),
        node("Relu", ["a"], ["unread2"]),
    ]
    assert made(tmp_path, nodes).counts["pruned"] == 2


@pytest.mark.parametrize(
    ("limit", "reason"), [(0.0, "depends on values"), (1e9, "no calibration sample reaches it")]
)
def test_shapes_that_depend_on_values(tmp_path, limit, reason):
    kept, stored = first_positive("a", limit)
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        *kept,
        node("MatMul", ["kept", "w2"], ["y"]),
        node("MatMul", ["a", "w3"], ["z"]),
    ]
    report = made(tmp_path, nodes, outputs=("y", "z"), weights=("w", "w2", "w3"), stored=stored)
    assert status(report) == {"w": "pruned", "w2": "dense", "w3": "pruned"}
    assert reason in report.weights[1].reason
    assert report.outputs[0].error is None
    assert report.outputs[1].error < 0.5


def test_a_held_out_sample_that_is_not_finite_behind_a_root(tmp_path):
    nodes = [
        node("Add", ["x", "ten"], ["p"]),
        node("Sqrt", ["p"], ["q"]),
        node("MatMul", ["x", "w"], ["a"]),
        node("Add", ["a", "q"], ["s"]),
        node("MatMul", ["s", "w2"], ["y"]),
    ]

    def change(x):
        x[60, 3] = -20  # the last of eight chunks is held out

    report = made(tmp_path, nodes, stored={"ten": np.array(10, np.float32)}, change=change)
    assert status(report) == {"w": "pruned", "w2": "dense"}
    assert "NaN or infinity" in report.weights[1].reason
    assert report.outputs[0].remark.startswith("1 row holds NaN")
    json.dumps(report.to_json(), allow_nan=False)


def test_weights_without_elements(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "e"], ["nothing"]),
        node("MatMul", ["nothing", "f"], ["zeros"]),
        node("Add", ["a", "zeros"], ["s"]),
        node("MatMul", ["s", "w2"], ["y"]),
    ]
    stored = {"e": np.zeros((WIDTH, 0), np.float32), "f": np.zeros((0, WIDTH), np.float32)}
    assert made(tmp_path, nodes, stored=stored).counts["pruned"] == 2


def test_a_weight_that_is_an_output_under_another_name_stays(tmp_path):
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("MatMul", ["a", "w2"], ["y"]),
        node("Identity", ["w"], ["copy"]),
    ]
    report = made(tmp_path, nodes, outputs=("y", "copy"))
    assert status(report) == {"w": "dense", "w2": "pruned"}


def test_a_bias_that_would_overflow_leaves_its_layer_alone(tmp_path):
    # The mean of the output moves by more than float16 holds beyond the old bias.
    random = np.random.default_rng(0)
    numbers = {
        "w": random.normal(size=(WIDTH, WIDTH)),
        "b": np.full(WIDTH, -65504.0),
        "w2": random.normal(size=(WIDTH, WIDTH)) / 256,
    }
    graph = helper.make_graph(
        [
            node("Gemm", ["x", "w", "b"], ["a"]),
            node("Mul", ["a", "small"], ["r"]),
            node("MatMul", ["r", "w2"], ["y"]),
        ],
        "half",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, ["n", WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["n", WIDTH])],
        [
            *(numpy_helper.from_array(array.astype(np.float16), name) for name, array in numbers.items()),
            numpy_helper.from_array(np.array(1e-4, np.float16), "small"),
        ],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
        tmp_path / "a.onnx",
    )
    np.savez(tmp_path / "s.npz", x=(3000 + 30 * random.normal(size=(64, WIDTH))).astype(np.float16))
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz")
    rows = {row.weight: row for row in report.weights}
    assert (rows["w"].status, rows["w"].reason) == ("dense", "its new bias is not finite")
    assert rows["w2"].status == "pruned"


def weights_of(path):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e-30])
def test_samples_that_do_not_vary(tmp_path, scale):
    nodes = [
        node("Gemm", ["x", "w", "b"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Gemm", ["r", "w2", "b2"], ["y"]),
    ]
    stored = {name: np.linspace(-1, 1, WIDTH, dtype=np.float32) for name in ("b", "b2")}

    def change(x):
        x[:] = scale * np.linspace(0.5, 2, WIDTH)

    report = made(tmp_path, nodes, stored=stored, change=change)
    assert status(report) == {"w": "pruned", "w2": "pruned"}
    assert report.outputs[0].cosine > 0.999
    assert all(abs(row.error) < 1e-3 for row in report.weights)
    assert "samples are equal and show no more than one would, not even held-out ones" in str(report.notes)
    before, after = (weights_of(tmp_path / f"{name}.onnx") for name in "ab")
    assert all(np.abs(after[name]).max() <= np.abs(before[name]).max() + 1e-6 for name in ("w", "w2"))
    json.dumps(report.to_json(), allow_nan=False)


def test_a_constant_output_has_an_error_all_the_same(tmp_path):
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("ReduceMean", ["a"], ["y"], keepdims=0)]
    assert made(tmp_path, nodes, weights=("w",)).outputs[0].error < 1e3


def test_nothing_to_prune_says_which_weight_and_why(tmp_path, capsys):
    with pytest.raises(SparsityError, match="w: its weight is the left operand"):
        made(tmp_path, [node("MatMul", ["w", "x"], ["y"])], weights=("w",), samples=16)
    with pytest.raises(SparsityError, match="it has no weight"):
        made(tmp_path, [node("Relu", ["x"], ["y"])], weights=())
    assert main(["prune", str(tmp_path / "a.onnx"), "--calib", str(tmp_path / "s.npz")]) == 3
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.onnx", "s.npz"]


def test_a_model_that_is_pruned_already_is_told_from_one_that_cannot_be(tmp_path, capsys):
    made(tmp_path, [node("MatMul", ["x", "w"], ["y"])], weights=("w",), samples=16)
    assert main(["prune", str(tmp_path / "b.onnx"), "--calib", str(tmp_path / "s.npz")]) == 3
    assert "1 of 1 hold it already and are not solved again; give the model as it was before" in (
        capsys.readouterr().err
    )


def test_a_layer_whose_covariance_fits_no_memory_is_solved_from_its_rows(tmp_path):
    """A Linear layer after a Flatten may ask for tens of GB; here a product of 16,448 inputs for 2 GB."""
    random = np.random.default_rng(0)
    wide = (random.normal(size=(WIDTH * 1028, WIDTH)) / 128).astype(np.float32)
    nodes = [
        node("Concat", ["x"] * 1028, ["many"], axis=1),
        node("MatMul", ["many", "wide"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w"], ["y"]),
    ]
    tracemalloc.start()
    try:
        report = made(tmp_path, nodes, weights=("w",), stored={"wide": wide})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert status(report) == {"wide": "pruned", "w": "pruned"}
    (row,) = (row for row in report.weights if row.weight == "wide")
    assert (row.rows, row.held_out) == (64, True)
    # Each input comes 1,028 times: half of the weights lose nothing, if their values are solved.
    assert row.error < 1e-3
    assert peak < 8 * 16448**2 / 4


def test_activations_that_do_not_fit_on_the_disk_are_one_sentence(tmp_path):
    network(tmp_path / "a.onnx")
    samples(tmp_path / "s.npz", 300)
    small = tmp_path / "small"
    small.mkdir()
    words = [sys.executable, "-m", "nm2trt", "prune", "a.onnx", "-o", "b.onnx", "--calib", "s.npz"]
    script = (
        f"mount -t tmpfs -o size=300k none {small} || exit 99; TMPDIR={small} {shlex.join(words)}; "
        f"code=$?; ls {small}; exit $code"
    )
    try:
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare")
    if done.returncode in (1, 99) and "nm2trt:" not in done.stderr:
        pytest.skip("no file system may be mounted here")
    assert done.returncode == 2
    (sentence,) = [line for line in done.stderr.splitlines() if line.startswith("nm2trt:")]
    assert "the activations of the calibration samples do not fit on the disk of" in sentence
    assert "give fewer samples, or set TMPDIR to a folder with more room" in sentence
    assert done.stdout == ""  # nothing is left on that disk
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize(("factor", "permuted"), [(1.0, True), (1e7, False)])
def test_a_model_that_amplifies_rounding_is_rebuilt_without_permuted_channels(tmp_path, factor, permuted):
    """Another order of the same sums moves the sine of a large number anywhere."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["m"]),
        node("Mul", ["m", "factor"], ["large"]),
        node("Sin", ["large"], ["y"]),
    ]
    report = made(tmp_path, nodes, stored={"factor": np.array(factor, np.float32)})
    assert status(report) == {"w": "pruned", "w2": "pruned"}
    assert report.permuted is permuted
    told = [remark for remark in report.remarks() if remark.startswith("channels stay in their order")]
    assert told == ([] if permuted else [report.channels_kept])


def test_a_share_that_held_weights_do_already_is_refused(tmp_path):
    nodes = [node("MatMul", ["x", "held"], ["a"]), node("MatMul", ["a", "w"], ["y"])]
    held = {"held": np.zeros((WIDTH, WIDTH), np.float32)}
    assert status(made(tmp_path, nodes, weights=("w",), stored=held)) == {"held": "kept", "w": "pruned"}
    (tmp_path / "b.onnx").unlink()
    with pytest.raises(SparsityError, match=r"1 of 2 hold it already, and do at least 50 % of the work; ask"):
        nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz", share=0.5)
    assert not (tmp_path / "b.onnx").exists()


@pytest.mark.parametrize("version", [3, 8])
def test_weights_that_are_listed_as_inputs_too_are_rebuilt(tmp_path, version):
    made(tmp_path, [node("MatMul", ["x", "w"], ["a"]), node("MatMul", ["a", "w2"], ["y"])])
    model = onnx.load(tmp_path / "a.onnx")
    model.ir_version = version
    for name in ("w", "w2"):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [WIDTH, WIDTH]))
    onnx.save(model, tmp_path / "a.onnx")
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz", to="int8")
    assert status(report.report) == {"w": "pruned", "w2": "pruned"}
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load(tmp_path / "b.onnx").graph.initializer
    }
    for name in ("w", "w2"):  # MatMul reads groups along axis 0
        assert ((stored[name].reshape(-1, 4, WIDTH) != 0).sum(axis=1) <= 2).all()


def test_weights_are_stored_as_they_are_multiplied(tmp_path):
    """A Transpose, Reshape, Split or Concat in front of a weight goes, if nothing else reads what it moves."""
    nodes = [
        node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        node("MatMul", ["x", "turned"], ["a"]),
        node("Split", ["pair"], ["left", "right"], axis=1),
        node("MatMul", ["a", "left"], ["b"]),
        node("MatMul", ["a", "right"], ["c"]),
        node("Add", ["b", "c"], ["d"]),
        node("Concat", ["upper", "lower"], ["joined"], axis=0),
        node("MatMul", ["d", "joined"], ["e"]),
        node("Reshape", ["cube", "square"], ["flat"]),
        node("MatMul", ["e", "flat"], ["f0"]),
        node("Constant", [], ["k"], value=numpy_helper.from_array(np.eye(WIDTH, dtype=np.float32))),
        node("Transpose", ["k"], ["kt"], perm=[1, 0]),
        node("MatMul", ["f0", "kt"], ["f"]),
        node("Transpose", ["w2"], ["back"], perm=[1, 0]),
        node("MatMul", ["f", "w2"], ["g"]),
        node("MatMul", ["g", "back"], ["y"]),
    ]
    shapes = {"pair": (WIDTH, 32), "upper": (8, WIDTH), "lower": (8, WIDTH), "cube": (4, 4, WIDTH)}
    random = np.random.default_rng(1)
    stored = {name: (random.normal(size=shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    report = made(tmp_path, nodes, stored={**stored, "square": np.array([WIDTH, WIDTH])})
    found = status(report)
    assert found.pop("w2") == "dense"  # read along two axes
    assert found.pop("k") == "kept"
    assert sorted(found.values()) == ["pruned"] * 5
    written = onnx.load(tmp_path / "b.onnx")
    assert [kind.op_type for kind in written.graph.node if kind.op_type != "MatMul"] == ["Add", "Transpose"]
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in written.graph.initializer}
    read = [kind.input[1] for kind in written.graph.node if kind.op_type == "MatMul"]
    assert all(
        ((weights[name].reshape(-1, 4, WIDTH) != 0).sum(axis=1) <= 2).all()
        for name in read
        if name not in ("w2", "back")
    )


@pytest.mark.parametrize("table", ["w", "same"])
def test_a_tied_embedding_is_not_stored_twice(tmp_path, table):
    """An export may read one of two tied weights through an Identity."""
    nodes = [
        node("Identity", ["w"], ["same"]),
        node("Sign", ["x"], ["signs"]),
        node("Cast", ["signs"], ["ids"], to=TensorProto.INT64),
        node("Gather", [table, "ids"], ["rows"], axis=0),
        node("ReduceSum", ["rows", "one"], ["h"], keepdims=0),
        node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        node("MatMul", ["h", "turned"], ["a"]),
        node("MatMul", ["a", "w2"], ["y"]),
    ]
    report = made(tmp_path, nodes, stored={"one": np.array([1])})
    assert status(report) == {"w": "dense", "w2": "pruned"}
    written = onnx.load(tmp_path / "b.onnx").graph.initializer
    assert [tensor.name for tensor in written if len(tensor.dims) == 2] == ["w", "w2"]


@pytest.mark.parametrize(
    ("shape", "first", "second", "pruned"),
    [
        pytest.param((WIDTH, WIDTH), ("Transpose", []), ("Transpose", []), False, id="two-transposes"),
        pytest.param((WIDTH, 24), ("Slice", [0, 16]), ("Slice", [8, 24]), False, id="slices-that-overlap"),
        pytest.param((WIDTH, 48), ("Slice", [0, 16]), ("Slice", [32, 48]), True, id="slices-apart"),
    ],
)
def test_elements_that_two_layers_read_are_not_stored_twice(tmp_path, shape, first, second, pruned):
    nodes, stored = [], {"axis": np.array([1])}
    stored["shared"] = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    for name, (operator, bounds) in (("one", first), ("two", second)):
        stored |= {f"{name}{place}": np.array([place]) for place in bounds}
        ends = [f"{name}{place}" for place in bounds]
        nodes.append(node(operator, ["shared", *ends, *(["axis"] if ends else [])], [name]))
    nodes += [
        node("MatMul", ["x", "one"], ["a"]),
        node("MatMul", ["a", "two"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    report = made(tmp_path, nodes, weights=("w2",), stored=stored)
    assert status(report)["w2"] == "pruned"
    written = onnx.load(tmp_path / "b.onnx").graph
    weights = {tensor.name: tuple(tensor.dims) for tensor in written.initializer if len(tensor.dims) == 2}
    if pruned:
        assert sorted(weights.values()) == [(WIDTH, WIDTH)] * 3
    else:
        assert weights == {"shared": shape, "w2": (WIDTH, WIDTH)}


def test_a_weight_that_a_body_reads_too_is_not_stored_twice(tmp_path):
    value = helper.make_tensor_value_info("t", TensorProto.FLOAT, None)
    branch = helper.make_graph([node("ReduceSum", ["w"], ["t"], keepdims=0)], "branch", [], [value])
    nodes = [
        node("If", ["yes"], ["sum"], then_branch=branch, else_branch=branch),
        node("Add", ["x", "sum"], ["h"]),
        node("Transpose", ["w"], ["turned"], perm=[1, 0]),
        node("MatMul", ["h", "turned"], ["a"]),
        node("MatMul", ["a", "w2"], ["y"]),
    ]
    report = made(tmp_path, nodes, stored={"yes": np.array(True)})
    assert status(report) == {"w": "dense", "w2": "pruned"}
    written = onnx.load(tmp_path / "b.onnx").graph.initializer
    assert [tensor.name for tensor in written if len(tensor.dims) == 2] == ["w", "w2"]


@pytest.mark.parametrize("only", [False, True])
def test_an_output_that_is_a_sequence_is_not_compared(only, tmp_path):
    """As converters of classifiers write it: beside the scores, or instead of them, a map per sample."""
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("SplitToSequence", ["y"], ["parts"])]
    weight = (np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) / 4).astype(np.float32)
    numbers = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    parts = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", WIDTH])],
        [parts] if only else [numbers, parts],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "a.onnx",
    )
    np.savez(tmp_path / "s.npz", x=np.random.default_rng(1).normal(size=(64, WIDTH)).astype(np.float32))
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "s.npz")
    assert status(report) == {"w": "pruned"}
    assert [output.output for output in report.outputs] == ([] if only else ["y"])
    told = "no output was compared with the dense network's: none is a tensor of numbers"
    assert (told in report.remarks()) is only
    record = Fields(json.loads(json.dumps(report.to_json())), "prune")
    assert (told in sentence_of("prune", record)) is only
    assert verify_model(tmp_path / "b.onnx").any_holds


@pytest.mark.parametrize("many", [False, True], ids=["in one sample", "in all"])
def test_layers_that_get_infinite_numbers_are_refused_without_a_warning(tmp_path, many):
    def spoil(x):
        if many:
            x[np.arange(len(x)), np.arange(len(x)) % x.shape[1]] = np.inf
        else:
            x[0, 0], x[0, 1] = np.inf, -np.inf

    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "w2"], ["y"]),
    ]
    with pytest.raises(SparsityError, match=r"no layer of .* has a solution: its inputs or"):
        made(tmp_path, nodes, change=spoil)
    assert not (tmp_path / "b.onnx").exists()
