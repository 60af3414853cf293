"""nm2trt run: what runs, what is taken from before, and that a kill loses nothing."""

import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from nm2trt.cli import main
from nm2trt.errors import DifferenceError, InputError, OutputError, SparsityError
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.recipe.runner import run as run_recipe
from nm2trt.recipe.starter import write_recipe
from nm2trt.recipe.view import View
from nm2trt.reporting.collect import collect
from nm2trt.reporting.folder import RunFolder
from tests import forked


def statuses(result):
    return {stage.name: stage.status for stage in result.stages}


def run(project, **options):
    return run_recipe(project / "recipe.yaml", **options)


def edit(project, old, new):
    path = project / "recipe.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


ALL_CACHED = dict.fromkeys(("prune", "fuse", "verify", "validate", "report"), "cached")


def test_second_run_does_nothing(project):
    first = run(project)
    assert statuses(first) == dict.fromkeys(ALL_CACHED, "done")
    assert first.report == project / "runs" / "recipe" / "report.html"
    stamps = {path: path.stat().st_mtime_ns for path in first.run.rglob("*.onnx")}
    second = run(project)
    assert statuses(second) == ALL_CACHED
    assert {path: path.stat().st_mtime_ns for path in first.run.rglob("*.onnx")} == stamps
    record = RunFolder(first.run).record("verify")
    assert record.result["counts"] == {"holds": 2}
    assert "nm2trt verify" in record.command
    assert "2 holds" in (first.run / "report.md").read_text()


def test_only_what_an_option_reaches_runs_again(project):
    run(project)
    edit(project, "runs: 5", "runs: 6")
    assert statuses(run(project)) == ALL_CACHED | {"validate": "done", "report": "done"}
    edit(project, '{pattern: "2:4"}', '{pattern: "1:4"}')
    edit(project, "verify:", 'verify: {pattern: "1:4"}')
    assert set(statuses(run(project)).values()) == {"done"}


def test_a_stage_whose_input_comes_out_the_same_is_not_run_again(project):
    run(project)
    edit(project, '{pattern: "2:4"}', '{pattern: "2:4", exclude: ["nothing*"], min_channels: 8}')
    with pytest.raises(InputError, match="nothing"):
        raise run(project).failure
    edit(project, ', exclude: ["nothing*"]', "")
    after = statuses(run(project))
    assert (after["prune"], after["fuse"]) == ("done", "cached")


def test_a_changed_file_is_noticed(project):
    run(project)
    with np.load(project / "test.npz") as data:
        np.savez(project / "test.npz", x=data["x"], labels=(data["labels"] + 1) % 10)
    assert statuses(run(project)) == ALL_CACHED | {"validate": "done", "report": "done"}


def test_a_lost_or_changed_artefact_is_made_again(project):
    result = run(project)
    (result.run / "artefacts" / "fuse.onnx").unlink()
    assert statuses(run(project))["fuse"] == "done"
    (result.run / "artefacts" / "prune.onnx").write_bytes(b"spoiled")
    after = statuses(run(project))
    assert (after["prune"], after["fuse"]) == ("done", "cached")


def test_what_others_wrote_into_the_folder_is_reported_anew(project):
    folder = RunFolder(run(project).run)
    folder.log("dense", 1, loss=1.0)
    assert statuses(run(project)) == ALL_CACHED | {"report": "done"}
    assert "Loss" in (folder.path / "report.html").read_text()
    assert statuses(run(project)) == ALL_CACHED


def test_a_damaged_record_is_made_again(project):
    result = run(project)
    path = RunFolder(result.run).stage_path("verify")
    path.write_text(path.read_text()[:100])
    assert statuses(run(project)) == ALL_CACHED | {"verify": "done", "report": "done"}


def test_another_version_of_nm2trt_runs_again(project, monkeypatch):
    run(project)
    monkeypatch.setattr("nm2trt.__version__", "99.0")
    assert set(statuses(run(project)).values()) == {"done"}


def test_from_until_and_dry_run(project):
    before = run(project, until="fuse")
    assert statuses(before) == {
        "prune": "done",
        "fuse": "done",
        "verify": "skipped",
        "validate": "skipped",
        "report": "skipped",
    }
    planned = run(project, dry_run=True)
    assert statuses(planned) == {
        "prune": "cached",
        "fuse": "cached",
        "verify": "would run",
        "validate": "would run",
        "report": "would run",
    }
    assert {stage.name: stage.sentence for stage in planned.stages}["verify"] == "it has not run"
    run(project)
    assert statuses(run(project, first="verify", until="verify")) == {
        "prune": "cached",
        "fuse": "cached",
        "verify": "done",
        "validate": "skipped",
        "report": "skipped",
    }
    again = run(project, first="fuse", dry_run=True)
    assert list(statuses(again).values()) == ["cached", *["would run"] * 4]


def test_dry_run_writes_nothing(project):
    before = sorted(project.rglob("*"))
    run(project, dry_run=True)
    assert sorted(project.rglob("*")) == before


def test_a_failed_gate_stops_the_run_and_still_reports(project):
    edit(project, "verify:", "verify: {fail_on: ineligible}")
    result = run(project)
    assert isinstance(result.failure, SparsityError)
    assert statuses(result) == {
        "prune": "done",
        "fuse": "done",
        "verify": "failed",
        "validate": "skipped",
        "report": "done",
    }
    assert "verify" in (result.run / "report.md").read_text()
    edit(project, "verify: {fail_on: ineligible}", "verify: {fail_on: broken}")
    assert statuses(run(project)) == {
        "prune": "cached",
        "fuse": "cached",
        "verify": "done",
        "validate": "done",
        "report": "done",
    }


def test_a_failed_gate_shows_its_figures(project):
    edit(project, "data: test.npz,", "data: test.npz, max_drop: 0.001pt,")
    result = run(project)
    assert isinstance(result.failure, DifferenceError)
    data = collect(result.run)
    assert [row.model for row in data.accuracy] == ["model.onnx", "fuse.onnx"]
    assert len(data.latency) == 2
    assert [(row.name, row.status) for row in data.stages][-1] == ("validate", "failed")


def test_the_report_forgets_a_stage_that_the_recipe_has_no_longer(project):
    first = run(project)
    assert "validate" in (first.run / "report.md").read_text()
    edit(project, "  verify:", '  check: {stage: verify, pattern: "1:4", fail_on: none}')
    RunFolder(first.run).stage_path("bench").write_text('{"latencies": {"m.onnx": {"p50_ms": 1.0}}}')
    data = collect(run(project).run)
    assert [row.name for row in data.stages] == ["prune", "fuse", "check", "validate", "bench"]
    assert {row.status for row in data.weights} == {"broken"}
    edit(project, "  validate: {data: test.npz, runs: 5, warmup: 1}\n", "")
    assert statuses(run(project))["report"] == "done"
    assert "validate" not in (first.run / "report.md").read_text()


def test_a_model_named_like_what_a_stage_makes(project):
    (project / "model.onnx").rename(project / "prune.onnx")
    edit(project, "model: model.onnx", "model: prune.onnx")
    edit(project, "  fuse:\n", "")
    rows = collect(run(project).run).accuracy
    assert [(row.stage, row.model, row.reference) for row in rows] == [
        ("ONNX", "prune.onnx", ""),
        ("prune", "prune.onnx", "prune.onnx"),
    ]


def test_two_validations_side_by_side(project):
    edit(
        project,
        "  report:",
        "  against-fused: {stage: validate, from: prune, against: fuse, data: test.npz, runs: 0}\n  report:",
    )
    result = run(project)
    assert statuses(result)["against-fused"] == "done"
    assert RunFolder(result.run).record("against-fused").result["reference"].endswith("fuse.onnx")


def test_each_comparison_of_one_model_is_reported(project):
    other = "  other: {stage: validate, from: fuse, against: prune, data: test.npz, runs: 0}\n  report:"
    edit(project, "  report:", other)
    rows = collect(run(project).run).accuracy
    assert [(row.model, row.reference) for row in rows] == [
        ("model.onnx", ""),
        ("fuse.onnx", "model.onnx"),
        ("fuse.onnx", "prune.onnx"),
        ("prune.onnx", ""),
    ]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        pytest.param(
            "  fuse:\n",
            "  fuse: {from: verify-it}\n",
            r"line 5: stages\.fuse\.from: 'verify-it' is neither a stage of this recipe nor a file; did you mean|line 5: stages\.fuse\.from: .*known are",
            id="unknown-source",
        ),
        pytest.param(
            "  fuse:\n",
            "  fuse: {from: verify}\n",
            r"line 5: stages\.fuse\.from: the stage 'verify' makes no model",
            id="source-makes-nothing",
        ),
        pytest.param(
            'prune: {pattern: "2:4"}',
            'prune: {pattern: "2:4", from: fuse}',
            r"recipe\.yaml line 5: stages\.fuse: the stages go in a circle, prune -> fuse -> prune; let one",
            id="circle",
        ),
        pytest.param(
            "  fuse:\n",
            "  fuse: {from: fuse}\n",
            r"line 5: stages\.fuse: the stages go in a circle, fuse -> fuse",
            id="circle-of-one",
        ),
        pytest.param(
            "pattern:",
            "patern:",
            r"line 4: stages\.prune\.patern: unknown key; did you mean 'pattern'\?",
            id="unknown-key",
        ),
        pytest.param(
            "  fuse:",
            "  fuze:",
            r"line 5: stages\.fuze: stage 'fuze' is unknown, did you mean 'fuse'\?",
            id="unknown-stage",
        ),
        pytest.param(
            "model: model.onnx",
            "modle: model.onnx",
            r"line 2: modle: unknown key; did you mean 'model'\?",
            id="unknown-top-key",
        ),
        pytest.param(
            "runs: 5",
            "runs: many",
            r"line 7: stages\.validate\.runs: Input should be a valid integer",
            id="wrong-type",
        ),
        pytest.param(
            "  fuse:\n", "  fuse: 3\n", r"line 5: stages\.fuse: should be a mapping", id="no-mapping"
        ),
        pytest.param(
            "  verify:", "  fuse:", r"cannot be read at line 6: the key 'fuse' is there twice", id="twice"
        ),
        pytest.param("version: 1", "version: 2", r"line 1: version: Input should be 1", id="later-recipe"),
        pytest.param(
            "  fuse:\n",
            "  model: {stage: fuse}\n",
            r"line 5: stages\.model: give the stage another name.*`model` means",
            id="stage-called-model",
        ),
        pytest.param(
            "  fuse:\n",
            "  ../../fuse: {stage: fuse}\n",
            r"line 5: stages\.\.\./\.\./fuse: give the stage another name",
            id="stage-outside",
        ),
        pytest.param(
            "  fuse:\n", "  on:\n", r"line 5: the key 'on' is not text to YAML; put it in quotes", id="key-on"
        ),
        pytest.param(
            '"2:4"',
            "2:4",
            r"line 4: stages\.prune\.pattern: .*YAML reads 124 here; put it in quotes",
            id="unquoted-pattern",
        ),
        pytest.param(
            "version: 1\n",
            "version: 1\nrun: 2026-11-28\n",
            r"line 2: run: .*YAML reads 2026-11-28 here; put it in quotes",
            id="unquoted-date",
        ),
        pytest.param(
            "test.npz",
            "../test.npz",
            r"line 7: stages\.validate\.data: .*leaves the folder.*--root DIR allows more",
            id="outside",
        ),
        pytest.param(
            "test.npz",
            "tset.npz",
            r"line 7: stages\.validate\.data: .*tset\.npz does not exist",
            id="missing-file",
        ),
        pytest.param(
            "model: model.onnx",
            "model: no.onnx",
            r"line 2: model: .*no\.onnx does not exist",
            id="missing-model",
        ),
        pytest.param(
            "model: model.onnx\n", "", r"line 3: stages\.prune: it has no model to start from", id="no-model"
        ),
        pytest.param(
            "version: 1\n",
            "version: 1\nrun: ../elsewhere\n",
            r"line 2: run: .*leaves the folder.*give it with -o DIR",
            id="run-outside",
        ),
        pytest.param(
            "  fuse:\n",
            "  export: {model: 'net.py:f', weights: w.safetensors, inputs: {x: [1]}}\n",
            r"line 5: stages\.export: it would run Python code.*--allow-functions",
            id="code",
        ),
        pytest.param(
            "version: 1\n",
            "version: 1\nname: !!python/object/apply:os.system [id]\n",
            r"cannot be read at line 2: could not determine a constructor",
            id="python-tag",
        ),
    ],
)
def test_refuses(project, old, new, match):
    edit(project, old, new)
    with pytest.raises(InputError, match=match):
        run(project)
    assert not (project / "runs").exists()


def test_refuses_unknown_stages_on_the_command_line(project):
    with pytest.raises(InputError, match="has no stage 'fues'; did you mean 'fuse'"):
        run(project, first="fues")


def test_refuses_a_run_folder_of_a_later_release(project):
    result = run(project)
    path = RunFolder(result.run).header_path
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 7}))
    with pytest.raises(InputError, match="has schema 7, this release reads 1"):
        run(project)


def test_a_link_beside_what_the_run_writes_stays(project, tmp_path_factory):
    """`-o .` beside a link to other data is fine; a link in the place of what the run writes is not."""
    store = tmp_path_factory.mktemp("store")
    (store / "photos.zip").write_bytes(b"photos")
    (project / "photos.zip").symlink_to(store / "photos.zip")
    assert set(statuses(run(project, output=project, until="prune")).values()) == {"done", "skipped"}
    for name in ("report.html", "stages/verify.json", "run.json"):
        (project / name).unlink(missing_ok=True)
        (project / name).symlink_to(store / "elsewhere")
        with pytest.raises(InputError, match=f"{name} is a link that leaves the run's folder"):
            run(project, output=project)
        (project / name).unlink()


def test_a_file_in_the_place_of_a_folder_of_the_run_is_refused(project, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "artefacts").write_text("x")
    failure = run(project, output=tmp_path / "out").failure
    assert isinstance(failure, OutputError)
    assert str(failure).endswith("artefacts is not a folder; give another folder for the run")


def test_refuses_a_second_run_in_the_same_folder(project):
    import fcntl

    folder = run(project).run
    header = RunFolder(folder).header_path.read_bytes()
    edit(project, "version: 1", "version: 1\nname: other")
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=r"another nm2trt run works in .*choose another folder with -o"):
            run(project, output=folder)
        # The other run goes on with the header that it wrote.
        assert RunFolder(folder).header_path.read_bytes() == header
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("stage", ["prune", "validate", "report"])
def test_a_folder_removed_during_the_run_is_told_as_that(project, stage):
    class Remover(View):
        def started(self, name):
            if name == stage:
                shutil.rmtree(project / "out")

    with pytest.raises(
        OutputError, match=r"out was removed while the run worked in it; run .*recipe\.yaml again"
    ):
        run(project, output=project / "out", view=Remover())


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((folder / "artefacts").iterdir())
    }


def command(project, *options):
    return [sys.executable, "-m", "nm2trt", "run", str(project / "recipe.yaml"), *options]


def test_killed_at_any_time_it_goes_on_and_comes_to_the_same_end(project, tmp_path_factory):
    whole = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    run(project, output=whole)
    took = time.monotonic() - began
    generator = random.Random(1)
    for part in range(6):  # each in a part of the time of its own
        started = forked.start(lambda: main(command(project)[3:]), project, os.devnull, os.devnull)
        time.sleep(took * (part + generator.random()) / 6)
        os.kill(started, signal.SIGKILL)
        os.waitpid(started, 0)
        folder = RunFolder(project / "runs" / "recipe")
        if folder.header_path.exists():
            assert all(record.status in ("done", "running") for record in folder.records())
    done = subprocess.run(command(project, "--json"), capture_output=True, text=True, check=True)
    assert {stage["status"] for stage in json.loads(done.stdout)["stages"]} <= {"done", "cached"}
    assert digests(project / "runs" / "recipe") == digests(whole)
    assert not [path for path in (project / "runs").rglob("*") if path.name.endswith(".tmp")]


def test_a_stage_killed_half_way_is_named_and_run_again(project):
    folder = RunFolder(run(project).run)
    record = folder.record("fuse")
    # What a SIGKILL leaves: the record says that the stage runs, and half a file lies beside the old one.
    path = folder.stage_path("fuse")
    path.write_text(
        json.dumps({**record.to_json(), "status": "running", "key": "", "result": {}, "outputs": []})
    )
    planned = {stage.name: stage.sentence for stage in run(project, dry_run=True).stages}
    assert planned["fuse"] == "it was stopped last time"
    import nm2trt

    assert "was stopped" in nm2trt.report(folder.path).report.read_text()
    assert statuses(run(project)) == ALL_CACHED | {"fuse": "done", "report": "done"}


def test_command_line_prints_stages_and_exit_status(project):
    done = subprocess.run(command(project), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[0].startswith("✓ prune")
    assert "report.html" in done.stdout
    edit(project, "verify:", "verify: {fail_on: ineligible}")
    done = forked.run(lambda: main(command(project)[3:]), project)
    assert done.returncode == 3
    assert "(fail_on: ineligible)" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_live_view_on_a_terminal(project):
    script = shutil.which("script")
    if script is None:
        pytest.skip("script(1) is not installed")
    line = " ".join(command(project))
    done = subprocess.run(
        [script, "-qec", line, "/dev/null"],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout
    assert "\x1b[" in done.stdout
    assert "validate" in done.stdout


def test_init_writes_a_recipe_that_runs_unchanged(project):
    written = write_recipe(project / "model.onnx")
    assert written.recipe == project / "model.yaml"
    assert written.recipe.read_text().count("#") > 5
    result = run_recipe(written.recipe)
    assert result.failure is None
    assert statuses(result)["prune"] == statuses(result)["cast"] == "done"
    assert verify_model(result.run / "artefacts" / "cast.onnx").weights[0].eligible == "yes"
    pruned = result.run / "artefacts" / "prune.onnx"
    target = project / "pruned.onnx"
    target.write_bytes(pruned.read_bytes())
    again = write_recipe(target)
    assert again.holds == 2
    assert "prune" not in statuses(run_recipe(again.recipe))


def test_init_takes_names_as_they_are(project):
    odd = project / 'a: "b" #c.onnx'
    odd.write_bytes((project / "model.onnx").read_bytes())
    written = write_recipe(odd)
    first = written.recipe.read_text().splitlines()[0]
    assert shlex.split(re.search(r"`nm2trt run (.*)` runs it", first)[1]) == [written.recipe.name]
    assert run_recipe(written.recipe, until="prune").failure is None


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("model.onnx", "it is a model; `nm2trt init MODEL` writes a recipe for it"),
        ("test.npz", "give it to a command with --calib"),
    ],
)
def test_what_is_no_recipe_is_told_where_it_belongs(project, name, told):
    np.savez(project / "test.npz", x=np.zeros(4))
    with pytest.raises(InputError, match=re.escape(f"{project / name} is not a recipe: it ")) as refused:
        run_recipe(project / name)
    assert told in str(refused.value)


def test_init_guesses_sizes_that_have_no_default(project):
    import onnx

    model = onnx.load(project / "model.onnx")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    onnx.save(model, project / "model.onnx")
    recipe = write_recipe(project / "model.onnx").recipe
    profile = 'profiles: ["x:1x16x64x64,8x16x128x128,32x16x256x256"]'
    assert profile in recipe.read_text()
    assert run_recipe(recipe).failure is None


def test_init_refuses(project, tmp_path_factory):
    with pytest.raises(OutputError, match=r"recipe\.yaml is there already.*--force"):
        write_recipe(project / "model.onnx", project / "recipe.yaml")
    with pytest.raises(InputError, match="is not below"):
        write_recipe(project / "model.onnx", tmp_path_factory.mktemp("other") / "r.yaml")
    with pytest.raises(InputError, match=r"no\.onnx does not exist"):
        write_recipe(project / "no.onnx")


def test_external_data_is_part_of_its_model_in_the_report(project):
    """A changed number in the data makes another artefact, and its bytes count."""
    import onnx

    from nm2trt.graph.storage.model_hash import model_sha256

    onnx.save(
        onnx.load(project / "model.onnx"), project / "model.onnx",
        save_as_external_data=True, location="model.weights", size_threshold=0,
    )  # fmt: skip
    text = (project / "recipe.yaml").read_text()
    lines = text.replace("  fuse:\n", "").replace("  validate: {data: test.npz, runs: 5, warmup: 1}\n", "")
    (project / "recipe.yaml").write_text(lines)
    result = run(project)
    assert {stage.status for stage in result.stages} == {"done"}
    nodes = {node.name: node for node in collect(result.run).lineage}
    assert set(nodes) == {"model.onnx", "prune.onnx"}
    given, made = nodes["model.onnx"], nodes["prune.onnx"]
    data = [project / "model.onnx", project / "model.weights"]
    assert given.size_bytes == sum(path.stat().st_size for path in data)
    assert given.sha256 == model_sha256(project / "model.onnx")
    artefacts = result.run / "artefacts"
    assert made.size_bytes == sum(path.stat().st_size for path in artefacts.glob("prune.onnx*"))
    assert made.sha256 == model_sha256(artefacts / "prune.onnx")
    assert made.size_bytes > 10_000
    before = given.key
    with (project / "model.weights").open("r+b") as file:
        file.write(np.float32(7).tobytes())
    assert statuses(run(project))["prune"] == "done"
    assert collect(result.run).lineage[0].key != before
