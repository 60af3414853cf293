"""A fold or merge in front of a saturated output: right ones pass, wrong ones do not, though the output is noise either way."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import DifferenceError
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.fuse.fuse_model import fuse_model

NODE = helper.make_node
SIDE = 16
FOLDED = (
    NODE("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
    NODE("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
)
MERGED = (
    NODE("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
    NODE("Conv", ["x", "w1"], ["d"], name="conv1"),
    NODE("BatchNormalization", ["x", "g", "b", "m", "v"], ["i"]),
    NODE("Add", ["c", "d"], ["s"]),
    NODE("Add", ["s", "i"], ["n"]),
)
MERGED_THEN_FOLDED = (
    NODE("Conv", ["x", "w"], ["c"], name="conv", pads=[1] * 4),
    NODE("Conv", ["x", "w1"], ["d"], name="conv1"),
    NODE("Sum", ["c", "d", "x"], ["s"]),
    NODE("BatchNormalization", ["s", "g", "b", "m", "v"], ["n"]),
)
CASES = [(made, last) for made in (FOLDED, MERGED, MERGED_THEN_FOLDED) for last in ("Sigmoid", "Softmax")]


@pytest.fixture(params=CASES)
def saturated(request, tmp_path):
    random = np.random.default_rng(1)
    made, saturating = request.param
    nodes = [
        *made,
        NODE("Add", ["n", "off"], ["l"]),
        NODE(saturating, ["l"], ["p"]),
        NODE("Slice", ["p", "from", "to", "axes"], ["y"]),
    ]
    offset = np.full((SIDE, 1, 1), -17, np.float32)
    if saturating == "Softmax":  # over the last axis, where the first column wins by far
        offset = np.tile(np.array([17] + [0] * 7, np.float32), (SIDE, 8, 1))
    stored = {
        "w": (random.standard_normal((SIDE, SIDE, 3, 3)) * 0.02).astype(np.float32),
        "w1": (random.standard_normal((SIDE, SIDE, 1, 1)) * 0.02).astype(np.float32),
        "g": (random.random(SIDE) + 0.5).astype(np.float32),
        "b": random.standard_normal(SIDE).astype(np.float32),
        "m": random.standard_normal(SIDE).astype(np.float32),
        "v": (random.random(SIDE) + 0.5).astype(np.float32),
        "off": offset,
        "from": np.array([1]),
        "to": np.array([8]),
        "axes": np.array([3]),
    }
    read = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", SIDE, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["b", SIDE, 8, 7])],
        [numpy_helper.from_array(value, name) for name, value in stored.items() if name in read],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def test_a_right_change_passes(saturated, tmp_path):
    report = fuse_model(saturated, tmp_path / "fused.onnx")
    assert report.batchnorms_folded == 1 or report.branches_merged == 2
    assert report.differences[0].max_abs < 1e-6
    written = onnx.load(tmp_path / "fused.onnx")
    assert [value.name for value in written.graph.output] == ["y"]


def test_a_wrong_change_does_not(saturated, tmp_path, monkeypatch):
    right = Editor.add_tensor

    def wrong(self, array, *given, **named):
        return right(self, array * np.float32(1.01) if array.ndim == 4 else array, *given, **named)

    monkeypatch.setattr(Editor, "add_tensor", wrong)
    with pytest.raises(DifferenceError, match="where the graph was changed"):
        fuse_model(saturated, tmp_path / "fused.onnx")
    assert not (tmp_path / "fused.onnx").exists()
