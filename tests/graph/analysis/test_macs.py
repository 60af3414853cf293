"""Multiply-accumulates at the shapes that an engine is optimised for, against counting by hand."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.analysis.shapes import with_macs
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model

NODE = helper.make_node


def model(*, batch="n", size="s"):
    weights = {"w": (32, 16, 3, 3), "f": (32, 8)}
    nodes = [
        NODE("Conv", ["x", "w"], ["a"], name="conv", pads=[1, 1, 1, 1], strides=[2, 2]),
        NODE("GlobalAveragePool", ["a"], ["p"]),
        NODE("Flatten", ["p"], ["q"]),
        NODE("MatMul", ["q", "f"], ["y"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (batch, 16, size, size))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (batch, 8))],
        [numpy_helper.from_array(np.zeros(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@pytest.mark.parametrize(("batch", "size"), [(1, 8), (8, 8), (32, 9)])
def test_work_at_a_profile(tmp_path, batch, size):
    onnx.save(model(), path := tmp_path / "m.onnx")
    before = verify_model(path).weights
    assert [verdict.macs for verdict in before] == [None, 32 * 8]  # a free image size is not guessed
    found = with_macs(load(path, leave_weights=True), before, {"x": (batch, 16, size, size)})
    out = (size + 1) // 2
    assert [verdict.macs for verdict in found] == [batch * 32 * out * out * 16 * 9, batch * 32 * 8]


def test_shapes_that_an_exporter_wrote_for_another_batch_do_not_count(tmp_path):
    proto = model(batch=1, size=8)
    proto.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, (1, 32, 4, 4)))
    onnx.save(proto, path := tmp_path / "m.onnx")
    verdicts = verify_model(path).weights
    found = with_macs(load(path, leave_weights=True), verdicts, {"x": (4, 16, 8, 8)})
    assert [verdict.macs for verdict in found] == [4 * verdict.macs for verdict in verdicts]
