"""What functions return prints as a short table, in a terminal and in a notebook."""

import json

import pytest

import nm2trt
from tests.engine.nets import conv_net


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    conv_net(folder / "net.onnx", dtype="float32", layers=3, sparse=False)
    (folder / "r.yaml").write_text("version: 1\nmodel: net.onnx\nstages:\n  verify:\n")
    net = folder / "net.onnx"
    return {
        "fuse": nm2trt.fuse(net, folder / "fused.onnx"),
        "permute": nm2trt.permute(net, folder / "permuted.onnx"),
        "cast": nm2trt.cast(net, folder / "cast.onnx", to="fp16"),
        "infer": nm2trt.infer(net, output=folder / "out.npz", shapes=["x:1x16x8x8"]),
        "run": nm2trt.run(folder / "r.yaml"),
    }


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("fuse", "nodes are now"),
        ("permute", "channel spaces permuted"),
        ("cast", "nodes compute in fp16"),
        ("infer", "out.npz"),
        ("run", "verify"),
    ],
)
def test_a_result_is_short_and_says_what_it_found(results, name, told):
    result = results[name]
    assert told in str(result)
    assert told in repr(result)
    assert len(repr(result)) < 2000
    assert told in result._repr_html_()
    json.dumps(result.to_dict())


def test_names_in_a_result_cannot_run_in_a_notebook(tmp_path):
    from nm2trt.recipe.result import RunResult, StageResult

    hostile = StageResult("<script>alert(1)</script>\x1b[31m", "verify", "done", 1.0, "<b>")
    result = RunResult(tmp_path, (hostile,), None, 1.0)
    assert "<script>" not in result._repr_html_()
    assert "\x1b" not in str(result)
