"""Sample 07: on a model of one's own, and on the published one where the package is."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "07_bring_your_own_onnx"
ARCHIVES = os.environ.get("NM2TRT_ARCHIVES", "")


def run(tmp_path, *options):
    command = [sys.executable, str(SAMPLE / "own.py"), "--out", str(tmp_path / "out"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def with_classes(path):
    """Average the output over the picture, so that it is a score per class."""
    net = onnx.load(path)
    (output,) = net.graph.output
    net.graph.node.extend(
        [
            helper.make_node("GlobalAveragePool", [output.name], ["pooled"], "pool"),
            helper.make_node("Flatten", ["pooled"], ["scores"], "flatten"),
        ]
    )
    output.CopyFrom(helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, ["n", 32]))
    onnx.save(net, path)


def test_a_model_of_ones_own_becomes_2_4_in_int8_and_an_engine(tmp_path):
    pytest.importorskip("matplotlib")
    from tests.engine.nets import conv_net

    model = conv_net(
        tmp_path / "mine.onnx", dtype="float32", sparse=False, channels=32, shape=("n", 32, 8, 8)
    )
    with_classes(model)
    random = np.random.default_rng(0)
    inputs = random.standard_normal((32, 32, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "inputs.npz", x=inputs[:16])
    np.savez(tmp_path / "test.npz", x=inputs[16:], labels=random.integers(0, 32, 16))
    files = ["--calib", str(tmp_path / "inputs.npz"), "--data", str(tmp_path / "test.npz")]
    done = run(tmp_path, str(model), *files)
    if "nm2trt[rtx]" in done.stderr:
        pytest.skip("TensorRT for RTX is not installed")
    assert done.returncode == 0, done.stderr + done.stdout
    figures = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert (figures["weights"], figures["two_four"]) == (2, 2)
    assert (tmp_path / "out" / "run" / "report.html").is_file()


def test_a_model_of_ones_own_needs_samples(tmp_path):
    pytest.importorskip("matplotlib")
    done = run(tmp_path, "mine.onnx")
    assert done.returncode == 1
    assert done.stderr.startswith("give --calib INPUTS.npz")


def test_pages_are_drawn_in_four_rotations():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("sample_07_pages", SAMPLE / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    images, turns = module.pages(4, seed=0)
    assert images.shape == (4, 3, 224, 224)
    assert turns.tolist() == [0, 1, 2, 3]
    # Lines of text make rows of a page that lies upright differ much more than its columns.
    rows, columns = (images.mean(1).mean(axis).std(1) for axis in (2, 1))
    assert rows[0] > columns[0]
    assert rows[1] < columns[1]


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVES, reason="NM2TRT_ARCHIVES names no folder of downloaded packages")
def test_the_published_model(tmp_path):
    done = run(tmp_path, "--archives", ARCHIVES, "--samples", "32", "--pages", "40")
    assert done.returncode == 0, done.stderr
    assert "14 dense by plan, 19 holds" in done.stdout
    top1 = json.loads((tmp_path / "out" / "figures.json").read_text())["top1"]
    assert top1["magnitude"]["candidate"]["value"] < 0.5
    assert top1["int8"]["candidate"]["value"] > 0.9
