"""nm2trt run: a prune stage that was stopped goes on with the layers that it had solved, to the same bytes."""

import errno
import os
import signal

import pytest

from nm2trt.cli import main
from nm2trt.errors import OutputError
from nm2trt.graph.reconstruct import layer_walk
from nm2trt.recipe.runner import run as run_recipe
from tests import forked
from tests.graph.reconstruct.test_reconstruct_model import network, samples

LAYERS = 6


@pytest.fixture
def recipe(tmp_path):
    """Return a function that writes a recipe with a prune stage of these options."""
    network(tmp_path / "a.onnx")
    samples(tmp_path / "s.npz", 64)

    def write(options=""):
        path = tmp_path / "r.yaml"
        path.write_text(
            f"version: 1\nmodel: a.onnx\nstages:\n  prune: {{calib: s.npz{options}}}\n  verify:\n  report:\n"
        )
        return path

    return write


@pytest.fixture
def solved(monkeypatch):
    """Count the layers that are solved; `at`, if it is set, is called when the fourth begins."""
    state = {"count": 0, "at": None}
    real = layer_walk.fit_layer

    def counted(*arguments, **keywords):
        state["count"] += 1
        if state["count"] == 4 and state["at"] is not None:
            state["at"]()
        return real(*arguments, **keywords)

    monkeypatch.setattr(layer_walk, "fit_layer", counted)
    return state


def unfinished(folder):
    return sorted((folder / "artefacts").rglob("layer*.npz"))


def stop(path, solved, by):
    """Run a recipe in a process of its own that a signal ends when the fourth layer begins."""
    solved.update(count=0, at=lambda: os.kill(os.getpid(), by))
    child = forked.start(lambda: main(["run", path.name]), path.parent, os.devnull, os.devnull)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    solved.update(count=0, at=None)
    assert status == (130 if by == signal.SIGINT else -by)
    assert len(unfinished(path.parent / "runs" / "r")) == 3


@pytest.mark.parametrize(
    ("by", "options"), [(signal.SIGINT, ", to: int8"), (signal.SIGKILL, "")], ids=["int8", "float"]
)
def test_a_stopped_prune_goes_on_where_the_solve_stopped(tmp_path, recipe, solved, options, by):
    path = recipe(options)
    whole = run_recipe(path, output=tmp_path / "whole")
    assert solved["count"] == LAYERS
    stop(path, solved, by)
    again = run_recipe(path)
    assert again.failure is None
    assert solved["count"] == LAYERS - 3
    made = [sorted((done.run / "artefacts").iterdir()) for done in (whole, again)]
    assert [[file.name for file in files] for files in made] == [["prune.onnx"]] * 2
    assert made[0][0].read_bytes() == made[1][0].read_bytes()
    assert "--cache" not in (again.run / "stages" / "prune.json").read_text()


def test_what_was_solved_with_other_options_is_removed(recipe, solved, tmp_path):
    stop(recipe(), solved, signal.SIGKILL)
    first = unfinished(tmp_path / "runs" / "r")
    path = recipe(", seed: 1")
    stop(path, solved, signal.SIGKILL)
    assert not set(first) & set(unfinished(tmp_path / "runs" / "r"))
    assert run_recipe(path).failure is None
    assert solved["count"] == LAYERS - 3


def test_a_stage_that_failed_keeps_what_it_solved(recipe, solved, tmp_path):
    def full():
        raise OutputError(os.strerror(errno.ENOSPC))

    path = recipe()
    solved["at"] = full
    failed = run_recipe(path)
    assert isinstance(failed.failure, OutputError)
    assert len(unfinished(failed.run)) == 3  # the report that was still written left them
    solved.update(count=0, at=None)
    assert run_recipe(path).failure is None
    assert solved["count"] == LAYERS - 3


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_stands_in_the_place_of_solved_layers_is_removed(recipe, tmp_path, kind):
    """And a link there is not followed, where it stays in the run's folder."""
    place = tmp_path / "runs" / "r" / "artefacts" / ".unfinished" / "prune"
    place.parent.mkdir(parents=True)
    kept = place.parent.parent / "kept"
    kept.mkdir()
    (kept / "file").touch()
    if kind == "link":
        place.symlink_to(kept)
    else:
        place.touch()
    assert run_recipe(recipe()).failure is None
    assert (kept / "file").exists()
    assert not place.parent.exists()
