"""benchmarks/build.py: two trees are two programs, whatever folder it is called from."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "build.py"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("build_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_other_tree_is_what_runs(script, tmp_path, monkeypatch):
    """Called from a checkout, `python -m nm2trt` would take the package of the current folder."""
    other = tmp_path / "other" / "nm2trt"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    (other / "__main__.py").write_text('raise SystemExit("the other tree")')
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(SCRIPT.parents[1])
    command = ["env", f"PYTHONPATH={other.parent}", sys.executable, "-m", "nm2trt", "--version"]
    with pytest.raises(SystemExit, match="other failed: the other tree"):
        script.measure({"other": command}, 0, tmp_path / "work")
