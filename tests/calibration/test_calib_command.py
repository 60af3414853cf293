"""`nm2trt calib check` and `nm2trt sparsify`, as typed."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import nm2trt
from nm2trt.cli import main
from nm2trt.sparsity.fcpts.distill import Distiller
from tests.docs.json_schemas import problems

pytestmark = pytest.mark.usefixtures("one_export")
CALIB = Path(__file__).parents[2] / "calib"
NET = """
import torch
from torch import nn

def make(width=16):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 36, 10),
    )

def no_net():
    return 3
"""
RECIPE = """
model: net.py:make
weights: net.safetensors
calibration: digits64.yaml
method: fcpts
pattern: "2:4"
options: {steps: 6, checkpoint_every: 2}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    (tmp_path / "job.yaml").write_text(RECIPE)
    for name in ("digits64.yaml", "digits64.npz"):
        shutil.copy(CALIB / name, tmp_path / name)
    scope = {}
    exec(NET, scope)
    save_file(scope["make"]().state_dict(), tmp_path / "net.safetensors")
    return tmp_path


def test_calib_check_prints_shapes_ranges_and_hash_and_draws(tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["calib", "check", str(CALIB / "digits64.yaml"), "--sheet", str(sheet)]) == 0
    out = capsys.readouterr().out
    assert "64x1x8x8" in out
    assert "float32" in out
    assert "sha256 d95c16a3" in out
    assert sheet.read_bytes().startswith(b"\x89PNG")
    assert main(["calib", "check", str(CALIB / "digits64.yaml"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 64
    assert report["inputs"][0]["shape"] == [64, 1, 8, 8]


def test_calib_check_says_what_is_wrong(tmp_path, capsys):
    assert main(["calib", "check", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml does not exist" in capsys.readouterr().err
    assert (
        main(["calib", "check", str(CALIB / "digits64.yaml"), "--sheet", str(tmp_path / "no" / "s.png")]) == 2
    )
    assert "does not exist; create it" in capsys.readouterr().err


def test_sparsify_writes_weights_and_onnx_that_hold_the_pattern(folder, capsys):
    assert main(["sparsify", "--allow-functions", str(folder / "job.yaml")]) == 0
    out = capsys.readouterr().out
    assert "3.weight" in out
    assert "distillation loss" in out
    state = load_file(folder / "net.sparse.safetensors")
    assert set(state) == set(load_file(folder / "net.safetensors"))
    assert torch.count_nonzero(state["3.weight"]) == state["3.weight"].numel() // 2
    statuses = {v.weight: v.pattern for v in nm2trt.verify(folder / "net.sparse.onnx").weights}
    assert statuses["3.weight"] == "holds"
    assert not list(folder.glob("*.partial*")), "the checkpoint is gone"
    assert (
        main(
            ["sparsify", "--allow-functions", str(folder / "job.yaml"), "-o", str(folder / "other"), "--json"]
        )
        == 0
    )
    report = json.loads(capsys.readouterr().out)
    assert report["weights"].endswith("other.safetensors")
    assert problems("sparsify", report) == []
    for key, value in load_file(folder / "other.safetensors").items():
        assert torch.equal(value, state[key]), key


def test_a_stopped_command_goes_on(folder, capsys, monkeypatch):
    assert main(["sparsify", "--allow-functions", str(folder / "job.yaml"), "-o", str(folder / "whole")]) == 0
    real, steps = Distiller._step, []

    def step(self, *arguments):
        steps.append(0)
        if len(steps) == 5:
            raise KeyboardInterrupt
        real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "_step", step)
        assert main(["sparsify", "--allow-functions", str(folder / "job.yaml")]) == 130
    assert (folder / "net.sparse.partial.safetensors").is_file()
    assert not (folder / "net.sparse.safetensors").exists()
    capsys.readouterr()
    assert main(["sparsify", "--allow-functions", str(folder / "job.yaml")]) == 0
    assert "went on from step 4 of a stopped run" in capsys.readouterr().out
    whole = load_file(folder / "whole.safetensors")
    for key, value in load_file(folder / "net.sparse.safetensors").items():
        assert torch.equal(value, whole[key]), key


def test_magnitude_and_unstructured_recipes(folder, capsys):
    for changes in (
        'method: magnitude\npattern: "2:4"\noptions: {}',
        "method: fcpts\npattern: null\nrate: 0.7\noptions: {steps: 2}",
    ):
        text = RECIPE[: RECIPE.index("method")] + changes
        (folder / "job.yaml").write_text(text)
        assert main(["sparsify", "--allow-functions", str(folder / "job.yaml")]) == 0, capsys.readouterr().err
    state = load_file(folder / "net.sparse.safetensors")
    weights = [state[name] for name in ("0.weight", "3.weight", "6.weight")]
    total = sum(w.numel() for w in weights)
    assert sum(int((w == 0).sum()) for w in weights) == round(0.7 * total)


BAD = {
    "missing-model": ("net.py:make", "none.py:make", "none.py does not exist; give the path of a Python file"),
    "missing-function": ("net.py:make", "net.py:none", "model: net.py has no function 'none'"),
    "no-module": ("net.py:make", "net.py:no_net", "returned a int, not a torch.nn.Module"),
    "bad-package": ("net.py:make", "no_such_package:make", "model: no_such_package cannot be imported"),
    "missing-weights": ("net.safetensors", "none.safetensors", "none.safetensors does not exist"),
    "no-safetensors": ("weights: net.safetensors", "weights: net.py", "is not a sound safetensors file"),
    "other-width": ("weights:", "arguments: {width: 32}\nweights:", "does not fit the model: size mismatch for 0.weight"),
    "method": ("method: fcpts", "method: sr-ste", "'sr-ste' trains in your own loop; a recipe takes fcpts or magnitude"),
    "no-method": ("method: fcpts", "method: prune", "'prune' is unknown"),
    "no-calibration": ("calibration: digits64.yaml\n", "", "'fcpts' learns from samples; name a calibration recipe"),
    "no-samples": (
        "calibration: digits64.yaml\nmethod: fcpts\n", "method: magnitude\n", "the export needs samples; name a calibration recipe",
    ),
    "option": ("steps: 6", "step: 6", "'fcpts' does not know the option 'step'"),
    "unknown-key": ("model:", "modle: x\nmodel:", "line 2: modle: unknown key; did you mean 'model'"),
    "onto-itself": ("weights:", "output: net\nweights:", "the result would take the place of"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_one_sentence_for_each_mistake(case, folder, capsys):
    old, new, message = BAD[case]
    assert old in RECIPE
    (folder / "job.yaml").write_text(RECIPE.replace(old, new, 1))
    assert main(["sparsify", "--allow-functions", str(folder / "job.yaml")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(folder.glob("*.sparse*"))


def test_a_recipe_serves_sparsify_in_python_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 16, 3), nn.Flatten(), nn.Linear(16 * 36, 10))
    sparse = nm2trt.sparsify(model, method="fcpts", calibration=str(CALIB / "digits64.yaml"), steps=2)
    assert sparse.report()["samples"] == 64
    sparse.finalize()
    assert np.isfinite(model(torch.rand(1, 1, 8, 8)).detach().numpy()).all()
