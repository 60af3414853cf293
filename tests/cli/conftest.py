"""Child processes find the package of this checkout."""

import os
from pathlib import Path

import pytest

from tests.cli.forks import Forks

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def forking(tmp_path_factory):
    """Give the process that forks, with no fault: one a test process, as it takes a second to start."""
    started = Forks(tmp_path_factory.mktemp("forks"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def _package_for_child_processes(monkeypatch):
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
