"""`nm2trt prove`: the table of three engines, with times and without."""

import json

import pytest

from nm2trt.backends.choice import load_backend
from nm2trt.backends.options import BuildOptions
from nm2trt.cli import main
from nm2trt.cli.output import show
from nm2trt.engine.twin.clocks import Effort
from nm2trt.engine.twin.compare import compare_twins
from nm2trt.pipeline.prove import _twins
from tests.engine.nets import conv_net
from tests.engine.twin.test_compare import NO_GPU, OnThisCpu


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


@NO_GPU
def test_without_a_gpu_the_engines_are_built_and_nothing_is_timed(net, capsys):
    assert main(["prove", str(net), "--backend", "trt-rtx", "--effort", "1"]) == 0
    out = capsys.readouterr().out
    (same,) = [line for line in out.splitlines() if line.startswith("same as: ")]
    assert same == (
        f"same as: tensorrt_rtx --onnx={net} --sparsity=enable --shapes=x:8x16x8x8 "
        "--builderOptimizationLevel=1 --noDataTransfers"
    )
    for name in ("dense", "sparse-off", "sparse-on"):
        assert [line for line in out.splitlines() if line.split()[:1] == [name]]
    assert "p50 ms, p99 ms, spread: not measured" in out
    assert "eligible work that runs sparse kernels: not measured" in out
    verdict, following = out.splitlines()[-2:]
    assert verdict.startswith("verdict: no speed was measured: ")
    assert "takes a GPU" in verdict
    assert following == f"next:    nm2trt prove {net} --effort 1 --backend trt-rtx    # on the GPU"
    assert [path.name for path in net.parent.iterdir()] == ["net.onnx"]


@NO_GPU
def test_the_report_as_json(net, capsys):
    assert main(["prove", str(net), "--backend", "trt-rtx", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["measured"], len(report["variants"]), len(report["ladder"])) == (False, 3, 2)
    assert "the chosen kernel is unknown for 2 of 2 eligible weights" in captured.err


def test_times_speeds_and_layers_are_printed(tmp_path, capsys):
    models = {name: conv_net(tmp_path / f"{name}.onnx", dtype="float32", sparse=name != "dense") for name in ("dense", "sparse-off", "sparse-on")}  # fmt: skip
    builds = _twins(models["sparse-on"], models["dense"], tmp_path, BuildOptions(), load_backend("trt-rtx"))
    report = compare_twins(
        builds, OnThisCpu(models), effort=Effort(10, 1, 0.0, 0.0), state=lambda: {"gpu clocks.sm": "1400 MHz"}
    )
    capsys.readouterr()
    show(report)
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("sparse-on  ")]
    header = next(line for line in lines if line.startswith("engine  "))
    # Units stand apart from size and build time, each of which stands below if all engines share it.
    place = 1 + 2 * ("size" in header) + 2 * ("build" in header)
    assert float(row[place]) == pytest.approx(report.variants[2].latency.p50_ms, abs=1e-3)
    assert any(line.startswith("sparse-on over sparse-off: ") for line in lines)
    assert ["conv1", "2.0000", "1.0000", "+1.0000"] in [line.split() for line in lines]
    assert lines[-1].endswith("after: gpu clocks.sm 1400 MHz")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--runs", "0"], "--runs 0 is out of range; give 1 to 1000000"),
        (["-o", "no/such"], "no/such is not a folder"),
        (["--dense", "none.onnx"], "none.onnx does not exist"),
        (["--profile", "x"], "is not a profile"),
    ],
)
def test_bad_input(net, capsys, words, message):
    assert main(["prove", str(net), "--backend", "trt-rtx", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_dense_model_is_refused(tmp_path, capsys):
    dense = conv_net(tmp_path / "dense.onnx", sparse=False)
    assert main(["prove", str(dense), "--backend", "trt-rtx"]) == 3
    assert "no stored weight holds a pattern" in capsys.readouterr().err


USUAL = {
    "static_shapes": [],
    "workspace_bytes": None,
    "effort": None,
    "tf32": True,
    "strict_nans": False,
    "library_tactics": True,
}


@NO_GPU
@pytest.mark.parametrize(
    ("words", "changed"),
    [
        pytest.param(
            ["--shape", "x:4", "--workspace", "64M", "--no-tf32"],
            {
                "static_shapes": [{"input": "x", "shape": [4, 16, 8, 8]}],
                "workspace_bytes": 64 << 20,
                "tf32": False,
            },
            id="shape, workspace, no-tf32",
        ),
        pytest.param(
            ["--effort", "1", "--strict-nans", "--no-library-tactics"],
            {"effort": 1, "strict_nans": True, "library_tactics": False},
            id="effort, strict-nans, no-library-tactics",
        ),
    ],
)
def test_the_builder_s_options_reach_all_three_engines(net, tmp_path, words, changed, capsys):
    (tmp_path / "kept").mkdir()
    assert main(["prove", str(net), "--backend", "trt-rtx", "-o", str(tmp_path / "kept"), *words]) == 0
    manifests = [json.loads(path.read_text()) for path in sorted((tmp_path / "kept").glob("*.json"))]
    options = [{name: manifest["options"][name] for name in USUAL} for manifest in manifests]
    assert options == [USUAL | changed] * 3


def test_a_timing_cache_is_refused_where_it_has_no_effect(net, tmp_path, capsys):
    words = ["prove", str(net), "--backend", "trt-rtx", "--timing-cache", str(tmp_path / "kernels.cache")]
    assert main(words) == 4
    assert "has no timing cache" in capsys.readouterr().err
