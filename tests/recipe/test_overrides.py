"""`nm2trt run recipe.yaml STAGE.KEY=VALUE`: what the command line replaces, and what it refuses."""

import json

import pytest

from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.recipe.schema import load_recipe
from tests.engine.nets import conv_net

RECIPE = """version: 1
model: m.onnx
stages:
  prune: {pattern: "2:4"}
  again: {stage: prune, from: prune}
  build: {sparsity: enable, profiles: ["x:1,8,32"]}
  validate: {from: prune, against: model, data: t.npz, runs: 10, max_drop: 1pt}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return path


def options(recipe, *overrides):
    return {stage.name: stage.options for stage in load_recipe(recipe, overrides).stages}


@pytest.mark.parametrize(
    ("word", "stage", "key", "value"),
    [
        ("prune.pattern=1:4", "prune", "pattern", "1:4"),
        ("prune.min_channels=32", "prune", "min_channels", 32),
        ("again.pattern=2:8", "again", "pattern", "2:8"),
        ("build.sparsity=force", "build", "sparsity", "force"),
        ("build.profiles=x:1,4,8", "build", "profiles", ["x:1,4,8"]),
        ("build.profiles=['x:1,4,8', 'y:1,2,3']", "build", "profiles", ["x:1,4,8", "y:1,2,3"]),
        ("build.tf32=false", "build", "tf32", False),
        ("validate.data=1.npz", "validate", "data", "1.npz"),
        ("validate.max_drop=0.5", "validate", "max_drop", "0.5"),
        ("prune.calib=a=b.npz", "prune", "calib", "a=b.npz"),
        ("again.from=model", "again", "from_", "model"),
    ],
)
def test_a_value_is_replaced_in_the_type_that_its_key_takes(recipe, word, stage, key, value):
    assert getattr(options(recipe, word)[stage], key) == value
    others = {name: left for name, left in options(recipe).items() if name != stage}
    assert {name: left for name, left in options(recipe, word).items() if name != stage} == others


def test_the_last_of_two_counts_and_the_head_may_be_replaced(recipe):
    found = load_recipe(recipe, ["prune.pattern=1:4", "prune.pattern=3:4", "model=other.onnx", "name=1"])
    assert (found.stages[0].options.pattern, found.model, found.name) == ("3:4", "other.onnx", "1")


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("prune", "replaces nothing; write STAGE.KEY=VALUE"),
        ("=1", "replaces nothing"),
        ("prune.=1", "replaces nothing"),
        ("prone.pattern=1:4", "no stage 'prone'; did you mean 'prune'"),
        ("modle=x", "no value 'modle'; did you mean 'model'"),
        ("prune.patern=1:4", "stages.prune.patern: unknown key; did you mean 'pattern'"),
        ("prune.min_channels=many", "stages.prune.min_channels"),
        ("build.tf32=[", "is not YAML"),
    ],
)
def test_what_fits_nothing_is_refused_in_one_sentence(recipe, word, message):
    with pytest.raises(InputError) as refused:
        load_recipe(recipe, [word])
    assert message in str(refused.value)


@pytest.mark.parametrize(
    "words",
    [
        ["r.yaml", "verify.fail_on=none", "--dry-run"],
        ["r.yaml", "--dry-run", "verify.fail_on=none"],
        ["-o", "runs/x", "r.yaml", "--dry-run", "verify.fail_on=none", "--json"],
        ["--root=.", "r.yaml", "--until", "verify", "verify.fail_on=none", "--dry-run"],
    ],
    ids=" ".join,
)
def test_overrides_may_stand_anywhere(tmp_path, monkeypatch, capsys, words):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "m.onnx")
    (tmp_path / "r.yaml").write_text("version: 1\nmodel: m.onnx\nstages:\n  verify:\n")
    assert main(["run", *words]) == 0
    out = capsys.readouterr().out
    if "--json" in words:
        assert json.loads(out)["stages"][0]["name"] == "verify"
    else:
        assert out.splitlines()[-1].startswith("next:    nm2trt run r.yaml verify.fail_on=none")
