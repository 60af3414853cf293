"""benchmarks/report.py on a small model: it measures, and says which of its claims hold."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_measures_pages_and_cached_runs(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "report.py"), "--layers", "50", "--runs", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--json", str(tmp_path / "report.json")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["report"]["layers"] == 50
    assert set(found["met"]) == {"opens under 2 s", "under 5 MB", "cached run under 2 s"}
    assert found["met"]["under 5 MB"]
