"""Sample 05 end to end: the models of sample 01 in its quick form, served and probed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, folder, *options):
    return subprocess.run(
        [sys.executable, str(ROOT / "samples" / script), *options],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "default"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def export_untrained(folder):
    """Write what the sample reads of sample 01: two models of its net, untrained, and the test set."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import numpy as np, torch, nm2trt\n"
        "from train import SmallCNN; from data import digits\n"
        "data = digits(); torch.manual_seed(0)\n"
        "for kind in ('sparse', 'dense'):\n"
        "    net = SmallCNN(8, 10).eval()\n"
        "    nm2trt.export(net, data.test_x[:4], f'{sys.argv[2]}/{kind}_fp32.onnx')\n"
        "np.savez(f'{sys.argv[2]}/test.npz', image=data.test_x.numpy(), labels=data.test_y.numpy())\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "samples" / "01_digits"), str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        timeout=120,
    )


def check(ran, out):
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for line in (
        "$ nm2trt deploy",
        "$ nm2trt probe --url grpc://",
        "configuration: same",
        "top-1 of the served model on the test images",
        "rolled back to version 1",
        "served now: version 1",
        "it answers like the reference",
        "digits: version 1 is served",
        "the server has stopped",
    ):
        assert line in ran.stdout, line
    assert (out / "models" / "digits" / "config.pbtxt").is_file()


def test_served_and_probed(tmp_path, tritonserver):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    models = tmp_path / "results" / "01_digits"
    models.mkdir(parents=True)
    export_untrained(models)
    check(run("05_triton/serve.py", tmp_path), tmp_path / "results" / "05_triton")


def test_without_the_models(tmp_path):
    pytest.importorskip("tritonclient")
    ran = run("05_triton/serve.py", tmp_path)
    assert ran.returncode == 1
    assert "sparse_fp32.onnx is not there; run samples/01_digits/train.py first" in ran.stderr


@pytest.mark.slow
def test_on_the_trained_models(tmp_path, tritonserver):
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    trained = run("01_digits/train.py", tmp_path, "--quick")
    assert trained.returncode == 0, trained.stderr
    check(run("05_triton/serve.py", tmp_path), tmp_path / "results" / "05_triton")
