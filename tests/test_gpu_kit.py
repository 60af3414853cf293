"""The kit for a GPU machine fits the code: every module, attribute and test file that it names is here."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")

from torch.utils import backend_registration  # noqa: E402

from tools.gpu import evidence, rtx_probe, train_gpu  # noqa: E402

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


def test_a_batch_that_does_not_fit_the_gpu_is_halved_for_the_dense_step_and_those_after_it(monkeypatch):
    def measure(method, options, gpu):
        if options.batch > 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"batch": options.batch}

    monkeypatch.setattr(train_gpu, "measure", measure)
    options = SimpleNamespace(batch=256)
    assert train_gpu.fitting("dense", options, True) == {"batch": 64}
    assert train_gpu.fitting("sr-ste", options, True) == {"batch": 64}
    options.batch = 128  # only the dense step, that all are held against, may choose
    with pytest.raises(torch.OutOfMemoryError):
        train_gpu.fitting("sr-ste", options, True)


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this PyTorch is too old",
)
@pytest.mark.parametrize(
    ("script", "words", "told"),
    [
        ("mask_gpu", ("--runs", "2"), '"eager_mask_device_over_clone"'),
        (
            "train_gpu",
            ("--batch", "2", "--steps", "1", "--methods", "dense;sr-ste;lbc, after t_f"),
            '"zero_share_max"',
        ),
        ("solve_gpu", (), '"same_mask_share"'),
    ],
    ids=["mask", "train", "solve"],
)
def test_a_script_runs_on_a_pretended_gpu(tmp_path, script, words, told):
    """As it does on a GPU but for the times: tensors on one device, events, masks equal to the CPU's."""
    out, path = tmp_path / "out.json", ROOT / "tools" / "gpu" / f"{script}.py"
    command = [sys.executable, "-m", "tests.kit_on_a_pretended_gpu", str(path), str(out), "--tiny", *words]
    ran = subprocess.run(
        [*command, "--project", str(ROOT)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert told in out.read_text()
    assert "false" not in re.findall(r'"\w+_equal\w*": (\w+)', out.read_text())


def test_a_module_that_moved_is_seen():
    (pair,) = named("from nm2trt.engine.build_log import parse_build_log")
    with pytest.raises(ModuleNotFoundError):
        import_module(pair[0])


def test_every_test_that_the_page_on_gpus_names_is_there():
    named = re.findall(r"`(tests/\S+\.py)::(\w+)`", (ROOT / "docs" / "gpu.md").read_text())
    assert len(named) == 20
    assert [pair for pair in named if f"\ndef {pair[1]}(" not in (ROOT / pair[0]).read_text()] == []
