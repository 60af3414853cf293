"""Paths without a name, names that a library cannot open, a folder that is gone: one sentence per command."""

import os

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


@pytest.mark.parametrize(
    "words", ["infer", "build --backend ort -o m.ort", "build -o m.rtx", "bench --runs 1"]
)
def test_a_name_that_a_library_cannot_open_is_told_in_one_sentence(words, tmp_path, monkeypatch, capsys):
    if "rtx" in words:
        pytest.importorskip("tensorrt_rtx")
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(b"m\xff.onnx")
    conv_net(tmp_path / name, dtype="float32")
    assert main([*words.split(), name]) == 2
    assert capsys.readouterr().err.endswith(
        "m\\udcff.onnx is not UTF-8, which the library that opens it needs; rename the file or its folder\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("words", ["fuse {model} -o out.onnx", "serve --repository ."])
def test_a_current_folder_that_was_removed_is_told_in_one_sentence(words, tmp_path, monkeypatch, capsys):
    conv_net(tmp_path / "m.onnx", dtype="float32")
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(words.format(model=tmp_path / "m.onnx").split()) == 2
    told = "the current folder has been removed; change to another and try again"
    assert capsys.readouterr().err == f"nm2trt: {told}\n"
