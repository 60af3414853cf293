"""`nm2trt explain`: models, engines, and what other tools said of them."""

import json

import pytest

from nm2trt.cli import main
from tests.engine.nets import conv_net

SPARSE = "sm80_xmma_fprop_sparse_conv_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize64x64x128"
DENSE = "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x64x64"
CHOSE = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v101401] # trtexec --onnx=net.onnx --sparsity=enable --verbose
[11/22/2026-08:00:00] [V] [TRT] (Sparsity) Found 2 layer(s) eligible to use sparse tactics: conv0 + relu0, conv1 + relu1
[11/22/2026-08:00:00] [V] [TRT] (Sparsity) Chose 1 layer(s) using sparse tactics: conv0 + relu0
"""


@pytest.fixture
def net(tmp_path):
    return conv_net(tmp_path / "net.onnx")


def explained(capsys, *words):
    assert main(["explain", *map(str, words), "--json"]) == 0
    captured = capsys.readouterr()
    return json.loads(captured.out), captured.err


def write(path, text):
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def layers_of(*tactics):
    layers = [
        {
            "Name": f"conv{i} + relu{i}",
            "LayerType": "CaskConvolution",
            "TacticName": tactic,
            "HasSparseWeights": 1,
        }
        for i, tactic in enumerate(tactics)
    ]
    return {"Layers": layers, "Bindings": ["x", "y"]}


def test_a_model_in_words(net, capsys):
    assert main(["explain", str(net), "--backend", "trt", "--target", "sm86"]) == 0
    out = capsys.readouterr().out
    assert "(for trt sm86)" in out
    assert "1. tactic, 100 % of the work, w0 and 1 more" in out
    assert "do: measure it on the GPU" in out
    assert "source: maintainers' answers, NVIDIA/TensorRT issues 3849" in out
    assert "eligible work that runs sparse kernels: not measured" in out


def test_an_architecture_without_sparse_cores(net, capsys):
    found, _ = explained(capsys, net, "--backend", "trt", "--target", "sm75")
    assert found["reasons"][0]["code"] == "architecture"


def test_a_log_of_trtexec(net, tmp_path, capsys):
    found, _ = explained(capsys, net, "--log", write(tmp_path / "build.log", CHOSE))
    assert found["sparse_share"] == 0.5
    (reason,) = [reason for reason in found["reasons"] if reason["code"] == "not-chosen"]
    assert reason["weights"] == ["w1"]


def test_layer_information_and_a_trace(net, tmp_path, capsys):
    layers = write(tmp_path / "layers.json", layers_of(DENSE, DENSE))
    trace = write(
        tmp_path / "nvtx.csv",
        f"NVTX Range,Kern Inst,Total Time (ns),Kernel Name\n:conv0 + relu0,1,100,{SPARSE}\n",
    )
    found, _ = explained(capsys, net, "--layers", layers, "--trace", trace)
    # What ran is believed, not what the inspector calls the tactic.
    assert [row["chosen"]["answer"] for row in found["ladder"]] == ["yes", "no"]


def test_an_engine_reads_its_manifest(net, tmp_path, capsys):
    assert main(["build", str(net), "--sparsity", "--backend", "trt-rtx"]) == 0
    capsys.readouterr()
    found, _ = explained(capsys, net.with_suffix(".rtx"))
    assert found["builder"] == "trt-rtx"
    assert [reason["code"] for reason in found["reasons"]] == ["dtype", "small", "not-measured"]
    trace = write(tmp_path / "kern.csv", "Total Time (ns),Instances,Name\n100,1,dense_kernel\n")
    found, _ = explained(capsys, net.with_suffix(".rtx"), "--trace", trace)
    assert "no sparse kernel ran at all" in found["ladder"][0]["chosen"]["detail"]


def test_an_engine_built_without_sparsity(net, capsys):
    assert main(["build", str(net), "--backend", "trt-rtx"]) == 0
    capsys.readouterr()
    found, _ = explained(capsys, net.with_suffix(".rtx"))
    assert found["reasons"][0]["code"] == "sparsity-off"


def test_a_log_of_an_unknown_version_is_told_and_not_read(net, tmp_path, capsys):
    log = write(tmp_path / "build.log", CHOSE.replace("v101401", "v120000"))
    found, err = explained(capsys, net, "--log", log)
    assert "the build log is of TensorRT 12.0.0, whose wording" in err
    assert found["sparse_share"] is None


def test_a_log_says_its_version_better_than_the_engine(net, tmp_path, capsys):
    assert main(["build", str(net), "--sparsity", "--backend", "trt-rtx"]) == 0
    capsys.readouterr()
    log = write(tmp_path / "build.log", CHOSE.replace("v101401", "v120000"))
    found, err = explained(capsys, net.with_suffix(".rtx"), "--log", log)
    assert "12.0.0, whose wording" in err
    assert found["ladder"][0]["chosen"]["answer"] == "not measured"


def test_a_log_without_a_version(net, tmp_path, capsys):
    log = write(tmp_path / "build.log", "\n".join(CHOSE.splitlines()[1:]))
    _, err = explained(capsys, net, "--log", log)
    assert "does not say which version wrote it; name it with --version" in err
    found, err = explained(capsys, net, "--log", log, "--version", "10.14")
    assert (found["sparse_share"], err) == (0.5, "")


def test_an_engine_without_detailed_verbosity(net, tmp_path, capsys):
    layers = write(
        tmp_path / "layers.json", {"Layers": ["conv0 + relu0", "conv1 + relu1"], "Bindings": ["x", "y"]}
    )
    _, err = explained(capsys, net, "--layers", layers)
    assert "built without detailed profiling verbosity" in err


def test_all_layers_fused_away(net, tmp_path, capsys):
    fused = {"Name": "__myl_ConvRelu_myl0_1", "LayerType": "gemm", "TacticName": DENSE, "Metadata": ""}
    layers = write(tmp_path / "layers.json", {"Layers": [fused], "Bindings": ["x", "y"]})
    found, err = explained(capsys, net, "--layers", layers)
    assert "all were fused away, into 1 layer without its name" in err
    assert {row["chosen"]["answer"] for row in found["ladder"]} == {"not measured"}


@pytest.mark.parametrize(
    ("option", "text", "message"),
    [
        ("--layers", "{", "the layer information is not JSON"),
        ("--trace", "a,b\n1,2\n", "no CSV report of nsys stats"),
        ("--trace", None, "does not exist; give the path of a kernel trace"),
        ("--log", None, "does not exist; give the path of a build log"),
    ],
)
def test_bad_input(net, tmp_path, capsys, option, text, message):
    path = tmp_path / "given"
    if text is not None:
        path.write_text(text)
    assert main(["explain", str(net), option, str(path)]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_an_engine_that_nm2trt_did_not_build(net, tmp_path, capsys):
    assert main(["build", str(net), "--sparsity", "--backend", "trt-rtx"]) == 0
    (tmp_path / "net.rtx.json").unlink()
    assert main(["explain", str(tmp_path / "net.rtx")]) == 2
    assert "has no record of its weights" in capsys.readouterr().err
