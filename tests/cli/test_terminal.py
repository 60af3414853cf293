"""What people see: commands on terminals of 80 and 120 columns, in colour, without colour, and in a pipe."""

import shlex
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.terminal_text import display_width
from tests.cli.terminal import on_terminal


def network(path, *, sparse, weights=24, prefix="backbone.encoder"):
    """Write convolutions with long names in float32, 2:4 or not."""
    rng = np.random.default_rng(0)
    nodes, stored, value = [], [], "x"
    for index in range(weights):
        name = f"{prefix}.layer{index // 6 + 1}.{index % 6 // 2}.conv{index % 2 + 1}"
        weight = rng.standard_normal((16, 16, 1, 1 + index % 2))
        if sparse:
            weight[:, 2::4] = weight[:, 3::4] = 0
        stored.append(numpy_helper.from_array(weight.astype(np.float32), f"{name}.weight"))
        nodes.append(
            helper.make_node("Conv", [value, f"{name}.weight"], [f"{name}.out"], name=f"/{name}/Conv")
        )
        value = f"{name}.out"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 16, 2, 40])],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network("dense.onnx", sparse=False)
    network("sparse.onnx", sparse=True)
    rng = np.random.default_rng(1)
    np.savez("SAMPLES.npz", x=rng.standard_normal((16, 16, 2, 40)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["verify", "dense.onnx"], 3),
        (["verify", "sparse.onnx"], 0),
        (["explain", "sparse.onnx"], 0),
        (["build", "sparse.onnx", "--sparsity", "--dry-run"], 0),
        (["build", "dense.onnx", "--sparsity", "--dry-run"], 3),
    ],
    ids=lambda value: "-".join(value[:2]) if isinstance(value, list) else None,
)
def test_24_weights_fit_one_screen(folder, monkeypatch, capsys, words, expected, columns):
    status, lines, _ = on_terminal(words, columns, monkeypatch)
    assert status == expected
    assert 5 < len(lines) <= 60
    too_long = [line for line in lines if len(line) > columns]
    assert all(line.startswith(("next: ", "same as: ")) for line in too_long), "only commands are not wrapped"


@pytest.mark.parametrize("prefix", ["模型編碼器" * 12, "x" * 300], ids=["wide", "long"])
def test_wide_and_very_long_names_fit(folder, monkeypatch, capsys, prefix):
    network("named.onnx", sparse=False, weights=2, prefix=prefix)
    for command in ("verify", "explain"):
        _, lines, _ = on_terminal([command, "named.onnx"], 80, monkeypatch)
        assert max(map(display_width, lines)) <= 80


@pytest.mark.slow
def test_prove_of_24_weights_fits_one_screen(folder, monkeypatch, capsys):
    status, lines, _ = on_terminal(["prove", "sparse.onnx", "--backend", "trt-rtx"], 80, monkeypatch)
    copied = ("next: ", "same as: ")
    assert all(len(line) <= 80 or line.startswith(copied) for line in lines)
    assert (status, len(lines) <= 60) == (0, True)


def test_colours_mark_what_is_broken(folder, monkeypatch):
    _, lines, raw = on_terminal(["verify", "dense.onnx"], 80, monkeypatch)
    assert "\x1b[31m" in raw
    (failed,) = [line for line in raw.splitlines() if "FAILED" in line]
    assert failed.startswith("\x1b[31m")
    assert any(line.startswith("\x1b[32m") for line in raw.splitlines() if "passed" in line) is False
    assert not any("\x1b" in line for line in lines)


def test_no_color_is_obeyed(folder, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    _, lines, raw = on_terminal(["verify", "dense.onnx"], 80, monkeypatch)
    assert raw.splitlines() == lines


def test_a_pipe_gets_plain_text_and_no_rich(folder):
    code = "import sys; from nm2trt.cli import main; main(['verify', 'dense.onnx']); print('rich' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def recommended(out):
    """Return the words of the command that a command ended with."""
    (line,) = [line for line in out.splitlines() if line.startswith("next:")]
    return shlex.split(line.removeprefix("next:"), comments=True)


@pytest.mark.parametrize("start", ["dense.onnx", "sparse.onnx"])
def test_the_recommended_commands_lead_to_an_engine(folder, capsys, start):
    assert main(["verify", start, "--fail-on", "none"]) == 0
    done = []
    while True:
        words = recommended(capsys.readouterr().out)
        assert words[0] == "nm2trt"
        done.append(words[1])
        if words[1] in ("prove", "info", "explain"):
            break
        assert len(done) < 4, done
        assert main(words[1:]) == 0, words
    assert done[-2:] == ["build", "info"]
    assert done[0] == ("prune" if start == "dense.onnx" else "build")
    assert main(words[1:]) == 0


def test_quantize_ends_with_a_command_that_works(folder, capsys):
    assert main(["quantize", "sparse.onnx", "--calib", "SAMPLES.npz"]) == 0
    words = recommended(capsys.readouterr().out)
    assert words[1] == "build"
    assert main(words[1:]) == 0
    assert recommended(capsys.readouterr().out)[1] == "prove"


def test_a_refused_build_leads_with_its_sentence(folder, capfd):
    assert main(["build", "dense.onnx", "--sparsity"]) == 3
    captured = capfd.readouterr()
    assert captured.err.startswith("nm2trt: dense.onnx: none of its 24 weights holds 2:4")
    assert recommended(captured.out)[1] == "prune"
