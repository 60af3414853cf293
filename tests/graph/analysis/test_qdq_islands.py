"""find_islands: what keeps a layer of a quantised model from being INT8 from end to end, one planted cause each."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.graph.verify.verify_model import verify_model

NODE = helper.make_node


def two_of_four(*shape):
    weight = np.random.default_rng(0).integers(1, 9, shape).astype(np.int8)
    weight[:, 1::4] = weight[:, 2::4] = 0
    return weight


class Net:
    """A Conv between Q/DQ pairs, or with one of them left out or made otherwise."""

    def __init__(self, *, zero=0, dtype=np.int8, axis=0, data_scale=(), quantised=("in", "weight", "out")):
        self.nodes, self.weights = [], []
        self.constant("w", two_of_four(8, 8, 1, 1))
        self.constant("s", np.full(8, 0.1, np.float32))
        self.constant("scale", np.full(data_scale, 0.1, np.float32))
        self.constant("zero", np.full(data_scale, zero, dtype))
        x = self.pair("x") if "in" in quantised else "x"
        if "weight" in quantised:
            self.nodes.append(NODE("DequantizeLinear", ["w", "s"], ["w_dq"], "w_dq", axis=axis))
            self.constant("w_zero", np.zeros(8, np.int8))
            self.nodes[-1].input.append("w_zero")
        else:
            self.constant("w_dq", two_of_four(8, 8, 1, 1).astype(np.float32))
        self.nodes.append(NODE("Conv", [x, "w_dq"], ["c"], "conv"))
        self.nodes.append(NODE("Relu", ["c"], ["r"], "relu"))
        last = self.pair("r") if "out" in quantised else "r"
        self.nodes.append(NODE("Softmax", [last], ["y"], "softmax"))

    def constant(self, name, array):
        self.weights.append(numpy_helper.from_array(array, name))

    def pair(self, value):
        self.nodes.append(NODE("QuantizeLinear", [value, "scale", "zero"], [f"{value}_q"], f"{value}_q"))
        self.nodes.append(
            NODE("DequantizeLinear", [f"{value}_q", "scale", "zero"], [f"{value}_dq"], f"{value}_dq")
        )
        return f"{value}_dq"

    def model(self):
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 4, 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def test_a_layer_that_is_int8_in_and_int8_out_is_no_island():
    report = verify_model(Net().model())
    assert not report.islands
    (row,) = report.weights
    assert (row.pattern, row.eligible) == ("holds", "yes")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ({"quantised": ("in", "weight")}, "output-float", "goes in float to Softmax 'softmax'"),
        ({"quantised": ("weight", "out")}, "input-float", "comes in float from 'x'"),
        ({"quantised": ("in", "out")}, "weight-float", "its weight is not quantised"),
        ({"quantised": ("out",)}, "float", "neither its input nor its weight"),
        ({"zero": 3}, "asymmetric", "a zero point other than 0"),
        ({"dtype": np.uint8}, "unsigned", "quantised to uint8"),
        ({"data_scale": (8,)}, "per-channel-input", "a scale per index of axis 1"),
        ({"axis": 1}, "weight-axis", "along axis 1, not its output channels"),
    ],
)  # fmt: skip
def test_a_planted_cause_is_named_and_makes_the_layer_ineligible(arguments, code, words):
    report = verify_model(Net(**arguments).model())
    (island,) = report.islands
    assert (island.consumer, island.code) == ("conv", code)
    assert words in island.sentence
    (row,) = report.weights
    assert (row.pattern, row.eligible, row.reason) == ("holds", "no", "qdq-island")


def test_an_output_read_in_float_too_is_an_island():
    model = Net().model()
    model.graph.node.append(NODE("GlobalAveragePool", ["r"], ["mean"], "mean"))
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    (island,) = verify_model(model).islands
    assert "GlobalAveragePool 'mean'" in island.sentence


def test_an_output_of_the_model_leaves_in_float():
    model = Net().model()
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    (island,) = verify_model(model).islands
    assert "leaves the graph in float" in island.sentence


def test_a_residual_add_behind_belongs_to_the_kernel():
    net = Net(quantised=("in", "weight"))
    net.nodes = net.nodes[:-2]
    net.nodes += [NODE("Add", ["c", "x_dq"], ["s1"], "add"), NODE("Relu", ["s1"], ["r"], "relu")]
    last = net.pair("r")
    net.nodes.append(NODE("Softmax", [last], ["y"], "softmax"))
    assert not verify_model(net.model()).islands


def test_an_identity_in_between_is_nothing():
    net = Net(quantised=("in", "weight"))
    net.nodes[-2:] = [NODE("Identity", ["c"], ["i"], "i"), NODE("Relu", ["i"], ["r"], "relu")]
    net.nodes.append(NODE("Softmax", [net.pair("r")], ["y"], "softmax"))
    assert not verify_model(net.model()).islands


def test_a_float_model_has_no_islands():
    model = Net(quantised=()).model()
    assert not verify_model(model).islands


def test_verify_prints_the_islands(tmp_path, capsys):
    onnx.save(Net(zero=3).model(), tmp_path / "m.onnx")
    assert main(["verify", str(tmp_path / "m.onnx")]) == 0
    printed = capsys.readouterr().out
    assert "Q/DQ island" in printed
    assert "asymmetric" in printed
