"""The kit for a GPU machine fits the code: every module, attribute and test file that it names is here."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tools.gpu import evidence, rtx_probe

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted((ROOT / "tools" / "gpu").glob("*.py"))


def named(text):
    """Return the (module, attribute) pairs that a script imports of this project."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.split(".")[0] == "nm2trt")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "nm2trt":
            yield from ((node.module, alias.name) for alias in node.names)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_module_that_the_kit_imports_is_there(script):
    for module, attribute in named(script.read_text()):
        loaded = import_module(module)
        if attribute and not hasattr(loaded, attribute):
            import_module(f"{module}.{attribute}")


def test_every_test_file_that_the_queue_runs_is_there():
    paths = re.findall(r'"\$P"/(tests/\S+\.py)', (ROOT / "tools" / "gpu" / "queue.sh").read_text())
    assert paths
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_every_network_that_a_script_asks_for_is_made():
    """A model that nobody made would let the probe of TensorRT for RTX fail at its first step."""
    made = set(
        re.search(r'default="(.+)"\.split', (ROOT / "tools" / "gpu" / "models.py").read_text())[1].split()
    )
    assert made == set(evidence.NAMES)
    assert set(rtx_probe.TWINS) <= made


def test_a_twin_that_failed_gives_the_script_a_status_and_one_that_is_measured_is_not_measured_again(
    tmp_path,
):
    (tmp_path / "twins.jsonl").write_text('{"name": "conv-int8"}\n{"name": "wide-fp16", "error": "lost"}\n')
    script = [
        sys.executable,
        str(ROOT / "tools/gpu/twins.py"),
        str(tmp_path),
        str(tmp_path),
        "--deadline",
        "0",
    ]
    assert subprocess.run([*script, "conv-int8"], capture_output=True, check=False).returncode == 0
    failed = subprocess.run([*script, "conv-int8", "wide-fp16"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert failed.stderr == "1 of 2 twins failed; wide-fp16: no time or no model\n"


def test_a_module_that_moved_is_seen():
    (pair,) = named("from nm2trt.engine.build_log import parse_build_log")
    with pytest.raises(ModuleNotFoundError):
        import_module(pair[0])


def test_every_test_that_the_page_on_gpus_names_is_there():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "gpu.md").read_text())
    assert len(named) == 20
    assert [pair for pair in named if f"\ndef {pair[1]}(" not in (ROOT / pair[0]).read_text()] == []
