"""Where a folder that somebody sent holds links, no command writes through one that the command line does not name."""

import shutil
from pathlib import Path

import pytest

from nm2trt.cli import main
from tests.hostile import fuzz

# Outputs without a name, caches, records, and files beside an output.
COMMANDS = (
    "fuse m.onnx --no-compare",
    "prune d.onnx --calib x.npz --cache fresh -o named.onnx",
    "quantize m.onnx --calib x.npz --no-compare",
    "build m.onnx --target sm86 -o named.rtx",
    "run recipe.yaml -o fresh",
)
OTHERS = (
    "permute d.onnx --no-compare",
    "prune d.onnx --min-channels 4",
    "cast m.onnx --calib x.npz --no-compare",
    "quantize m.onnx --calib x.npz --no-compare --shard 0/2",
    "build m.onnx --target sm86",
    "infer m.onnx",
    "init m.onnx --force",
    "run recipe.yaml",
    "report run",
    "report run run --format md",
    "deploy m.onnx --repository models --name n --kubernetes manifests --image x:1 --model-store gs://models",
)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()}


@pytest.fixture
def folder(fuzzer, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(fuzzer.sound, here)
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(pytest.param(command, marks=pytest.mark.slow) for command in OTHERS)]
)
def test_no_link_that_nobody_named_is_written_through(folder, tmp_path, command, capsys):
    words = command.split()
    others = contents(folder)
    assert main([*fuzz.BOUNDS, *words]) == 0, capsys.readouterr().err
    named = {folder / words[-1]} if "-o" in words and Path(words[-1]).suffix else set()
    written = [
        path for path, data in contents(folder).items() if others.get(path) != data and path not in named
    ]
    assert written
    victims = tmp_path / "victims"
    victims.mkdir()
    for number, path in enumerate(written):
        path.unlink()
        (victims / str(number)).write_bytes(b"somebody's")
        path.symlink_to(victims / str(number))
    # What is sound is written again, and some links make the command refuse.
    status = main([*fuzz.BOUNDS, *words])
    assert status in (0, 2), capsys.readouterr().err
    assert set(contents(victims).values()) == {b"somebody's"}
    assert not status or "link" in capsys.readouterr().err
