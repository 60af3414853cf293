"""nm2trt verify as it is typed: table, JSON, gates, exit status."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main


@pytest.fixture
def path(tmp_path):
    half = np.tile(np.array([1, 2, 0, 0], np.float16), (8, 4))
    nodes = [
        helper.make_node("Gemm", ["x", "good"], ["t"], name="first", transB=1),
        helper.make_node("MatMul", ["t", "bad"], ["y"], name="second\x1b[31m"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [None, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [None, 4])],
        [numpy_helper.from_array(half, "good"), numpy_helper.from_array(np.ones((8, 4), np.float16), "bad")],
    )
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_table(path, capsys):
    assert main(["verify", str(path)]) == 3
    out = capsys.readouterr().out
    header, first, second = out.splitlines()[:3]
    assert header.split() == ["weight", "consumer", "op", "shape", "axis", "2:4", "zeros", "sparse", "why"]
    assert first.split()[:8] == ["good", "first", "Gemm", "8x16", "1", "holds", "50.0", "%"]
    assert second.split()[:2] == ["bad", "second\\x1b[31m"]
    assert " broken " in second
    assert "dtype: float16" in out
    assert "8 of 8 groups" in out
    assert "\x1b" not in out, "a name repainted the terminal"
    assert "FAILED: 1 of 2 weights (--fail-on broken)" in out


def test_a_weight_that_cannot_be_traced_has_neither_axis_nor_zeros(path, capsys):
    model = onnx.load(path)
    model.graph.node.insert(0, helper.make_node("RandomNormalLike", ["bad"], ["noise"]))
    model.graph.node[2].input[1] = "noise"
    onnx.save(model, path)
    assert main(["verify", str(path)]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("bad ")]
    assert row.split()[3:7] == ["8x4", "-", "untraceable", "-"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_gate_keeps_its_status_if_the_reader_has_left(path, kind):
    if kind == "pipe":
        reader, writer = os.pipe()
    else:
        reader, writer = (end.detach() for end in socket.socketpair())
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "nm2trt", "verify", str(path)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (3, "")


def test_json(path, capsys):
    assert main(["verify", str(path), "--json", "--fail-on", "none"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [w["pattern"] for w in data["weights"]] == ["holds", "broken"]
    assert data["passed"] is True


def test_pattern(path):
    assert main(["verify", str(path), "--pattern", "4:4"]) == 0
    assert main(["verify", str(path), "--pattern", "1:4"]) == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no.onnx"], "no.onnx does not exist; give the path of an ONNX model file"),
        (["{path}", "--pattern", "two"], "'two' is not an N:M pattern"),
        (["{path}", "--fail-on", "sometimes"], "invalid choice: 'sometimes'"),
        (["{path}", "--external-data-root", "/no/such"], "/no/such is not a folder"),
        ([], "the following arguments are required: model"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_2(path, words, message, capsys):
    assert main(["verify", *(word.format(path=path) for word in words)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_no_command(capsys):
    assert main([]) == 2
    assert "commands" in capsys.readouterr().out


def test_unknown_command(capsys):
    assert main(["veryfy"]) == 2
    assert capsys.readouterr().err == "nm2trt: 'veryfy' is not a command; did you mean verify?\n"


def test_a_bug_of_ours_is_exit_1_without_a_traceback(path, capsys, monkeypatch):
    monkeypatch.setattr("nm2trt.graph.verify.verify_model.verify_model", lambda *a, **k: 1 / 0)
    assert main(["verify", str(path)]) == 1
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError" in err
    assert "Traceback" not in err
    assert main(["-vv", "verify", str(path)]) == 1
    assert "Traceback" in capsys.readouterr().err
