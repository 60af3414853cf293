"""`nm2trt validate` on real ONNX files: what it prints, and the exit status and sentence of bad input."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main

ROOT = Path(__file__).parents[2]


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
    assert "difference -33.33 points, 95 % interval" in out
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
        pytest.param(["--batch", "0"], "--batch 0 is out of range; give 1 or more", id="batch"),
        pytest.param(["--runs", "-1"], "--runs -1 is out of range; give 0 to 1000000", id="runs"),
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


def test_a_drop_that_is_not_excluded_is_exit_5_in_words(files, capsys, tmp_path):
    status, out, err = run(capsys, files, "--max-drop", "0.5pt", "-o", str(tmp_path / "r.json"))
    assert status == 5
    assert "difference -33.33 points" in out  # the result is printed all the same
    assert "top-1: the drop is 33.33 points, more than 0.5 points" in err
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["passed"], report["gates"][0]["metric"], len(report["gates"])) == (False, "top-1", 1)


def test_a_drop_that_is_excluded_is_said_so(files, capsys):
    status, out, _ = run(capsys, files, "--max-drop", "60pt")
    assert status == 0
    assert "top-1: a drop of more than 60 points is excluded" in out
    assert out.endswith("PASS: 1 of 1 gates\n")


def test_metrics_that_are_named_are_all_held_to_it(files, capsys):
    words = ("--metric", "top-2", "--metric", "agreement", "--max-drop", "10pt", "--json")
    status, out, _ = run(capsys, files, *words)
    report = json.loads(out)
    assert status == 5
    assert {gate["metric"]: gate["passed"] for gate in report["gates"]} == {
        "top-2": False,
        "agreement": False,
    }
    assert [metric["name"] for metric in report["metrics"]] == ["top-2", "agreement"]


def test_unlabelled_data_compares_outputs(files, capsys, tmp_path):
    np.savez(tmp_path / "x.npz", x=np.eye(3, dtype=np.float32))
    status, out, _ = run(capsys, files, data=tmp_path / "x.npz")
    assert status == 0
    assert "Outputs, candidate against reference, 3 samples" in out
    status, _, err = run(capsys, files, "--max-drop", "1pt", data=tmp_path / "x.npz")
    assert (status, "--max-drop needs a metric, and the data has no labels" in err) == (2, True)


def test_bisection_names_the_node(files, capsys):
    status, out, _ = run(capsys, files, "--bisect")
    assert status == 0
    assert "first to differ: tensor 'scores', made by MatMul 'scores': max relative difference 2" in out


def fixed(path, batch):
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    onnx.save(model, path)


def test_bisection_gives_both_models_the_same_samples(files, capsys):
    fixed(files["reference"], 3)
    assert "MatMul 'scores': max relative difference 2" in run(capsys, files, "--bisect")[1]
    fixed(files["candidate"], 2)
    status, _, err = run(capsys, files, "--bisect")
    assert status == 2
    assert "their batches are fixed to 2 and 3" in err


def test_bisection_names_the_node_that_makes_nan(files, capsys, tmp_path):
    linear(tmp_path / "candidate.onnx", np.full((3, 3), np.nan))
    status, _, err = run(capsys, files, "--bisect")
    assert status == 5
    assert "is NaN for 30 of 30 samples; first to differ: tensor 'scores', made by MatMul" in err


def test_the_report_does_not_replace_the_data(files, capsys):
    before = Path(files["data"]).read_bytes()
    status, _, err = run(capsys, files, "-o", files["data"])
    assert (status, Path(files["data"]).read_bytes()) == (2, before)
    assert "is an input, and would be replaced" in err


def test_bisection_of_what_shows_no_inside_is_refused(files, capsys):
    status, out, err = run(capsys, files, "--bisect", candidate="http://127.0.0.1:9/m")
    assert (status, out) == (2, "")
    assert "http://127.0.0.1:9/m shows only its outputs; bisect the ONNX model" in err
    assert "polygraphy run MODEL.onnx --onnxrt --trt" in err


def fails_late(outputs, truth):
    if len(truth["labels"]) < 8:
        raise RuntimeError("planted")
    return outputs["scores"].argmax(1) == truth["labels"]


def test_what_was_done_before_a_metric_failed_is_written(files, capsys, tmp_path):
    name, kept = f"{__name__}:fails_late", tmp_path / "r.json"
    status, out, err = run(capsys, files, "--metric", name, "--batch", "8", "-o", str(kept))
    assert status == 2
    assert (
        f"{name} failed on the candidate's outputs: RuntimeError: planted; 24 of 30 samples were compared"
        in err
    )
    assert f"what was found so far is in {kept}" in err
    assert err.count("\n") == 1
    report = json.loads(kept.read_text())
    assert (report["n"], report["metrics"][0]["paired"]["n"]) == (24, 24)
    assert "planted" in report["stopped"]
    assert "24 samples" in out


def test_a_report_that_cannot_be_written_is_told_before_the_work(files, capsys, tmp_path):
    status, out, err = run(capsys, files, "-o", str(tmp_path / "no" / "r.json"))
    assert (status, out, "does not exist" in err) == (2, "", True)


def test_a_recipe_is_data(files, capsys, tmp_path):
    pytest.importorskip("pydantic")
    (tmp_path / "r.yaml").write_text("source: {kind: npz, path: test.npz}\ncount: 12\nrange: [0, 24]\n")
    status, out, _ = run(capsys, files, "--json", data=tmp_path / "r.yaml")
    assert (status, json.loads(out)["n"]) == (0, 12)


def test_ctrl_c_keeps_what_was_done(files, tmp_path):
    """A real process, interrupted in its samples."""
    kept = tmp_path / "r.json"
    (tmp_path / "slow.py").write_text(
        "import sys, time\n"
        "def metric(outputs, truth):\n"
        "    print('scored', file=sys.stderr, flush=True)\n"
        "    time.sleep(0.02)\n"
        "    return outputs['scores'].argmax(1) == truth['labels']\n"
    )
    words = ["validate", files["candidate"], "--against", files["reference"], "--data", files["data"]]
    process = subprocess.Popen(
        [sys.executable, "-m", "nm2trt", *words, "--metric", "slow:metric", "--batch", "1", "-o", str(kept)],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
    )  # fmt: skip
    for _ in range(6):
        assert process.stderr.readline() == "scored\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    report = json.loads(kept.read_text())
    assert 2 <= report["n"] < 30
    assert f"{report['n']} of 30 samples were compared before" in err


MEASURE = """
import sys
from nm2trt.cli import main
from nm2trt.measure import peak_resident_bytes
assert main(sys.argv[1:]) == 0
print(peak_resident_bytes(), file=sys.stderr)
"""


def test_memory_does_not_grow_with_the_samples(tmp_path):
    model = linear(tmp_path / "m.onnx", np.eye(1000)[:, :4])
    peaks = []
    for count in (500, 8000):
        np.savez(tmp_path / "d.npz", x=np.zeros((count, 1000), np.float32), labels=np.zeros(count, int))
        words = [
            "validate",
            model,
            "--against",
            model,
            "--data",
            str(tmp_path / "d.npz"),
            "--runs",
            "0",
            "--json",
        ]
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *words], capture_output=True, text=True, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert json.loads(done.stdout)["n"] == count
        peaks.append(int(done.stderr))
    assert peaks[1] - peaks[0] < 20e6 < 8000 * 4000


FOLDER = []


def removes_the_folder(outputs, truth):
    if FOLDER[0].exists():
        FOLDER[0].rmdir()
    return outputs["scores"].argmax(1) == truth["labels"]


@pytest.mark.parametrize("shown", [[], ["--json"]], ids=["tables", "json"])
def test_a_result_that_cannot_be_written_is_printed(shown, files, capsys, tmp_path):
    FOLDER[:] = [tmp_path / "gone"]
    FOLDER[0].mkdir()
    name, kept = f"{__name__}:removes_the_folder", FOLDER[0] / "r.json"
    words = ["--metric", name, "-o", str(kept), *shown]
    data = tmp_path / "x.npz"
    np.savez(data, x=np.eye(3, dtype=np.float32), labels=np.arange(3))

    status, out, err = run(capsys, files, *words, data=data)
    assert (status, err.count("\n")) == (2, 1)
    assert f"{kept} cannot be written" in err
    assert ("difference" in out, "Traceback" in err) == (True, False)


def scaled(path, weight, factor):
    """y = factor * (x @ weight): a factor of 0 is a dead network, one of NaN a broken one."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "k"], ["scores"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [
            numpy_helper.from_array(weight.astype(np.float32), "w"),
            numpy_helper.from_array(np.float32(factor), "k"),
        ],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return str(path)


def test_without_a_gate_it_says_so_and_warns_of_unrelated_outputs(files, capsys, tmp_path):
    turned = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]])  # every row is orthogonal to the reference's
    other = scaled(tmp_path / "other.onnx", turned, 1)
    status, out, err = run(capsys, files, candidate=other)
    assert status == 0
    assert "no gate set" in out
    assert "warning: output 'scores' has a cosine of 0.000" in err

    status, out, err = run(capsys, files, candidate=scaled(tmp_path / "near.onnx", np.eye(3), 1.01))
    assert (status, err) == (0, "")
    assert "no gate set" in out


def test_a_dead_network_has_no_cosine(files, capsys, tmp_path):
    dead = scaled(tmp_path / "dead.onnx", np.eye(3), 0)
    status, out, err = run(capsys, files, candidate=dead)
    assert status == 0
    assert "undefined" in out
    assert "1.000000" not in out
    assert "warning: output 'scores': the candidate is all zero" in err
    for reference in (files["reference"], dead):
        status, out, _ = run(capsys, files, "--min-cosine", "-1", candidate=dead, reference=reference)
        assert status == 5
        assert "the cosine is undefined" in out


def test_nan_on_both_sides_is_named_and_fails_every_gate_on_outputs(files, capsys, tmp_path):
    broken = scaled(tmp_path / "nan.onnx", np.eye(3), np.nan)
    np.savez(tmp_path / "unlabelled.npz", x=np.ones((30, 3), np.float32))
    files = {**files, "data": str(tmp_path / "unlabelled.npz")}
    status, out, err = run(capsys, files, candidate=broken, reference=broken)
    assert status == 0
    assert "90 of 90 elements are NaN on both sides" in out
    assert "90 of 90 elements are NaN on both sides" in err
    status, out, _ = run(capsys, files, "--json", candidate=broken, reference=broken)
    found = json.loads(out)
    (item,) = found["differences"]
    assert (item["max_abs"], item["cosine"], item["nan_in_both"], found["passed"]) == (None, None, 90, None)
    for gate in (("--atol", "1e9"), ("--min-cosine", "-1")):
        assert run(capsys, files, *gate, candidate=broken, reference=broken)[0] == 5


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        # The candidate is 1.01 of the reference, whose elements are 0 and 1.
        pytest.param(("--atol", "0.011"), 0, "within 0.011 + 0 |b|", id="absolute"),
        pytest.param(("--rtol", "0.011"), 0, "within 0 + 0.011 |b|", id="relative"),
        pytest.param(("--rtol", "0.009"), 5, "30 of 90 elements are beyond 0 + 0.009 |b|", id="too-far"),
        pytest.param(("--rtol", "0.006", "--atol", "0.005"), 0, "within 0.005", id="both-add-up"),
        pytest.param(("--min-cosine", "0.999"), 0, "at least 0.999", id="cosine"),
        pytest.param(("--min-agreement", "1"), 0, "agreement 100.00 %", id="agreement"),
    ],
)
def test_gates_on_outputs(files, capsys, tmp_path, words, status, sentence):
    near = scaled(tmp_path / "near.onnx", np.eye(3), 1.01)
    found, out, err = run(capsys, files, *words, candidate=near)
    assert (found, sentence in out) == (status, True), out
    assert ("FAIL: 1 of 1" if status else "PASS: 1 of 1") in out
    assert (sentence in err) == bool(status)


def test_agreement_and_cosine_below_their_limits_fail(files, capsys):
    status, out, _ = run(capsys, files, "--min-agreement", "0.7", "--min-cosine", "0.9")
    assert status == 5
    assert "FAIL  agreement 66.67 %" in out
    assert "FAIL  output 'scores': cosine 0.333333, less than 0.9" in out
    assert "FAIL: 2 of 2 gates" in out


@pytest.mark.parametrize(
    ("option", "value"),
    [("--rtol", "-1"), ("--atol", "nan"), ("--min-cosine", "1.5"), ("--min-agreement", "99")],
)
def test_limits_out_of_range(files, capsys, option, value):
    status, out, err = run(capsys, files, option, value)
    assert (status, out) == (2, "")
    assert f"{option} {value} is out of range" in err


def test_an_output_that_both_have_is_compared_if_it_is_named(files, capsys, tmp_path):
    model = onnx.load(files["reference"])
    model.graph.node.append(helper.make_node("Relu", ["scores"], ["more"]))
    model.graph.output.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["n", 3]))
    onnx.save(model, tmp_path / "two.onnx")
    two = tmp_path / "two.onnx"
    status, _, err = run(capsys, files, candidate=two)
    assert (status, "--output" in err) == (5, True)
    status, out, _ = run(capsys, files, "--output", "scores", "--atol", "0", "--json", candidate=two)
    assert status == 0
    assert [item["name"] for item in json.loads(out)["differences"]] == ["scores"]
