"""refuse_quantised: every pass that wants a float model gives one answer; and the table of moving operators."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.calibration.sample_set import SampleSet
from nm2trt.errors import ModelError
from nm2trt.graph.analysis.moving_operators import MOVING
from nm2trt.graph.analysis.numpy_operators import MOVES
from nm2trt.graph.analysis.quantised_values import refuse_quantised
from nm2trt.graph.permute.permute_model import permute_model
from nm2trt.graph.quantize.quantize_model import quantize_model
from nm2trt.graph.reconstruct.reconstruct_model import check_request
from nm2trt.graph.storage.model import load

NODE = helper.make_node
PASSES = {
    "permute": lambda path, out: permute_model(path, out),
    "prune --calib": lambda path, out: check_request(path, out),
    "quantize": lambda path, out: quantize_model(
        path, out, SampleSet({"x": np.zeros((4, 8), np.float32)}, (0, 1, 2, 3), "zeros", 4)
    ),
}


def model_with(operator, path, *, inside=False):
    """A MatMul, with one node more that nothing but its name tells anything of; in a branch of an If, or not."""
    domain = "" if operator in ("QuantizeLinear", "MatMulInteger", "QLinearMatMul") else "com.microsoft"
    odd = NODE(operator, ["x"], ["odd"], "odd", domain=domain)
    nodes = [NODE("MatMul", ["x", "w"], ["y"], "mm"), odd]
    if inside:
        branch = helper.make_graph([odd], "branch", [], [helper.make_tensor_value_info("odd", 1, None)])
        nodes[1] = NODE("If", ["flag"], ["z"], "if", then_branch=branch, else_branch=branch)
    stored = [numpy_helper.from_array(np.ones((8, 8), np.float32), "w")]
    stored.append(numpy_helper.from_array(np.array(True), "flag"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 8])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.mark.parametrize("name", PASSES)
@pytest.mark.parametrize("operator", ["MatMulNBits", "MatMulIntegerToFloat", "QLinearAdd", "QAttention"])
def test_every_pass_refuses_what_one_of_them_refuses(name, operator, tmp_path):
    path = model_with(operator, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=f"m.onnx is quantised already: {operator} at 'odd'; .*float model"):
        PASSES[name](path, tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_nodes_of_a_branch_count(tmp_path):
    model = load(model_with("MatMulNBits", tmp_path / "m.onnx", inside=True))
    with pytest.raises(ModelError, match="MatMulNBits at 'if/else_branch/odd'; give another"):
        refuse_quantised(model, "give another")


@pytest.mark.parametrize("operator", ["FusedMatMul", "QuickGelu"])
def test_a_float_operator_passes(operator, tmp_path):
    refuse_quantised(load(model_with(operator, tmp_path / "m.onnx")), "")


def test_moving_operators_are_those_that_numpy_moves():
    assert set(MOVES) == MOVING
