"""`.npz`, `.npy`, IDX and Polygraphy files that are damaged, encrypted, or unpack to far more than they hold."""

import gzip
import json
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.limits import bounds

LARGE = 1 << 27


class Runs:
    """An object whose unpickling makes a file."""

    def __reduce__(self):
        return os.mkdir, ("unpickled",)


def header(shape, descr="'<f4'", text=None, version=(1, 0), fortran=False):
    text = text or f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}}}"
    data = text.encode() + b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(data)) + data


def archive(path, *members, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as made:
        for name, data, zeros in members:
            with made.open(name, "w", force_zip64=True) as member:
                member.write(data)
                for _ in range(zeros >> 20):
                    member.write(bytes(1 << 20))


SOUND = np.zeros((1, 4), "f4").tobytes()
# File name -> what is written. Each is refused with one sentence; those of BOMBS for their size.
BOMBS = {
    "bomb.npz": lambda p: archive(p, ("x.npy", header((4, LARGE // 4)), LARGE)),
    "bomb-fortran.npz": lambda p: archive(p, ("x.npy", header((4, LARGE // 16), fortran=True), LARGE)),
}
DAMAGED = {
    "claim.npz": lambda p: archive(p, ("x.npy", header((2**40, 4)), 0)),
    "overflow.npz": lambda p: archive(p, ("x.npy", header((4, 2**62, 4)), 0)),
    "axes.npz": lambda p: archive(p, ("x.npy", header((1,) * 65) + SOUND, 0)),
    "empty-overflow.npz": lambda p: archive(p, ("x.npy", header((4, 2**62, 4, 0)), 0)),
    "negative.npz": lambda p: archive(p, ("x.npy", header((-1, 4)) + SOUND, 0)),
    "twice.npz": lambda p: archive(  # numpy would read the second
        p, ("x", header((1, 4)) + SOUND, 0), ("x.npy", header((1, 4)) + SOUND, 0)
    ),
    "short.npz": lambda p: archive(p, ("x.npy", header((8, 4)) + SOUND, 0)),
    "literal.npz": lambda p: archive(
        p, ("x.npy", header((1, 4), text="{'descr': __import__('os').mkdir('unpickled')}"), 0)
    ),
    "deep.npz": lambda p: archive(p, ("x.npy", header((1, 4), text="(" * 9000), 0)),
    "long-header.npz": lambda p: archive(p, ("x.npy", b"\x93NUMPY\x02\x00\xf0\xff\xff\xff{", 0)),
    "version.npz": lambda p: archive(p, ("x.npy", header((1, 4), version=(9, 9)) + SOUND, 0)),
    "void.npz": lambda p: archive(p, ("x.npy", header((1, 4), descr="'|V1000000000'") + SOUND, 0)),
    "objects.npz": lambda p: np.savez(p, x=np.array([Runs(), 1], dtype=object)),
    "empty-member.npz": lambda p: archive(p, ("x.npy", b"", 0)),
    "escape.npz": lambda p: archive(p, ("\x1b[31mx.npy", header((1, 4)) + SOUND, 0)),
    "path.npz": lambda p: archive(p, ("../../x.npy", header((1, 4)) + SOUND, 0)),
    "text.npz": lambda p: p.write_text("no archive"),
    "bomb.idx.gz": lambda p: p.write_bytes(gzip.compress(b"\0\0\x08\x01\0")),
}


def encrypted(path):
    archive(path, ("x.npy", header((1, 4)) + SOUND, 0))
    data = bytearray(path.read_bytes())
    for place in (6, data.find(b"PK\x01\x02") + 8):
        data[place] |= 1
    path.write_bytes(data)


def spoiled(method):
    def write(path):
        archive(path, ("x.npy", header((1, 4)) + SOUND, 0), method=method)
        data = bytearray(path.read_bytes())
        data[50:80] = bytes(range(100, 130))
        path.write_bytes(data)

    return write


DAMAGED |= {
    "encrypted.npz": encrypted,
    "lzma.npz": spoiled(zipfile.ZIP_LZMA),
    "bz2.npz": spoiled(zipfile.ZIP_BZIP2),
    "deflate.npz": spoiled(zipfile.ZIP_DEFLATED),
    "cut.npz": lambda p: (encrypted(p), p.write_bytes(p.read_bytes()[:100])),
}
POLYGRAPHY = ("[" * 200_000, "{}", "[]", "[1]", "nope", json.dumps([{"x": {"polygraphy_class": "ndarray"}}]))
COMMANDS = {
    "validate": ["validate", "m.onnx", "--against", "m.onnx", "--runs", "0", "--data"],
    "quantize": ["quantize", "m.onnx", "-o", "out.onnx", "--calib"],
    "prune": ["prune", "m.onnx", "-o", "out.onnx", "--calib"],
    "infer": ["infer", "m.onnx", "-o", "out.npz", "--data"],
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    weight = numpy_helper.from_array(np.eye(4, dtype="f4"), "w")
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", infos[:1], infos[1:], [weight]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    bounds.use()


def refused(words, capsys):
    status = main(words)
    said = capsys.readouterr().err
    assert status == 2, said
    assert said.count("\n") == 1
    assert all(c.isprintable() or c == "\n" for c in said)
    assert not ({path.name for path in Path().iterdir()} & {"out.onnx", "out.npz", "unpickled"})
    return said


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_samples_are_refused(folder, capsys, command, name):
    DAMAGED[name](folder / name)
    refused([*COMMANDS[command], name], capsys)


@pytest.mark.parametrize("name", BOMBS)
def test_samples_that_unpack_to_more_than_the_bound(folder, capsys, name):
    BOMBS[name](folder / name)
    for command in COMMANDS.values():
        said = refused(["--sample-memory", "0.02", *command, name], capsys)
        assert any(
            words in said for words in ("--sample-memory", "takes samples of shape", "column by column")
        )


def test_labels_that_unpack_to_more_than_the_bound(folder, capsys):
    labels = ("labels.npy", header((1, LARGE)), 1 << 20)
    archive(folder / "x.npz", ("x.npy", header((1, 4)) + SOUND, 0), labels)
    assert "--sample-memory" in refused(["--sample-memory", "0.02", *COMMANDS["validate"], "x.npz"], capsys)


@pytest.mark.parametrize("text", POLYGRAPHY)
def test_damaged_samples_of_polygraphy(folder, capsys, text):
    pytest.importorskip("polygraphy")
    (folder / "x.json").write_text(text)
    refused([*COMMANDS["validate"], "x.json"], capsys)


def test_a_bound_that_is_raised_lets_them_in(folder, capsys):
    archive(folder / "x.npz", ("x.npy", header((1 << 20, 4)), 1 << 24))
    assert "unpack to 0.0168 GB, beyond the 0.01 GB" in refused(
        ["--sample-memory", "0.01", *COMMANDS["infer"], "x.npz"], capsys
    )
    assert main(["--sample-memory", "0.5", *COMMANDS["infer"], "x.npz"]) == 0
