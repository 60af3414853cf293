"""`build` verifies while the builder parses: what is refused, in which order, and what the parser never sees."""

import onnx
import pytest

import nm2trt
from nm2trt.backends import _trt_shared
from nm2trt.errors import BackendError, ModelError
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.pipeline.beside_parser import is_sound
from tests.engine.nets import conv_net

pytest.importorskip("tensorrt_rtx")


def changed(path, change):
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return path


def unknown_operator(model):
    for node in model.graph.node:
        node.op_type = "NoSuchOperator"


def cut_weight(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-4]


def test_the_verdict_comes_before_the_parser_s_error(tmp_path):
    net = changed(conv_net(tmp_path / "net.onnx"), unknown_operator)
    with pytest.raises(nm2trt.SparsityError):
        nm2trt.build(net, sparsity=True)
    with pytest.raises(BackendError, match="NoSuchOperator"):
        nm2trt.build(net)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_weight_of_the_wrong_length_never_reaches_the_parser(tmp_path, monkeypatch):
    net = changed(conv_net(tmp_path / "net.onnx"), cut_weight)
    monkeypatch.setattr(_trt_shared, "parse", lambda *_: pytest.fail("the parser was started"))
    assert not is_sound(load(net, leave_weights=True))
    with pytest.raises(ModelError, match=r"needs .* bytes"):
        nm2trt.build(net, sparsity=True)


def test_the_verdict_is_that_of_verify(tmp_path):
    net = conv_net(tmp_path / "net.onnx")
    built = nm2trt.build(net, sparsity=True)
    assert built.verified.weights == verify_model(net).weights
    assert built.parse_ms > 0
