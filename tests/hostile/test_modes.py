"""Modes of replaced outputs: every command keeps them, of data files too, and a new file gets those of the umask."""

import os
import shutil

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.cli import main
from tests.hostile import fuzz

COMMANDS = (
    "prune large.onnx -o out/x.onnx",
    "build m.onnx --sparsity --target sm86 -o out/x.rtx",
    "infer m.onnx -o out/x.npz",
)
OTHERS = (
    "fuse large.onnx --no-compare -o out/x.onnx",
    "permute large.onnx --no-compare -o out/x.onnx",
    "prune d.onnx --calib x.npz --cache out/cache -o out/x.onnx",
    "cast large.onnx --no-compare -o out/x.onnx",
    "quantize large.onnx --calib large.npz --no-compare --cache out/ranges.npz -o out/x.onnx",
    "build m.onnx --backend ort -o out/x.ort",
    "validate m.onnx --against m.onnx --data x.npz --runs 0 -o out/x.json",
    "bench m.onnx --runs 1 --warmup 0 -o out/x.json",
    "report run -o out/x.html",
    "report run -o out/x.md",
    "report run --json -o out/x.json",
    "run recipe.yaml -o out",
)


def network(path):
    """Write two products with their weights beside the model."""
    draw = np.random.default_rng(0)
    stored = {"w": draw.standard_normal((64, 64)), "k": draw.standard_normal((32, 64))}
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["a"], transB=1),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Gemm", ["b", "k"], ["y"], transB=1),
    ]
    infos = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 64), ("y", 32))]
    weights = [numpy_helper.from_array(value.astype("f4"), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path, save_as_external_data=True, location="large.bin", size_threshold=100)
    np.savez(path.with_suffix(".npz"), x=draw.standard_normal((8, 64)).astype("f4"))


@pytest.fixture
def folder(fuzzer, tmp_path, monkeypatch):
    here = tmp_path / "here"
    shutil.copytree(fuzzer.sound, here)
    network(here / "large.onnx")
    (here / "out").mkdir()
    monkeypatch.chdir(here)
    return here


def modes(folder):
    """Return the mode of every file of an output; a data file's name is another each time."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "data" if path.suffix == ".data" else path.relative_to(folder): path.stat().st_mode & 0o7777
        for path in files
    }


@pytest.mark.parametrize(
    "command", [*COMMANDS, *(pytest.param(one, marks=pytest.mark.slow) for one in OTHERS)]
)
def test_modes(folder, command, capsys):
    out, words = folder / "out", [*fuzz.BOUNDS, *command.split()]
    before = os.umask(0o077)
    try:
        assert main(words) == 0, capsys.readouterr().err
    finally:
        os.umask(before)
    private = modes(out)
    assert set(private.values()) == {0o600}
    assert ("data" in private) == ("large" in command)
    for mode, data in ((0o640, 0o600), (0o444, 0o440)):
        for path in out.rglob("*"):
            if path.is_file():
                path.chmod(data if path.suffix == ".data" else mode)
        assert main(words) == 0, capsys.readouterr().err
        assert modes(out) == {name: data if name == "data" else mode for name in private}
