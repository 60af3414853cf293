"""Sample 05 end to end: served, probed, replaced and rolled back."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def write_models(folder):
    """Write what the sample reads of sample 01: two linear models of its inputs and outputs, and images."""
    generator = np.random.default_rng(0)
    for kind in ("sparse", "dense"):
        weights = [
            numpy_helper.from_array(generator.standard_normal((64, 10)).astype(np.float32), "w"),
            numpy_helper.from_array(np.array([-1, 64]), "flat"),
        ]
        nodes = [
            helper.make_node("Reshape", ["image", "flat"], ["row"]),
            helper.make_node("MatMul", ["row", "w"], ["output"]),
        ]
        ports = [
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, 8, 8])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", 10])],
        ]
        graph = helper.make_graph(nodes, "net", *ports, weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        onnx.save(model, folder / f"{kind}_fp32.onnx")
    images = generator.standard_normal((397, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "test.npz", image=images, labels=generator.integers(0, 10, 397))


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
    models = tmp_path / "results" / "01_digits"
    models.mkdir(parents=True)
    write_models(models)
    check(run("05_triton/serve.py", tmp_path, "--requests", "20"), tmp_path / "results" / "05_triton")


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
