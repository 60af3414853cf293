"""What we write opens in Polygraphy, and what it saves opens here."""

import os
import subprocess
import sys

import numpy as np
import pytest

import nm2trt
from nm2trt.backends import choice, cuda
from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.validation.samples.polygraphy_json import load_inputs, load_outputs
from tests import forked
from tests.engine.nets import conv_net

pytest.importorskip("polygraphy")

# Of docs/build.md: how `polygraphy run` reads an `.npz`.
LOADER = """
import numpy

def load_data():
    yield dict(numpy.load("data.npz"))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "dense.onnx", dtype="float32", sparse=False)
    nm2trt.prune("dense.onnx", "net.onnx")
    np.savez("data.npz", x=np.random.default_rng(0).standard_normal((2, 16, 8, 8)).astype(np.float32))
    (tmp_path / "loader.py").write_text(LOADER)
    return tmp_path


def polygraphy(folder, *words, **environment):
    """Run it in a process of its own, as CUDA wants it; tests without CUDA have `forked.polygraphy`."""
    code = "from polygraphy.tools import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_our_onnx_and_data_open_in_polygraphy_and_what_it_saves_opens_here(folder, capsys):
    pytest.importorskip("onnxruntime")
    shown = forked.polygraphy(folder, "inspect", "model", "net.onnx")
    assert "x [dtype=float32, shape=('n', 16, 8, 8)]" in shown.stdout, shown.stderr
    saved = ("--save-inputs", "in.json", "--save-outputs", "out.json")
    loaded = ("--onnxrt", "--data-loader-script", "loader.py")
    ran = forked.polygraphy(folder, "run", "net.onnx", *loaded, *saved)
    assert ran.returncode == 0, ran.stdout + ran.stderr

    inputs, outputs = load_inputs("in.json"), load_outputs("out.json")
    np.testing.assert_array_equal(inputs["x"], np.load("data.npz")["x"])
    with open_onnx("net.onnx") as session:
        np.testing.assert_allclose(outputs["y"], session.run(inputs)["y"], rtol=1e-5, atol=1e-6)
    # And through the command: the model against what Polygraphy recorded.
    assert main(["validate", "net.onnx", "--against", "out.json", "--data", "in.json", "--runs", "0"]) == 0
    capsys.readouterr()


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "module"), [("trt-rtx", "tensorrt_rtx"), ("trt", "tensorrt")])
def test_our_engines_open_in_polygraphy(folder, backend, module):
    pytest.importorskip(module)
    target, library = cuda.require_gpu("this test").target, choice.load_backend(backend)
    if backend == "trt-rtx" and target not in library.targets:
        pytest.skip(f"TensorRT for RTX cannot build for {target}")
    targets, suffix = (target,), library.suffix
    assert (
        main(["build", "net.onnx", "--backend", backend, "--target", *targets, "--profile", "x:1,2,4"]) == 0
    )
    use = {"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if backend == "trt-rtx" else {}
    assert "Engine" in polygraphy(folder, "inspect", "model", f"net{suffix}", "--model-type", "engine", **use)
    polygraphy(folder, "run", f"net{suffix}", "--trt", "--data-loader-script", "loader.py", **use)
