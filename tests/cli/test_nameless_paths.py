"""Paths without a name, as an unset variable or a dot gives them: one sentence, whatever the command."""

import numpy as np
import pytest

from nm2trt.cli import main
from tests.engine.nets import conv_net

CALIB = ["--calib", "calib.npz"]
COMMANDS = [
    ["prune", "NONE"],
    ["prune", "NONE", *CALIB],
    ["prune", "m.onnx", "-o", "NONE"],
    ["fuse", "NONE"],
    ["fuse", "m.onnx", "-o", "NONE"],
    ["permute", "NONE"],
    ["cast", "NONE"],
    ["cast", "m.onnx", "-o", "NONE"],
    ["quantize", "NONE", *CALIB],
    ["quantize", "m.onnx", *CALIB, "-o", "NONE"],
    ["quantize", "NONE", *CALIB, "--shard", "0/2"],
    ["build", "NONE"],
    ["build", "m.onnx", "-o", "NONE", "--backend", "ort"],
    ["infer", "NONE"],
    ["infer", "m.onnx", "-o", "NONE"],
    ["init", "NONE"],
    ["validate", "NONE", "--against", "m.onnx", "--data", "calib.npz"],
    ["validate", "NONE", "--against", "m.onnx", "--data", "calib.npz", "--shard", "0/2"],
    ["verify", "NONE"],
    ["info", "NONE"],
    ["explain", "NONE"],
    ["run", "NONE"],
]


@pytest.mark.parametrize("nameless", ["", "."], ids=["empty", "dot"])
def test_a_path_without_a_name_is_told_in_one_sentence(nameless, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "m.onnx", dtype="float32")
    np.savez("calib.npz", x=np.zeros((16, 16, 8, 8), "f4"))
    before = sorted(tmp_path.iterdir())
    for command in COMMANDS:
        status = main([nameless if word == "NONE" else word for word in command])
        told = capsys.readouterr().err.splitlines()
        assert (status, len(told)) == (2, 1), (command, told)
        assert "is a folder; give the path" in told[0], (command, told)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("command", ["cast", "quantize"])
def test_a_cache_that_can_be_no_file_is_refused_before_the_samples_run(
    command, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "m.onnx", dtype="float32")
    np.savez("calib.npz", x=np.zeros((16, 16, 8, 8), "f4"))
    (tmp_path / "folder").mkdir()
    for cache, sentence in (
        ("folder", "the cache folder is a folder; give the path of a file with --cache"),
        ("", "the cache . is a folder; give the path of a file with --cache"),
        (
            "none/a.npz",
            "the folder of the cache none/a.npz does not exist; create it, or give another --cache",
        ),
    ):
        assert main([command, "m.onnx", *CALIB, "--cache", cache]) == 2
        assert capsys.readouterr().err == f"nm2trt: {sentence}\n"
    assert main([command, "m.onnx", *CALIB, "--cache", "folder/kept.npz", "-o", "o.onnx"]) == 0
    assert (tmp_path / "folder" / "kept.npz").exists()
