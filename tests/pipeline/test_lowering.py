"""`build --precision`: the precision is brought into the graph first; fp8 is refused where nothing multiplies it."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.pipeline.lowering import Lowering

pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two 2:4 convolutions, the first followed by a BatchNormalization, and samples."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    weights = {}
    for name in ("w1", "w2"):
        array = rng.standard_normal((16, 16, 3, 3)).astype(np.float32)
        array[:, 0::4] = array[:, 2::4] = 0
        weights[name] = array
    weights |= {name: np.ones(16, np.float32) for name in "gbmv"}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "c1", pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c1", *"gbmv"], ["n1"], "n1"),
        helper.make_node("Relu", ["n1"], ["r1"], "r1"),
        helper.make_node("Conv", ["r1", "w2"], ["y"], "c2", pads=[1] * 4),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16, 8, 8])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9), "m.onnx")
    np.savez("x.npz", x=rng.standard_normal((6, 16, 8, 8)).astype(np.float32))
    return tmp_path


@pytest.mark.parametrize(
    ("precision", "dtype", "target"),
    [("fp16", "float16", "sm80"), ("bf16", "bfloat16", "sm80"), ("int8", "int8", "sm80"), ("fp8", "float8e4m3fn", "sm89")],
)  # fmt: skip
def test_the_engine_is_of_the_precision_and_its_manifest_says_how(folder, capsys, precision, dtype, target):
    words = [
        "build",
        "m.onnx",
        "--precision",
        precision,
        "--calib",
        "x.npz",
        "--target",
        target,
        "--sparsity",
    ]
    assert main(words) == 0
    captured = capsys.readouterr()
    assert dtype in captured.out
    assert f"precision {precision}: " in captured.err
    manifest = json.loads((folder / "m.rtx.json").read_text())
    assert any(note.startswith(f"precision {precision}: ") for note in manifest["notes"])
    assert manifest["model"] == "m.onnx"
    assert sorted(p.name for p in folder.iterdir()) == ["m.onnx", "m.rtx", "m.rtx.json", "x.npz"]


def test_the_onnx_file_is_kept_where_asked(folder):
    assert main(["build", "m.onnx", "--precision", "int8", "--calib", "x.npz", "--keep", "-o", "e.rtx"]) == 0
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["e.int8.onnx", "e.int8.ranges.npz", "e.rtx", "e.rtx.json", "m.onnx", "x.npz"]


def test_layers_may_keep_their_precision(folder, capsys):
    words = [
        "build",
        "m.onnx",
        "--precision",
        "int8",
        "--calib",
        "x.npz",
        "--exclude",
        "c1",
        "--json",
        "--dry-run",
    ]
    assert main(words) == 0
    notes = json.loads(capsys.readouterr().out)["notes"]
    assert any("1 of 2 layers" in note for note in notes)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(["--precision", "int8"], "int8 needs samples that choose its ranges: give --calib", id="no-samples"),
        pytest.param(["--precision", "fp8", "--calib", "x.npz"], "sm80, sm86 cannot run fp8: tensor cores multiply it from sm89", id="fp8"),
        pytest.param(["--precision", "fp8", "--calib", "x.npz", "--target", "sm86,sm89"], "sm86 cannot run fp8", id="fp8-sm86"),
        pytest.param(["--calib", "x.npz"], "--calib says how to reach a precision; give --precision too", id="no-precision"),
        pytest.param(["--precision", "int8", "--calib", "none.npz"], "none.npz does not exist", id="missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_sentence(folder, capsys, words, message):
    assert main(["build", "m.onnx", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx", "x.npz"]


def test_an_fp8_file_is_refused_for_ampere_too(folder, capsys):
    assert main(["quantize", "m.onnx", "--to", "fp8", "--calib", "x.npz", "-o", "q.onnx"]) == 0
    assert main(["build", "q.onnx", "--target", "sm86"]) == 2
    assert "sm86 cannot run fp8" in capsys.readouterr().err


def test_a_precision_that_is_none_is_refused():
    with pytest.raises(InputError, match="'int4' is not a precision; choose fp16, bf16, int8, fp8"):
        Lowering("int4")


def test_the_engine_does_not_replace_the_samples(folder, capsys):
    before = (folder / "x.npz").read_bytes()
    words = ["build", "m.onnx", "--precision", "int8", "--calib", "x.npz", "--target", "sm80", "-o", "x.npz"]
    assert main(words) == 2
    assert "the output x.npz is the file of samples" in capsys.readouterr().err
    assert (folder / "x.npz").read_bytes() == before


def contents(folder):
    """Every file below a folder, with its bytes and the time of its last change."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def untouched(folder):
    """Fail the test if anything in its folder changed; a dry run of any command runs under this."""
    holder = {}

    def freeze():
        holder["before"] = contents(folder)

    yield freeze
    assert contents(folder) == holder["before"]


@pytest.mark.parametrize("keep", [[], ["--keep"]], ids=["", "keep"])
@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_a_dry_run_of_build_leaves_the_folder_byte_for_byte(folder, untouched, capsys, precision, keep):
    """Also what an earlier build with --keep left there, and files that only bear such names."""
    for suffix in ("fp16.onnx", "bf16.onnx", "int8.onnx", "int8.ranges.npz", "fp16.ranges.npz"):
        (folder / f"m.{suffix}").write_bytes(b"precious")
    untouched()
    words = ["build", "m.onnx", "--precision", precision, "--calib", "x.npz", *keep]
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err
