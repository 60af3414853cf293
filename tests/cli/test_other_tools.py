"""Lines for trtexec and Polygraphy: every option is one that those tools read, and Polygraphy's line runs."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from nm2trt.backends.options import BuildOptions, ShapeRange, StaticShape
from nm2trt.backends.protocol import TensorSpec
from nm2trt.cli import main
from nm2trt.cli.other_tools import polygraphy_line, trtexec_line, trtexec_timing_line
from nm2trt.options.checks import ValidateCommand
from tests import forked
from tests.engine.nets import conv_net

# Options that `trtexec` 11.1 reads in samples/common/sampleOptions.cpp of github.com/NVIDIA/TensorRT.
TRTEXEC = {
    *("--onnx", "--saveEngine", "--sparsity", "--profile", "--minShapes", "--optShapes", "--maxShapes"),
    *("--shapes", "--memPoolSize", "--builderOptimizationLevel", "--timingCacheFile", "--noTF32"),
    *("--dynamicPlugins", "--stronglyTyped", "--skipInference", "--noDataTransfers"),
}
OPTIONS = BuildOptions(
    sparsity="enable",
    targets=("sm80", "sm86"),
    profiles=((ShapeRange("x", (1, 3), (8, 3), (32, 3)),), (ShapeRange("x", (1, 3), (1, 3), (1, 3)),)),
    static_shapes=(StaticShape("scale", (2, 2)),),
    workspace_bytes=2**29,
    effort=3,
    timing_cache=Path("t.cache"),
    tf32=False,
    plugins=(Path("p.so"),),
)

PLAIN = BuildOptions()


def built(backend="trt", version="10.13.0", options=OPTIONS, dtype="float16"):
    return SimpleNamespace(
        backend=backend,
        backend_version=version,
        options=options,
        model=Path("a model.onnx"),
        engine=Path("m.engine"),
        ladder=(),
        inputs=(TensorSpec("x", dtype, (None, 3)),),
        outputs=(),
    )


def timing_line(version, options=PLAIN):
    row = SimpleNamespace(dtype=SimpleNamespace(detail="float16"))
    feeds = {"x": (8, 3), "none": ()}
    report = SimpleNamespace(backend="trt", backend_version=version, feeds=feeds, ladder=(row,))
    return trtexec_timing_line(report, "m.onnx", options)


def flags(line):
    return [word.split("=")[0] for word in shlex.split(line)[1:]]


def test_every_option_reaches_trtexec():
    line = trtexec_line(built())
    assert set(flags(line)) <= TRTEXEC
    assert shlex.split(line) == [
        "trtexec",
        "--onnx=a model.onnx",
        "--saveEngine=m.engine",
        "--sparsity=enable",
        "--stronglyTyped",
        "--profile=0",
        "--minShapes=scale:2x2,x:1x3",
        "--optShapes=scale:2x2,x:8x3",
        "--maxShapes=scale:2x2,x:32x3",
        "--profile=1",
        "--minShapes=scale:2x2,x:1x3",
        "--optShapes=scale:2x2,x:1x3",
        "--maxShapes=scale:2x2,x:1x3",
        "--memPoolSize=workspace:512M",
        "--builderOptimizationLevel=3",
        "--timingCacheFile=t.cache",
        "--noTF32",
        "--dynamicPlugins=p.so",
        "--skipInference",
    ]


@pytest.mark.parametrize(
    ("version", "wanted"), [("8.6.0", "--fp16"), ("10.0", "--stronglyTyped"), ("11.1", None)]
)
def test_types_are_allowed_as_the_release_wants_it(version, wanted):
    found = set(flags(trtexec_line(built(version=version)))) & {"--fp16", "--int8", "--stronglyTyped"}
    assert found == ({wanted} if wanted else set())


def test_tensorrt_rtx_gets_its_targets():
    line = trtexec_line(built("trt-rtx", "1.7"))
    assert line.startswith("tensorrt_rtx ")
    assert "--computeCapabilities=80,86" in line


@pytest.mark.parametrize("change", [{"strict_nans": True}, {"library_tactics": False}])
def test_what_trtexec_cannot_gets_no_line(change):
    assert trtexec_line(built(options=replace(OPTIONS, **change))) == ""
    assert trtexec_line(built("ort")) == ""


def test_timing_line():
    assert timing_line("11.1.0") == "trtexec --onnx=m.onnx --sparsity=enable --shapes=x:8x3 --noDataTransfers"
    assert set(flags(timing_line("11.1.0"))) <= TRTEXEC


@pytest.mark.parametrize(("version", "wanted"), [("8.6.0", {"--fp16"}), ("10.13.0", {"--stronglyTyped"})])
def test_the_timing_line_allows_the_types_without_which_trtexec_would_time_float32(version, wanted):
    assert set(flags(timing_line(version))) - set(flags(timing_line("11.1.0"))) == wanted


def test_the_timing_line_has_what_was_asked_of_the_builder():
    found = timing_line("11.1.0", replace(OPTIONS, profiles=(), static_shapes=()))
    asked = (
        "--memPoolSize",
        "--builderOptimizationLevel",
        "--timingCacheFile",
        "--noTF32",
        "--dynamicPlugins",
    )
    assert set(asked) <= set(flags(found)) <= TRTEXEC
    assert timing_line("11.1.0", BuildOptions(strict_nans=True)) == ""


@pytest.mark.parametrize("model", ["http://localhost:8000/m", "m.rtx", "m.pt2"])
def test_what_polygraphy_does_not_open_gets_no_line(model):
    assert polygraphy_line(ValidateCommand(model=model, against="m.onnx", data="x.npz")) == ""


def test_polygraphy_s_own_parser_takes_the_line_and_it_passes(tmp_path, monkeypatch):
    pytest.importorskip("polygraphy")
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "my net.onnx")
    options = ValidateCommand(model="my net.onnx", against="my net.onnx", data="x.npz", rtol=1e-3, atol=1e-3)
    for part in polygraphy_line(options).split(" && "):
        done = forked.polygraphy(tmp_path, *shlex.split(part)[1:])
        assert done.returncode == 0, done.stdout + done.stderr
    assert "PASSED" in done.stdout


def test_build_prints_the_line_of_the_file_that_it_built(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    conv_net(tmp_path / "net.onnx")
    assert main(["build", "net.onnx", "--backend", "trt-rtx", "--dry-run"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("same as: ")]
    assert line.startswith("same as: tensorrt_rtx --onnx=net.onnx --saveEngine=net.rtx")
