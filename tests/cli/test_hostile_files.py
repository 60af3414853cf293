"""Malformed files from strangers: exit status 2 with one printable sentence, or an answer; never a hang."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.pipeline.deploy import deploy
from nm2trt.serving.options import DeployOptions

ROOT = Path(__file__).parents[2]
COMMANDS = {
    "verify": ["verify", "{model}"],
    "info": ["info", "{model}"],
    "fuse": ["fuse", "{model}", "-o", "out.onnx"],
    "prune": ["prune", "{model}", "-o", "out.onnx"],
    "cast": ["cast", "{model}", "-o", "out.onnx"],
    "quantize": ["quantize", "{model}", "--calib", "x.npz", "-o", "out.onnx"],
    "deploy": ["deploy", "{model}", "--repository", "models", "--name", "m"],
}


@pytest.fixture
def run(forking):
    """Give a function that runs a command in a process of its own, ended after 100 seconds."""
    return forking.heard


def external(folder, location):
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[16, 16], data_location=1)
    for key, value in (("location", location), ("offset", "0"), ("length", "1024")):
        weight.external_data.add(key=key, value=value)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "m.onnx").write_bytes(model.SerializeToString())
    np.savez(folder / "x.npz", x=np.zeros((4, 16), "f4"))


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["pipe", "missing"])
def test_external_data_that_is_no_file(run, tmp_path, command, kind):
    external(tmp_path, "w.bin")
    if kind == "pipe":
        os.mkfifo(tmp_path / "w.bin")
    done = run([word.format(model="m.onnx") for word in COMMANDS[command]], tmp_path)
    if command != "info":
        assert done.returncode == 2, done.stderr
    assert "internal error" not in done.stderr
    assert done.stderr.count("\n") <= 1
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("nested", [False, True], ids=["main graph", "body"])
def test_an_operator_at_which_shape_inference_crashes(run, tmp_path, nested):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    node = helper.make_node("EyeLike", ["unknown"], ["w"], dtype=1)
    if nested:
        body = helper.make_graph([node], "b", [], [helper.make_tensor_value_info("w", 1, None)])
        node = helper.make_node("If", ["c"], ["w"], then_branch=body, else_branch=body)
    graph = helper.make_graph(
        [node, helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert run(["verify", "m.onnx"], tmp_path).returncode in (0, 2, 3)


def test_a_message_quotes_a_file_without_its_escapes(run, tmp_path):
    name = "\x1b[31mred\u202e\x07"
    weight = numpy_helper.from_array(np.ones((16, 16), "f4"), name)
    values = [helper.make_tensor_value_info(key, TensorProto.FLOAT, ["n", 16]) for key in ("x", "y")]
    node = helper.make_node("MatMul", ["x", name], ["y"])
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight, weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    onnx.save(model, tmp_path / "m.onnx")
    done = run(["verify", "m.onnx"], tmp_path)
    assert done.returncode == 2
    assert r"defines '\x1b[31mred\u202e\x07' twice" in done.stderr
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)


@pytest.mark.parametrize(
    "words", [["info"], ["init", "-o", "r.yaml"], ["verify"], ["prune", "-o", "o.onnx"], ["nope"]]
)
def test_a_file_name_is_printed_without_its_escapes(run, tmp_path, words):
    external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(1024))
    name = "\x1b[31mm\u202e.onnx"
    (tmp_path / "m.onnx").rename(tmp_path / name)
    done = run([words[0], name, *words[1:]], tmp_path)
    assert all(c.isprintable() or c == "\n" for c in done.stdout + done.stderr)


def test_commands_of_a_file_of_any_name_can_be_pasted(run, tmp_path):
    external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(1024))
    (tmp_path / "m.onnx").rename(tmp_path / "\x1b[31mm b.onnx")
    recipe = "\x1b[31mm b.yaml"
    for words in (["init", "\x1b[31mm b.onnx"], ["run", recipe, "--dry-run"]):
        done = run(words, tmp_path)
        (line,) = re.findall("next: +(.+)", done.stdout)
        told = subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
        assert told.stdout.decode().split("\0")[:-1] == ["nm2trt", "run", recipe]


@pytest.mark.parametrize(
    "words",
    [
        ["run", "r.yaml", "--dry-run"],
        ["run", "plain.yaml", "-o", "a" * 300],
        ["report", "a" * 300],
        ["verify", "a" * 300],
        ["fuse", "m.onnx", "-o", "a" * 300],
    ],
    ids=lambda words: words[0],
)
def test_a_name_that_no_file_system_takes(run, tmp_path, words):
    external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(1024))
    recipe = "version: 1\nname: {}\nmodel: m.onnx\nstages:\n  fuse:\n"
    (tmp_path / "r.yaml").write_text(recipe.format("a" * 5000))
    (tmp_path / "plain.yaml").write_text(recipe.format("plain"))
    done = run(words, tmp_path)
    assert done.returncode == 2, done.stderr
    assert "aaa" in done.stderr
    assert "File name too long" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_server_names_what_is_not_available_and_ctrl_c_stops_it_in_the_background(
    run, tmp_path, tritonserver
):
    external(tmp_path, "w.bin")
    (tmp_path / "w.bin").write_bytes(bytes(1024))
    for name in ("good", "broken"):
        placed = deploy(tmp_path / "m.onnx", tmp_path / "models", name, DeployOptions(backend="python"))
    (placed.folder / "model.onnx").write_bytes(b"\x1b]0;no model\x07")
    deploy(tmp_path / "m.onnx", tmp_path / "models", "lacking", DeployOptions(backend="onnxruntime"))
    server = subprocess.Popen(
        [sys.executable, "-m", "nm2trt", "serve", "--repository", "models", "--log", "log.txt"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    try:
        lines = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(server.stdout.readline())
            assert lines[-1], server.stderr.read()
        states = {line.split()[0]: line for line in lines if line.startswith(("good", "broken"))}
        assert "READY" in states["good"], lines
        assert "UNAVAILABLE" in states["broken"], lines
        assert len(states["broken"].split("UNAVAILABLE")[1]) > 20, "the reason is named"
        assert "not available: broken, lacking; the server's log says more\n" in lines
        lacking = "this server has no backend onnxruntime: deploy the model again with --backend python"
        assert any(line.startswith(lacking) for line in lines), lines
        assert all(c.isprintable() or c == "\n" for line in lines for c in line)
        (line,) = [line for line in lines if line.startswith("next:")]
        words = shlex.split(line.removeprefix("next:    nm2trt "), comments=True)
        found = run([word.replace("MODEL.onnx", "m.onnx") for word in words] + ["--requests", "8"], tmp_path)
        assert found.returncode == 0, found.stderr
        server.send_signal(signal.SIGINT)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()
