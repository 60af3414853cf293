"""The samples of this stage run, and say what they should."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).parents[2] / "samples"


def run(script, *arguments):
    path = os.pathsep.join([str(SAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SAMPLES / script), *arguments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    ).stdout


@pytest.mark.slow
def test_comparison_of_methods(tmp_path):
    output = run(
        "02_methods/compare.py", "--epochs", "2", "--seeds", "1", "--controls", "--out", str(tmp_path)
    )
    assert re.search(r"^  2:4: \S+( > \S+){10}$", output, re.MULTILINE)
    result = json.loads((tmp_path / "digits.json").read_text())
    assert len(result["runs"]) == 23
    assert {row["method"] for row in result["summary"] if row["pattern"] == "1:8"} == {
        "sr-ste", "ste", "lbc", "spre", "gradual", "fine-tuned", "one-shot",
        "spre-ones", "spre-random", "spre-inverted", "spre-one-norm",
    }  # fmt: skip
    assert (tmp_path / "digits.png").stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "package"), [("hf_trainer", "transformers"), ("lightning_module", "lightning")]
)
def test_trainers_need_no_callback(script, package, tmp_path):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    output = run(f"06_trainers/{script}.py", "--epochs", "1", "--out", str(tmp_path))
    # 1,400 images in batches of 64: each optimizer step was seen once.
    assert "22 steps" in output
    assert "hold 2:4, 0 are broken" in output
