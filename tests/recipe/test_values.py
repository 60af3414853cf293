"""What a stage would refuse is refused before any stage runs, in a dry run too, at its line."""

import json

import pytest

from nm2trt.errors import InputError, Nm2trtError
from nm2trt.options.field import options_of
from nm2trt.recipe import values
from nm2trt.recipe.options import KINDS
from nm2trt.recipe.runner import run as run_recipe
from nm2trt.recipe.schema import load_recipe
from tests.engine.nets import conv_net

HEAD = "version: 1\nmodel: net.onnx\nstages:\n"
# A stage, the key that its refusal names, and words of the refusal.
REFUSED = {
    "metric": ("validate: {data: d.npz, metrics: [top_1]}", "metrics", "'top_1' is not a metric"),
    "metric-option": (
        "validate: {data: d.npz, metrics: [cer], metric_options: [blanc=0]}",
        "",
        "'blanc=0' is not an option of cer",
    ),
    "default-metric-option": (
        "validate: {data: d.npz, metric_options: [blank=0]}",
        "",
        "'blank=0' is not an option of top-1, which takes no options",
    ),
    "drop": ("validate: {data: d.npz, max_drop: 5}", "max_drop", "valid string"),
    "ambiguous-drop": ('validate: {data: d.npz, max_drop: "0.5"}', "max_drop", "may mean 0.5 points"),
    "pattern": ('prune: {pattern: "4:2"}', "pattern", "4:2"),
    "empty-pattern": ('prune: {pattern: ""}', "pattern", "''"),
    "share": ('prune: {calib: d.npz, share: "0.5"}', "", "'0.5' is not a share of the work"),
    "half-a-budget": ("prune: {calib: d.npz, max_drop: 1pt}", "", "part of an accuracy budget"),
    "samples": ("prune: {to: int8}", "", "solved from samples"),
    "loss-of-floats": ("prune: {calib: d.npz, max_loss: 2%}", "", "--to int8"),
    "budget-metric": (
        "prune: {calib: d.npz, data: d.npz, max_drop: 1pt, metrics: [top-0]}",
        "metrics",
        "'top-0' is not a metric",
    ),
    "loss": ('quantize: {calib: d.npz, max_loss: "0.02"}', "max_loss", "not a share of the samples"),
    "target": ("verify: {target: ampere}", "target", "'ampere' is not a target"),
    "profile": ('build: {profiles: ["x:1,8"]}', "", "x:1,8"),
    "workspace": ("build: {workspace: 2Q}", "workspace", "'2Q' is not a size"),
    "two-shapes": ('build: {shapes: ["x:8"], profiles: ["x:1,8,32"]}', "", "given twice"),
    "require": ('build: {require_sparse: "0"}', "require_sparse", "not a share of the work"),
    "shape": ('explain: {shapes: ["x"]}', "shapes", "'x'"),
    "bench-shape": ('bench: {shapes: ["x:axb"]}', "shapes", "'x:axb' is not a shape"),
    "name": ("deploy: {repository: m, name: a/b}", "", "cannot be a model's name"),
    "canary": ("deploy: {repository: m, name: a, canary: nowhere}", "canary", "not the address of a server"),
    "gain-table": ("gain: {table: d.npz}", "table", "gain table"),
}


@pytest.fixture
def folder(tmp_path):
    conv_net(tmp_path / "net.onnx")
    (tmp_path / "d.npz").write_bytes(b"")
    return tmp_path


def refusal(folder, stage, **options):
    recipe = folder / "r.yaml"
    recipe.write_text(f"{HEAD}  {stage}\n")
    with pytest.raises(InputError) as caught:
        run_recipe(recipe, **options)
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("dry_run", [True, False], ids=["dry", "run"])
def test_a_value_is_refused_before_any_stage(case, dry_run, folder):
    stage, key, words = REFUSED[case]
    before = sorted(folder.rglob("*"))
    told = refusal(folder, stage, dry_run=dry_run)
    place = ".".join(filter(None, ["stages", stage.partition(":")[0], key]))
    assert words in told
    assert f"r.yaml line 4: {place}: " in told
    assert sorted(folder.rglob("*")) == [*before, folder / "r.yaml"]


def test_what_is_refused_after_long_work_is_refused_at_the_start(project):
    recipe = project / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("data: test.npz", "data: test.npz, metrics: [top1]"))
    with pytest.raises(InputError, match=r"line 7: stages\.validate\.metrics: 'top1' is not a metric"):
        run_recipe(recipe)
    assert not (project / "runs").exists()


def test_a_finished_stage_is_checked_again_when_its_value_changes(project):
    recipe = project / "recipe.yaml"
    assert run_recipe(recipe).failure is None
    recipe.write_text(recipe.read_text().replace("data: test.npz", "data: test.npz, metrics: [top1]"))
    with pytest.raises(InputError, match="'top1' is not a metric"):
        run_recipe(recipe, dry_run=True)


def test_a_calibration_recipe_is_read_and_what_it_names_is_not(folder):
    calib = folder / "c.yaml"
    calib.write_text("source: {kind: npz, path: gone.npz}\ncount: none\n")
    said = refusal(folder, "quantize: {calib: c.yaml}", dry_run=True)
    assert said.endswith("c.yaml line 2: count: Input should be a valid integer")
    calib.write_text("source: {kind: npz, path: gone.npz}\ncount: 4\n")
    recipe = folder / "r.yaml"
    assert run_recipe(recipe, dry_run=True).stages[0].status == "would run"


@pytest.mark.parametrize(
    ("recipe", "place"),
    [
        ("model: .\nstages:\n  verify:\n", "line 2: model: "),
        ("model: net.onnx\nstages:\n  verify: {from: ./}\n", "line 4: stages.verify.from: "),
        ("model: net.onnx\nstages:\n  cast: {calib: inner}\n", "line 4: stages.cast.calib: "),
    ],
    ids=["model", "source", "samples"],
)
def test_a_folder_is_no_file(folder, recipe, place):
    (folder / "inner").mkdir()
    (folder / "r.yaml").write_text(f"version: 1\n{recipe}")
    with pytest.raises(InputError) as caught:
        run_recipe(folder / "r.yaml", dry_run=True)
    assert place in str(caught.value)
    assert str(caught.value).endswith("is a folder; give the path of a file")


def test_the_file_of_an_exported_model_has_to_be_there(folder):
    stage = "export: {model: 'net.py:make', weights: d.npz, inputs: {x: [1, 3]}}"
    told = refusal(folder, stage, dry_run=True, allow_functions=True)
    assert "line 4: stages.export.model: " in told
    assert told.endswith("net.py does not exist")
    (folder / "net.py").write_text("raise SystemExit(3)")
    assert run_recipe(folder / "r.yaml", dry_run=True, allow_functions=True).stages[0].status == "would run"


@pytest.mark.parametrize("more", ["", ", metric_options: [blank=0]"], ids=["plain", "options"])
def test_a_dry_run_imports_no_code_of_the_recipe(folder, more):
    (folder / "judge.py").write_text("raise SystemExit(3)")
    recipe = folder / "r.yaml"
    recipe.write_text(f"{HEAD}  validate: {{data: d.npz, metrics: ['judge:score']{more}}}\n")
    assert run_recipe(recipe, dry_run=True, allow_functions=True).stages[0].status == "would run"


# Only a model, its samples or a machine can tell whether these are right.
_LATER = {
    *("include", "exclude", "keep", "valid", "output", "against", "device", "repository", "reference"),
    *("calib", "data", "sample", "settings", "triton_release", "server_tensorrt", "gpus"),
}
# These are read with others of their stage.
_WITH_OTHERS = {"profiles", "share", "metric_options", "name", "precision"}


def test_every_text_of_a_recipe_is_read_before_the_run_or_known_to_wait():
    texts = {
        (kind, known.stage)
        for kind, options in KINDS.items()
        for known in (options_of(options.options_class) if options.options_class else ())
        if known.stage and known.kind is str and not known.choices
    }
    unread = {
        (kind, key)
        for kind, key in texts
        if key not in values._READ and (kind, key) not in values._FILES and key not in _LATER | _WITH_OTHERS
    }
    assert not unread
    assert {kind for kind, key in texts if key in _WITH_OTHERS} <= {*values._TOGETHER}
    assert {key for _, key in texts} >= _LATER | _WITH_OTHERS | {*values._READ} - {"shapes"}


@pytest.mark.parametrize("kind", ["build", "prove", "deploy", "probe", "prune", "validate"])
def test_defaults_of_a_stage_pass(kind, folder):
    needs = {
        "validate": {"data": "d.npz"},
        "deploy": {"repository": "m", "name": "a"},
        "probe": {"url": "localhost:8000"},
    }
    recipe = folder / "r.yaml"
    stages = {kind: needs.get(kind, {})}
    if kind == "probe":
        stages = {"deploy": needs["deploy"], **stages}
    recipe.write_text(json.dumps({"version": 1, "model": "net.onnx", "stages": stages}))
    try:
        assert run_recipe(recipe, dry_run=True).failure is None
    except Nm2trtError as error:
        pytest.fail(str(error))
    assert load_recipe(recipe).stages[-1].kind == kind
