"""Two commands that write one output at once, and writers that are killed: the file is whole and of one of them."""

import hashlib
import json
import random
import shutil
import signal
import time
import zipfile

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.manifest import read_manifest
from nm2trt.nm.lineage import METADATA_KEY
from tests.cli.forks import Forks

pytest.importorskip("tensorrt_rtx")

# A new output, one that is replaced, and a new one. Whether all instants are covered the slow tests show, with 200.
PAIRS = 3
MODEL_COMMANDS = {
    "fuse": ["fuse", "{model}", "--no-compare", "-o", "{out}"],
    "permute": ["permute", "{model}", "--no-compare", "-o", "{out}"],
    "prune": ["prune", "{model}", "-o", "{out}"],
    "cast": ["cast", "{model}", "--no-compare", "-o", "{out}"],
    "quantize": [
        "quantize",
        "{model}",
        "--calib",
        "{data}",
        "--no-compare",
        "--cache",
        "{mine}",
        "-o",
        "{out}",
    ],
}
OTHER_COMMANDS = {
    "build": (["build", "{model}", "--target", "sm86", "-o", "{out}"], "x.rtx"),
    "infer": (["infer", "{model}", "--data", "{data}", "-o", "{out}"], "x.npz"),
    "validate": (
        ["validate", "{model}", "--against", "{model}", "--data", "{data}", "--runs", "0", "-o", "{out}"],
        "x.json",
    ),
    "bench": (["bench", "{model}", "--runs", "1", "--warmup", "0", "-o", "{out}"], "x.json"),
    "ranges": (
        ["quantize", "{model}", "--calib", "{data}", "--no-compare", "--cache", "{out}", "-o", "{mine}"],
        "x.npz",
    ),
}


def network(path, seed, *, external):
    """Write a Conv, BatchNormalization and Gemm of random weights; some of them outside of the file."""
    draw = np.random.default_rng(seed)
    conv, head = draw.standard_normal((32, 16, 3, 3)), draw.standard_normal((8, 32))
    stored = {"conv": conv, "head": head, "scale": draw.random(32) + 1, "shift": draw.random(32)}
    stored |= {"mean": draw.random(32), "deviation": draw.random(32) + 1}
    nodes = [
        helper.make_node("Conv", ["x", "conv"], ["c"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "deviation"], ["b"]),
        helper.make_node("Relu", ["b"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["y"], transB=1),
    ]
    infos = [
        helper.make_tensor_value_info("x", 1, ["n", 16, 4, 4]),
        helper.make_tensor_value_info("y", 1, ["n", 8]),
    ]
    weights = [numpy_helper.from_array(value.astype("f4"), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    options = {"save_as_external_data": True, "location": f"{path.stem}.bin", "size_threshold": 100}
    onnx.save(model, path, **(options if external else {}))


@pytest.fixture(scope="module")
def forks(forking, tmp_path_factory):
    """Give the process that forks, in a folder with two networks in two forms, and samples."""
    folder = tmp_path_factory.mktemp("writers")
    (folder / "out").mkdir()
    for number, name in enumerate(("one", "two")):
        network(folder / f"{name}.onnx", number, external=False)
        network(folder / f"{name}-external.onnx", number, external=True)
    np.savez(folder / "x.npz", x=np.random.default_rng(9).standard_normal((4, 16, 4, 4)).astype("f4"))
    started = forking.at(folder)
    started.out = folder / "out"
    return started


@pytest.mark.slow
def test_pairs_fail_without_the_lock(tmp_path):
    """The planted fault that the pairs are there to see: nobody waits, and everybody clears up."""
    (tmp_path / "out").mkdir()
    for number, name in enumerate(("one", "two")):
        network(tmp_path / f"{name}-external.onnx", number, external=True)
    unlocked = Forks(tmp_path, "import nm2trt.locks as lock; lock.OutputLock.take = lambda self: None")
    unlocked.out = tmp_path / "out"
    try:
        with pytest.raises((AssertionError, ValueError, OSError, onnx.checker.ValidationError)):
            write_in_pairs(unlocked, MODEL_COMMANDS["prune"], models_of(True), "x.onnx", 400)
    finally:
        unlocked.close()


def words(command, model, out):
    given = {"model": f"{model}.onnx", "data": "x.npz", "out": f"out/{out}", "mine": f"{model}.kept"}
    return [word.format(**given) for word in command]


def content(path):
    """Return what an output says, whatever name its data file has, and nothing that depends on the time."""
    if path.suffix == ".onnx":
        model = onnx.load(path)
        recorded = {entry.key: entry.value for entry in model.metadata_props}[METADATA_KEY]
        assert recorded == verify_model(path).mask_sha256
        for tensor in model.graph.initializer:
            del tensor.external_data[:]
            tensor.data_location = 0
        return model.SerializeToString(deterministic=True)
    if path.suffix == ".rtx":
        fit = read_manifest(path)
        assert fit.status == "fits", fit.sentence
        return fit.manifest.model
    if path.suffix == ".npz":
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    if path.suffix == ".json":
        text = json.dumps(json.loads(path.read_text()))
        return [name for name in ("one.onnx", "two.onnx") if name in text]
    return path.read_text()


def alone(forks, command, models, out):
    """Run each command by itself; return what each leaves, and how long the longer one took."""
    found, longest = [], 0.0
    for model in models:
        clear(forks)
        began = time.monotonic()
        assert forks.run(words(command, model, out)) == [0], forks.last_words()
        longest = max(longest, time.monotonic() - began)
        found.append(content(forks.out / out))
    assert found[0] != found[1]
    return found, longest


def clear(forks):
    shutil.rmtree(forks.out)
    forks.out.mkdir()


def names_of(forks, out):
    """Return the names that the files of one sound output have."""
    names = {out, f"{out}.json"} if out.endswith(".rtx") else {out}
    if out.endswith(".onnx"):
        tensors = onnx.load(forks.out / out, load_external_data=False).graph.initializer
        names |= {e.value for t in tensors for e in t.external_data if e.key == "location"}
    return names


def write_in_pairs(forks, command, models, out, pairs):
    expected, _ = alone(forks, command, models, out)
    winners = set()
    for number in range(pairs):
        if number % 2 == 0:
            clear(forks)  # half of the pairs write a new output, half replace one
        ended = forks.run(*(words(command, model, out) for model in models))
        assert ended == [0, 0], forks.last_words()
        winners.add(expected.index(content(forks.out / out)))
        assert {path.name for path in forks.out.iterdir()} == names_of(forks, out)
    return winners


def models_of(external):
    return ("one-external", "two-external") if external else ("one", "two")


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_pairs_of_a_model_with_external_data(forks, command):
    # fuse, permute and cast write as prune does.
    pairs = PAIRS if command in ("prune", "quantize") else 1
    write_in_pairs(forks, MODEL_COMMANDS[command], models_of(True), "x.onnx", pairs)


# Two builds at once are in test_kills.py; the ranges and the records of bench are written as these are.
@pytest.mark.parametrize("command", ["infer", "validate"])
def test_pairs_of_plain_files(forks, command):
    words_, out = OTHER_COMMANDS[command]
    write_in_pairs(forks, words_, models_of(False), out, PAIRS)


@pytest.mark.slow
@pytest.mark.parametrize("external", [False, True], ids=["plain", "external"])
@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_two_hundred_pairs_of_a_model(forks, command, external):
    winners = write_in_pairs(forks, MODEL_COMMANDS[command], models_of(external), "x.onnx", 200)
    assert winners == {0, 1}, "one of the two always came last, so they did not run at once"


@pytest.mark.slow
@pytest.mark.parametrize("command", OTHER_COMMANDS)
def test_two_hundred_pairs_of_plain_files(forks, command):
    words_, out = OTHER_COMMANDS[command]
    assert write_in_pairs(forks, words_, models_of(False), out, 200) == {0, 1}


def end_at_random(forks, command, out, runs, number):
    """End writers at random times; what stands there stays whole. Return how they ended."""
    models = models_of(True)
    expected, longest = alone(forks, command, models, out)
    rng, ended = random.Random(runs), []
    parts = rng.sample(range(runs), runs)
    for run in range(runs):
        line = words(command, models[run % 2], out)
        # Each in a part of the time of its own, in any order; the first part ends a writer at any load.
        after = longest * 1.1 * (parts[run] + rng.random()) / runs
        ended += forks.run(line, after=after, signal=number)
        assert content(forks.out / out) in expected
        if number == signal.SIGTERM:
            assert {path.name for path in forks.out.iterdir()} == names_of(forks, out), forks.last_words()
    assert forks.run(words(command, models[0], out)) == [0]
    assert content(forks.out / out) == expected[0]
    assert {path.name for path in forks.out.iterdir()} == names_of(forks, out)
    return ended


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_ended_writers_leave_a_whole_model_and_the_next_one_clears_up(forks, number):
    ended = end_at_random(forks, MODEL_COMMANDS["prune"], "x.onnx", 10, number)
    assert (143 if number == signal.SIGTERM else -number) in ended


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_two_hundred_ended_writers(forks, command, number):
    end_at_random(forks, MODEL_COMMANDS[command], "x.onnx", 200, number)


def recipes(forks):
    """Run a recipe for each model, for reports to read."""
    for name in ("one", "two"):
        stages = {"fuse": {"compare": False}, "verify": {"fail_on": "none"}}
        recipe = {"version": 1, "model": f"{name}.onnx", "stages": stages}
        (forks.folder / f"{name}-recipe.yaml").write_text(json.dumps(recipe))
        assert forks.run(["run", f"{name}-recipe.yaml", "-o", f"run-{name}"]) == [0], forks.last_words()


def texts_in_pairs(forks, command, out, pairs):
    """Write one text by two commands at once; it is whole, and one of the two that they write by themselves."""
    path, expected, winners = forks.folder / out, [], set()
    lines = [[word.format(name=name, out=out) for word in command] for name in ("one", "two")]
    for line in lines:
        assert forks.run(line) == [0], forks.last_words()
        expected.append(path.read_text())
    others = {found.name for found in path.parent.iterdir()}
    for number in range(pairs):
        if number % 2 == 0:
            path.unlink()
        assert forks.run(*lines) == [0, 0], forks.last_words()
        winners.add(expected.index(path.read_text()))
        assert {found.name for found in path.parent.iterdir()} == others
    return winners


TEXTS = {
    "init": (["init", "{name}.onnx", "--force", "-o", "{out}"], "x.yaml"),
    "report": (["report", "run-{name}", "-o", "{out}"], "out/x.html"),
}


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", TEXTS)
def test_pairs_of_texts(forks, command, pairs):
    if command == "report":
        recipes(forks)
    texts_in_pairs(forks, *TEXTS[command], pairs)


@pytest.mark.parametrize("pairs", [PAIRS, pytest.param(200, marks=pytest.mark.slow)])
def test_pairs_of_deployments_make_a_version_each(forks, pairs):
    """Both are placed, one after the other; each version holds one whole model, and the last one is served."""
    repository = forks.folder / "models"
    shutil.rmtree(repository, ignore_errors=True)
    hashes = {
        hashlib.sha256((forks.folder / f"{name}.onnx").read_bytes()).hexdigest() for name in ("one", "two")
    }
    lines = [
        [
            "deploy",
            f"{name}.onnx",
            "--repository",
            "models",
            "--name",
            "n",
            "--backend",
            "python",
            "--keep",
            "3",
        ]
        for name in ("one", "two")
    ]
    for number in range(pairs):
        assert forks.run(*lines) == [0, 0], forks.last_words()
        placed = sorted(int(path.name) for path in (repository / "n").iterdir() if path.is_dir())
        assert placed[-2:] == [2 * number + 1, 2 * number + 2]
        found = {
            hashlib.sha256((repository / f"n/{v}/model.onnx").read_bytes()).hexdigest() for v in placed[-2:]
        }
        assert found == hashes
        assert {path.name for path in repository.iterdir()} == {"n"}
        assert {path.name for path in (repository / "n").iterdir()} == {"config.pbtxt", *map(str, placed)}
