"""The nets live with the engine's tests; child processes find the package of this checkout."""

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

sys.path.insert(0, str(ROOT / "tests" / "engine"))


@pytest.fixture(autouse=True)
def _package_for_child_processes(monkeypatch):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
