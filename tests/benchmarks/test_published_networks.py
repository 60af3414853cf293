"""Published networks rebuilt from samples keep what the committed results say, on data that no sample is of.

`NM2TRT_ARCHIVES` names the folder of the packages that `benchmarks/accuracy_tasks.py` and `fresh_tasks.py` list.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import nm2trt
from nm2trt.graph.verify.verify_model import verify_model

ROOT = Path(__file__).parents[2]
ARCHIVES = os.environ.get("NM2TRT_ARCHIVES", "")
MEASURED = json.loads((ROOT / "benchmarks/results/peers.json").read_text())["networks"]


@pytest.mark.slow
@pytest.mark.skipif(not ARCHIVES, reason="NM2TRT_ARCHIVES names no folder of downloaded packages")
@pytest.mark.parametrize("name", list(MEASURED))
def test_a_network_keeps_what_was_measured(name, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from peers import ALL, two_four
    from reconstruct import runner

    task, known = ALL[name](Path(ARCHIVES), tmp_path), MEASURED[name]["tools"]["prune --calib"]
    np.savez(tmp_path / "samples.npz", **task.calibration(task.samples, 0))
    valid = task.options[1] if task.options else None
    report = nm2trt.prune(task.dense, tmp_path / "out.onnx", calib=tmp_path / "samples.npz", valid=valid)
    assert verify_model(tmp_path / "out.onnx").passed()
    assert two_four(tmp_path / "out.onnx") == known["two_four"] == report.counts["pruned"]
    found = task.score(runner(tmp_path / "out.onnx"), runner(task.dense))
    # Other processors round otherwise, and masks with them: scores of a draw move by a few points.
    assert found == {
        score: pytest.approx(value, abs=0.02 if value <= 1 else 6) for score, value in known["scores"].items()
    }
