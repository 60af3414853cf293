"""`nm2trt validate` on real ONNX files: what it prints, and the exit status and sentence of bad input."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main


def linear(path, weight, *, dtype=np.float32, output="scores"):
    """scores = x @ weight, in `dtype` throughout."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], [output])],
        "g",
        [helper.make_tensor_value_info("x", element, ["n", weight.shape[0]])],
        [helper.make_tensor_value_info(output, element, ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight.astype(dtype), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return str(path)


@pytest.fixture
def files(tmp_path):
    """The reference copies its input; the candidate never names class 2."""
    x = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    np.savez(tmp_path / "test.npz", x=x, labels=np.arange(30) % 3)
    blind = np.diag([1.0, 1.0, -1.0])
    return {
        "reference": linear(tmp_path / "reference.onnx", np.eye(3)),
        "candidate": linear(tmp_path / "candidate.onnx", blind, dtype=np.float16),
        "data": str(tmp_path / "test.npz"),
    }


def run(capsys, files, *more, **replaced):
    given = {**files, **{name: str(value) for name, value in replaced.items()}}
    words = ["validate", given["candidate"], "--against", given["reference"], "--data", given["data"]]
    status = main([*words, "--runs", "3", "--warmup", "1", *more])
    return status, *capsys.readouterr()


def test_json_holds_counts_interval_differences_and_latency(files, capsys):
    status, out, err = run(capsys, files, "--json")

    assert (status, err) == (0, "")
    report = json.loads(out)
    top1, agreement = report["metrics"]
    assert (top1["name"], agreement["name"]) == ("top-1", "agreement")
    assert (top1["candidate"]["right"], top1["reference"]["right"], report["n"]) == (20, 30, 30)
    assert (top1["paired"]["gained"], top1["paired"]["lost"]) == (0, 10)
    assert top1["paired"]["low"] < -1 / 3 < top1["paired"]["high"] < 0
    assert agreement["candidate"]["value"] == pytest.approx(2 / 3)
    assert report["conversions"] == {"candidate": ["x: float32 -> float16"], "reference": []}
    assert report["differences"][0]["max_abs"] == 2.0
    latencies = report["benchmark"]["latencies"]
    assert {name: t["runs"] for name, t in latencies.items()} == {"candidate": 3, "reference": 3}
    assert {"p50_ms", "p90_ms", "p99_ms"} <= set(latencies["candidate"])


def test_tables_say_it_in_words(files, capsys):
    status, out, _ = run(capsys, files)

    assert status == 0
    assert "difference -33.33 points, 95% interval" in out
    assert "n = 30: 0 gained, 10 lost" in out
    assert "converted for the candidate: x: float32 -> float16" in out
    assert "p99 ms" in out


def damaged(path):
    path.write_bytes(b"\x08\x01 not a model")
    return path


@pytest.mark.parametrize(
    ("replace", "status", "sentence"),
    [
        pytest.param({"candidate": lambda d: d / "none.onnx"}, 2, "does not exist", id="missing-model"),
        pytest.param({"reference": lambda d: d}, 2, "is a folder", id="folder"),
        pytest.param({"candidate": lambda d: damaged(d / "bad.onnx")}, 2, "cannot load", id="not-onnx"),
        pytest.param({"data": lambda d: damaged(d / "bad.npz")}, 2, "not a sound .npz", id="not-npz"),
        pytest.param(
            {"candidate": lambda d: linear(d / "o.onnx", np.eye(3), output="other")},
            5, "candidate's outputs are ['other']", id="output-names",
        ),
        pytest.param(
            {"candidate": lambda d: linear(d / "s.onnx", np.eye(4))},
            2, "takes samples of shape nx4, the data has (30, 3)", id="input-shape",
        ),
        pytest.param(
            {"candidate": lambda d: linear(d / "n.onnx", np.full((3, 3), np.nan))},
            5, "is NaN for 30 of 30 samples", id="nan",
        ),
        pytest.param(
            {"candidate": lambda d: linear(d / "two.onnx", np.eye(3)[:, :2])},
            2, "labels run from 0 to 2", id="labels",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_one_sentence(replace, status, sentence, files, capsys, tmp_path):
    made = {name: make(tmp_path) for name, make in replace.items()}
    found, out, err = run(capsys, files, **made)
    assert (found, out) == (status, "")
    assert sentence in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(["--batch", "0"], "batch of 0 cannot be run", id="batch"),
        pytest.param(["--runs", "-1"], "cannot be timed", id="runs"),
        pytest.param(["--output", "y"], "no output 'y'", id="output"),
    ],
)
def test_bad_options_are_one_sentence(options, sentence, files, capsys):
    status, out, err = run(capsys, files, *options)
    assert (status, out) == (2, "")
    assert sentence in err


def test_static_batch_models_are_fed_their_own_batch(files, capsys, tmp_path):
    model = onnx.load(files["candidate"])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 7
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 7
    onnx.save(model, tmp_path / "seven.onnx")

    status, out, _ = run(capsys, files, "--json", candidate=tmp_path / "seven.onnx")
    assert status == 0
    report = json.loads(out)
    assert report["metrics"][0]["candidate"]["right"] == 20
    assert report["benchmark"]["batch"] == {"candidate": 7, "reference": 1}
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
