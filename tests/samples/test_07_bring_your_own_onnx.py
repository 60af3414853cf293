"""Sample 07: on a model of one's own, and on the published one where the package is."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "07_bring_your_own_onnx"
ARCHIVES = os.environ.get("NM2TRT_ARCHIVES", "")


def run(tmp_path, *options):
    command = [sys.executable, str(SAMPLE / "own.py"), "--out", str(tmp_path / "out"), *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


def test_a_model_of_ones_own(tmp_path):
    pytest.importorskip("matplotlib")
    from tests.engine.nets import conv_net

    model = conv_net(
        tmp_path / "mine.onnx", dtype="float32", sparse=False, channels=32, shape=("n", 32, 8, 8)
    )
    done = run(tmp_path, str(model), "--channels", "16")
    if "nm2trt[rtx]" in done.stderr:
        pytest.skip("TensorRT for RTX is not installed")
    assert done.returncode == 0, done.stderr
    assert "2 holds" in done.stdout
    assert (tmp_path / "out" / "run" / "report.html").is_file()


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
    done = run(tmp_path, "--archives", ARCHIVES, "--pages", "16")
    assert done.returncode == 0, done.stderr
    assert "29 dense by plan, 4 holds" in done.stdout
    assert "validate-everywhere" in done.stdout
