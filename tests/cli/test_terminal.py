"""What people see: commands on terminals of 80 and 120 columns, in colour, without colour, and in a pipe."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.backends.choice import place_of
from nm2trt.cli import main
from nm2trt.nm.eligibility import Place
from nm2trt.terminal_text import display_width, shell_lines
from tests.cli.terminal import on_terminal

# What the commands print if this is the builder; NM2TRT_WRITE_SCREENS=1 writes them anew.
SCREENS = Path(__file__).parent / "screens"
PLACE = Place("trt-rtx", "1.7.1.116", ("sm80", "sm86"))


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


@pytest.mark.parametrize("columns", [80, 120, None], ids=["80", "120", "pipe"])
@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("verify-dense", ["verify", "dense.onnx"], 3),
        ("verify-sparse", ["verify", "sparse.onnx"], 0),
        ("explain", ["explain", "sparse.onnx"], 0),
        ("build-dry-run", ["build", "sparse.onnx", "--sparsity", "--dry-run"], 0),
        ("build-refused", ["build", "dense.onnx", "--sparsity", "--dry-run"], 3),
    ],
)
def test_24_weights_fit_one_screen(folder, monkeypatch, capsys, name, words, expected, columns):
    if columns is None:
        status, lines = main(words), capsys.readouterr().out.splitlines()
    else:
        status, lines, _ = on_terminal(words, columns, monkeypatch)
        assert max(map(display_width, lines)) <= columns
    assert (status, 5 < len(lines) <= 60) == (expected, True)
    screen = SCREENS / f"{name}-{columns or 'pipe'}.txt"
    if "NM2TRT_WRITE_SCREENS" in os.environ:
        screen.write_text("\n".join(lines) + "\n")
    if place_of() == PLACE:
        assert lines == screen.read_text().splitlines()


@pytest.mark.parametrize("prefix", ["模型編碼器" * 12, "x" * 300], ids=["wide", "long"])
def test_wide_and_very_long_names_fit(folder, monkeypatch, capsys, prefix):
    network("named.onnx", sparse=False, weights=2, prefix=prefix)
    for command in ("verify", "explain"):
        _, lines, _ = on_terminal([command, "named.onnx"], 80, monkeypatch)
        assert max(map(display_width, lines)) <= 80


@pytest.mark.slow
def test_prove_of_24_weights_fits_one_screen(folder, monkeypatch, capsys):
    status, lines, _ = on_terminal(["prove", "sparse.onnx", "--backend", "trt-rtx"], 80, monkeypatch)
    assert max(map(display_width, lines)) <= 80
    assert (status, len(lines) <= 60) == (0, True)


@pytest.mark.parametrize(
    "command",
    [
        "nm2trt prune 'my model.onnx' --calib SAMPLES.npz --share 50%  # half of the work, where it moves least",
        'polygraphy run a.onnx --onnxrt && polygraphy run b.onnx --load-inputs "in puts.json" --rtol 1e-3',
        f"nm2trt build {'x' * 90}.onnx --sparsity --precision int8 --calib it\\'s.npz",
    ],
)
@pytest.mark.parametrize("width", [30, 80])
def test_a_command_on_several_lines_is_still_one_command(command, width):
    def arguments(text):
        script = f"""nm2trt() {{ printf '%s\\n' "$@"; }}; polygraphy() {{ nm2trt "$@"; }}\n{text}"""
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout

    lines = shell_lines(command, width, "    ")
    assert arguments("\n".join(lines)) == arguments(command) != ""
    assert len(lines) > 1
    assert all(display_width(line) <= width or len(line.split()) < 5 for line in lines), lines


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


@pytest.mark.parametrize("more", [["--json"], []])
@pytest.mark.parametrize(("model", "status"), [("dense.onnx", 3), ("sparse.onnx", 0)])
def test_a_gate_keeps_its_status_if_the_reader_of_its_output_has_gone(folder, model, status, more):
    """The JSON is longer than a buffer of the stream, the text is shorter."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "nm2trt", "verify", model, "--report", "report.json", *more]
    try:
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (status, "")
    assert (folder / "report.json").is_file()


def recommended(out):
    """Return the words of the command that a command ended with."""
    (line,) = [line for line in out.splitlines() if line.startswith("next:")]
    return shlex.split(line.removeprefix("next:"), comments=True)


@pytest.mark.parametrize("start", ["dense.onnx", "sparse.onnx"])
def test_the_recommended_commands_lead_to_an_engine(folder, capsys, start):
    network(start, sparse=start == "sparse.onnx", weights=3)
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
    assert done[-3:] == ["build", "build", "prove"]
    assert done[0] == ("prune" if start == "dense.onnx" else "build")
    assert main(words[1:]) == 0


def test_quantize_ends_with_a_command_that_works(folder, capsys):
    network("sparse.onnx", sparse=True, weights=3)
    assert main(["quantize", "sparse.onnx", "--calib", "SAMPLES.npz"]) == 0
    words = recommended(capsys.readouterr().out)
    assert words[1] == "build"
    assert main(words[1:]) == 0
    assert recommended(capsys.readouterr().out)[1] == "prove"


def test_a_refused_build_leads_with_its_sentence(folder, capfd):
    assert main(["build", "dense.onnx", "--sparsity"]) == 3
    captured = capfd.readouterr()
    assert captured.err.startswith("nm2trt: dense.onnx: none of its weights holds 2:4")
    assert recommended(captured.out)[1] == "prune"


@pytest.mark.parametrize(("flags", "arrived"), [(["-u"], "told"), ([], "")], ids=["unbuffered", "buffered"])
def test_output_is_unbuffered_only_if_python_was_asked_for_that(flags, arrived, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "from nm2trt.cli.streams import prepare_streams; prepare_streams(); print('told', end=''); os._exit(0)"
    command = [sys.executable, *flags, "-c", f"import os; {code}"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout == arrived


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_our_own_signs_are_plain_where_an_encoding_lacks_them(encoding, monkeypatch):
    """A minus that is escaped puts digits in front of a number; a name stays told apart by its escapes."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    code = "from nm2trt.cli.streams import prepare_streams; prepare_streams(); print('✓ −1.17 – … ✗ 模')"
    ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert ran.stdout == b"+ -1.17 - ... x \\u6a21\n"
