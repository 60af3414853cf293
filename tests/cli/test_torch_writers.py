"""Two writers at once, or a killed one, of what is made from a torch model: sparsify's files, and export's."""

import fcntl
import importlib.util
import random
import shutil
import signal
import time

import numpy as np
import onnx
import pytest

from nm2trt.cli import main
from tests.cli.forks import Forks

torch = pytest.importorskip("torch")
safetensors = pytest.importorskip("safetensors.torch")
if importlib.util.find_spec("onnxscript") is None:  # imported by what needs it, which is half a second
    pytest.skip("onnxscript is not installed", allow_module_level=True)

SENT = """
import torch

def made(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.ReLU(), torch.nn.Linear(32, 8)).eval()
"""
# `export` is not a command: the words "export NAME OUT" call it as a caller of Python does.
EXPORT = """
import pathlib, sys, tempfile, torch, nm2trt
import safetensors.torch

with tempfile.TemporaryDirectory() as folder:  # so that what an export imports is there in every fork
    nm2trt.export(torch.nn.Linear(32, 8).eval(), torch.ones(2, 32), pathlib.Path(folder, "x.onnx"))

def exported(words):
    sys.path.insert(0, "")
    from sent import made
    model = made()
    model.load_state_dict(safetensors.torch.load_file(f"{words[1]}.safetensors"))
    nm2trt.export(model, torch.ones(2, 32), words[2], external_data=words[3] == "external")
    return 0

main = lambda words, own=main: exported(words[1:]) if words[1] == "export" else own(words)
"""


def make(folder):
    """Write a model's code, two sets of its weights, samples, and a recipe for each set."""
    (folder / "sent.py").write_text(SENT)
    (folder / "out").mkdir()
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((8, 32)).astype("f4"))
    (folder / "calib.yaml").write_text("source: {kind: npz, path: x.npz}\ncount: 8\ninput: x\nbatch: 4\n")
    scope = {}
    exec(SENT, scope)
    for seed, name in enumerate(("one", "two")):
        safetensors.save_file(scope["made"](seed).state_dict(), folder / f"{name}.safetensors")
        (folder / f"{name}.yaml").write_text(
            f"model: sent.py:made\nweights: {name}.safetensors\nmethod: magnitude\ncalibration: calib.yaml\n"
        )


@pytest.fixture(scope="module")
def forks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch_writers")
    make(folder)
    started = Forks(folder, EXPORT)
    started.out = folder / "out"
    yield started
    started.close()


PAIRS = 200
COMMANDS = {
    "sparsify": "sparsify {name}.yaml --allow-functions -o out/x",
    "export": "export {name} out/x.onnx plain",
    "export external": "export {name} out/x.onnx external",
}


def content(folder):
    """Return the weights that each file of an output holds."""
    found = []
    model = onnx.load(folder / "x.onnx")
    onnx.checker.check_model(model)
    found += [onnx.numpy_helper.to_array(tensor).tobytes() for tensor in model.graph.initializer]
    if (folder / "x.safetensors").exists():
        state = safetensors.load_file(folder / "x.safetensors")
        found += [state[name].numpy().tobytes() for name in sorted(state)]
    return found


def names_of(folder):
    """Return the names that the files of one sound output have."""
    tensors = onnx.load(folder / "x.onnx", load_external_data=False).graph.initializer
    data = {e.value for tensor in tensors for e in tensor.external_data if e.key == "location"}
    return {"x.onnx", *data} | {path.name for path in folder.glob("x.safetensors")}


def alone(forks, command):
    """Return both command lines, what each leaves by itself, and how long the longer one took."""
    lines = [command.format(name=name).split() for name in ("one", "two")]
    expected, longest = [], 0.0
    for line in lines:
        shutil.rmtree(forks.out)
        forks.out.mkdir()
        began = time.monotonic()
        assert forks.run(line) == [0], forks.last_words()
        longest = time.monotonic() - began  # the first one imports, too
        expected.append(content(forks.out))
    assert expected[0] != expected[1]
    return lines, expected, longest


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_two_hundred_pairs(forks, command):
    lines, expected, _ = alone(forks, COMMANDS[command])
    winners = set()
    for number in range(PAIRS):
        if number % 2 == 0:
            shutil.rmtree(forks.out)
            forks.out.mkdir()
        assert forks.run(*lines) == [0, 0], forks.last_words()
        winners.add(expected.index(content(forks.out)))
        assert {path.name for path in forks.out.iterdir()} == names_of(forks.out)
    assert winners == {0, 1}, "one of the two always came last, so they did not run at once"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("command", ["export", "export external"])
def test_two_hundred_ended_exports(forks, command, number):
    lines, expected, longest = alone(forks, COMMANDS[command])
    rng, ended = random.Random(0), []
    for run in range(PAIRS):
        ended += forks.run(lines[run % 2], after=longest * rng.uniform(0, 1.1), signal=number)
        assert content(forks.out) in expected
    assert forks.run(lines[0]) == [0], forks.last_words()
    assert content(forks.out) == expected[0]
    assert {path.name for path in forks.out.iterdir()} == names_of(forks.out)
    assert ended.count(0) < 200


def test_one_lock_covers_both_files_of_sparsify(tmp_path, monkeypatch):
    """Between weights and ONNX nobody else writes; the pairs above see it, and are slow."""
    from nm2trt.sparsity.recipe_file import SparsifyJob

    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    held, save = [], SparsifyJob.save

    def saved(self):
        save(self)
        with (tmp_path / "out" / ".x.safetensors.lock").open() as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        held.append(self)

    monkeypatch.setattr(SparsifyJob, "save", saved)
    assert main(COMMANDS["sparsify"].format(name="one").split()) == 0
    assert held
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"x.onnx", "x.safetensors"}
