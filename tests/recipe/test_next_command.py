"""The command that a run ends with works as printed, on the files that the run named."""

import shlex

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from tests.cli.terminal import on_terminal


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = {
        "fc1.weight": rng.standard_normal((16, 32)).astype(np.float32),
        "fc2.weight": rng.standard_normal((32, 4)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "fc1.weight"], ["h"], name="fc1"),
            helper.make_node("Relu", ["h"], ["r"], name="act"),
            helper.make_node("MatMul", ["r", "fc2.weight"], ["y"], name="fc2"),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), "a model.onnx"
    )
    for name, count in (("SAMPLES", 64), ("LABELLED", 300), ("TEST", 300)):
        x = rng.standard_normal((count, 16)).astype(np.float32)
        labels = (np.maximum(x @ weights["fc1.weight"], 0) @ weights["fc2.weight"]).argmax(1)
        np.savez(f"{name}.npz", x=x, **({} if name == "SAMPLES" else {"labels": labels}))
    return tmp_path


def following(out):
    """Return the words of the command that a command ended with."""
    (line,) = [line for line in out.splitlines() if line.startswith("next:")]
    return shlex.split(line.removeprefix("next:"), comments=True)


def run(folder, capsys, stages):
    (folder / "r.yaml").write_text(f"version: 1\nmodel: a model.onnx\nstages:\n{stages}")
    status = main(["run", "r.yaml"])
    return status, following(capsys.readouterr().out)


PRUNED = '  prune: {pattern: "2:4"}\n'


def test_lost_accuracy_leads_to_pruning_within_a_budget(folder, capsys):
    judged = "  validate: {from: prune, against: model, data: TEST.npz, runs: 0}\n"
    status, words = run(folder, capsys, f"{PRUNED}{judged}")
    assert status == 0
    assert words[:3] == ["nm2trt", "prune", "a model.onnx"]
    assert words[-2:] == ["--max-drop", "1pt"]
    # 5: no share keeps the loss below a point, which is an answer, too.
    assert main(words[1:]) in (0, 5)


def test_what_nobody_compared_leads_to_validate(folder, capsys):
    status, words = run(folder, capsys, f"{PRUNED}  verify:\n")
    assert status == 0
    assert words[:2] + words[3:5] == ["nm2trt", "validate", "--against", "a model.onnx"]
    assert main(words[1:]) == 0


def test_a_report_ends_as_its_run_does(folder, capsys):
    _, words = run(folder, capsys, f"{PRUNED}  verify:\n")
    assert main(["report", "runs/r"]) == 0
    assert following(capsys.readouterr().out) == words


def test_a_failed_stage_leads_to_its_own_command(folder, capsys):
    status, words = run(folder, capsys, "  verify:\n")
    assert status == 3
    assert words[:3] == ["nm2trt", "verify", "a model.onnx"]
    assert main(words[1:]) == 3


def test_a_terminal_shows_the_stages_once(folder, monkeypatch):
    (folder / "r.yaml").write_text(f"version: 1\nmodel: a model.onnx\nstages:\n{PRUNED}")
    status, lines, _ = on_terminal(["run", "r.yaml"], 80, monkeypatch, both=True)
    assert status == 0
    assert any("pruned to 2:4 by magnitude, nothing repaired" in line for line in lines)
    assert not any(line.startswith("stage ") for line in lines)
    assert any(line.startswith("verdict: ") for line in lines)


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (["prune", "a model.onnx"], ["--data", "LABELLED.npz", "--max-drop", "0.1pt"]),
        (
            ["prune", "a model.onnx", "--calib", "SAMPLES.npz", "--to", "int8"],
            ["--to", "int8", "--share", "50%"],
        ),
        (["quantize", "a model.onnx", "--calib", "FEW.npz"], ["quantize", "a model.onnx", "--max-loss"]),
    ],
    ids=["pruned", "pruned-int8", "int8"],
)
def test_a_loss_that_validate_measured_leads_to_what_loses_less(folder, capsys, made, wanted):
    np.savez("FEW.npz", x=np.full((2, 16), 1e-3, np.float32))  # ranges that cut nearly everything off
    assert main([*made, "-o", "made.onnx"]) == 0
    capsys.readouterr()
    gate = ["--data", "TEST.npz", "--runs", "0", "--max-drop", "0.1pt"]
    assert main(["validate", "made.onnx", "--against", "a model.onnx", *gate]) == 5
    words = following(capsys.readouterr().out)
    assert set(wanted) <= set(words)
    assert main(words[1:]) in (0, 5)


def test_a_loss_in_another_metric_leads_to_a_budget_of_that_metric(folder, capsys):
    assert main(["prune", "a model.onnx", "-o", "made.onnx"]) == 0
    gate = ["--data", "TEST.npz", "--runs", "0", "--max-drop", "0.1pt", "--metric", "top-2"]
    capsys.readouterr()
    assert main(["validate", "made.onnx", "--against", "a model.onnx", *gate]) == 5
    words = following(capsys.readouterr().out)
    assert words[words.index("--metric") + 1] == "top-2"
    assert main(words[1:]) in (0, 5)


def test_a_loss_against_a_pruned_model_leads_nowhere(folder, capsys):
    """What is pruned already has less to choose from than the dense model, whose name is not known."""
    for pattern in ("2:4", "1:4"):
        assert main(["prune", "a model.onnx", "-o", f"{pattern[0]}.onnx", "--pattern", pattern]) == 0
    gate = ["--data", "TEST.npz", "--runs", "0", "--max-drop", "0.1pt"]
    capsys.readouterr()
    assert main(["validate", "1.onnx", "--against", "2.onnx", *gate]) == 5
    assert "next:" not in capsys.readouterr().out


def test_a_loss_of_a_file_that_verify_refuses_is_told_all_the_same(folder, capsys):
    assert main(["prune", "a model.onnx", "-o", "made.onnx"]) == 0
    made = onnx.load("made.onnx")
    next(entry for entry in made.metadata_props if entry.key == "nm2trt.plan").value = "{"
    onnx.save(made, "made.onnx")
    capsys.readouterr()
    gate = ["--data", "TEST.npz", "--runs", "0", "--max-drop", "0.1pt"]
    assert main(["validate", "made.onnx", "--against", "a model.onnx", *gate]) == 5
    shown = capsys.readouterr().out
    assert "verdict: FAIL: 1 of 1 gates" in shown
    assert "next:" not in shown


def test_a_loss_that_more_samples_may_exclude_leads_nowhere(folder, capsys):
    assert main(["prune", "a model.onnx", "-o", "made.onnx"]) == 0
    dense = onnx.load("made.onnx")  # of the same outputs, without a zero
    del dense.metadata_props[:]
    for tensor in dense.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            tensor.CopyFrom(
                numpy_helper.from_array(np.where(values == 0, np.float32(1e-30), values), tensor.name)
            )
    onnx.save(dense, "dense.onnx")
    capsys.readouterr()
    gate = ["--data", "TEST.npz", "--runs", "0", "--max-drop", "0.1pt"]
    assert main(["validate", "made.onnx", "--against", "dense.onnx", *gate]) == 5
    shown = capsys.readouterr().out
    assert "difference +0.00 points" in shown
    assert "next:" not in shown
