"""The stages that run Python code which a recipe names: export and sparsify."""

import numpy as np
import pytest

from nm2trt.errors import InputError
from nm2trt.recipe.runner import run as run_recipe
from nm2trt.reporting.folder import RunFolder

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")

NET = """\
from torch import nn


def make(classes):
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, classes))
"""
RECIPE = """\
version: 1
stages:
  {first}
  verify: {{fail_on: none}}
  report:
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    safetensors.save_file(model.state_dict(), tmp_path / "net.safetensors")
    np.savez(tmp_path / "samples.npz", input=np.random.default_rng(0).standard_normal((64, 16)).astype("f4"))
    (tmp_path / "calib.yaml").write_text("source: {kind: npz, path: samples.npz}\ncount: 32\n")
    (tmp_path / "job.yaml").write_text(
        "model: net.py:make\narguments: {classes: 4}\nweights: net.safetensors\ncalibration: calib.yaml\n"
        "method: magnitude\nmin_channels: 8\n"
    )
    return tmp_path


def statuses(folder):
    result = run_recipe(folder / "r.yaml", allow_functions=True)
    assert result.failure is None
    return {stage.name: stage.status for stage in result.stages}


def change(path):
    if path.suffix == ".safetensors":
        model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        safetensors.save_file(model.state_dict(), path)
    elif path.suffix == ".py":
        path.write_text(NET + "# another\n")
    else:
        np.savez(path, input=np.zeros((64, 16), "f4"))


@pytest.mark.parametrize(
    ("first", "changed"),
    [
        pytest.param(
            "export: {model: 'net.py:make', arguments: {classes: 4}, weights: net.safetensors, inputs: {input: [2, 16]}}",
            ["net.safetensors"],
            id="export",
        ),
        pytest.param(
            "sparsify: {recipe: job.yaml}", ["net.safetensors", "net.py", "samples.npz"], id="sparsify"
        ),
    ],
)
def test_runs_and_notices_what_it_depends_on(folder, first, changed):
    (folder / "r.yaml").write_text(RECIPE.format(first=first))
    name = first.partition(":")[0]
    assert statuses(folder)[name] == "done"
    counts = RunFolder(folder / "runs" / "r").record("verify").result["counts"]
    assert counts == ({"holds": 2} if name == "sparsify" else {"broken": 2})
    assert statuses(folder)[name] == "cached"
    for file in changed:
        change(folder / file)
        assert statuses(folder)[name] == "done", file


def test_a_recipe_that_names_itself_is_one_sentence(folder):
    job = (folder / "job.yaml").read_text().replace("calib.yaml", "job.yaml").replace("magnitude", "fcpts")
    (folder / "job.yaml").write_text(job)
    (folder / "r.yaml").write_text(RECIPE.format(first="sparsify: {recipe: job.yaml}"))
    result = run_recipe(folder / "r.yaml", allow_functions=True)
    assert isinstance(result.failure, InputError)
    assert "job.yaml" in str(result.failure)
    assert "cannot be read" not in str(result.failure), "it was read over and over"
