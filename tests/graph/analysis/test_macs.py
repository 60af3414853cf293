"""Multiply-accumulates at the shapes that an engine is optimised for, against counting by hand."""

import itertools

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.analysis.multiply_accumulates import with_macs
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


def recurrent_products(steps, batch, directions, gates, hidden, inputs):
    """Count the products of W and of R as the defining loops of a recurrent layer make them."""
    of_input = of_state = 0
    for _ in itertools.product(range(directions), range(steps), range(batch), range(gates), range(hidden)):
        of_input += inputs
        of_state += hidden
    return [of_input, of_state]


@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize(("operator", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
def test_work_of_recurrent_layers(operator, gates, directions, layout):
    steps, batch, hidden, inputs = 5, 3, 8, 12
    weights = {"w": (directions, gates * hidden, inputs), "r": (directions, gates * hidden, hidden)}
    way = {"direction": "bidirectional" if directions == 2 else "forward", "layout": layout}
    node = NODE(operator, ["x", "w", "r"], ["", "y"], hidden_size=hidden, **way)
    shape = [batch, steps, inputs] if layout else [steps, batch, inputs]
    found = verify_model(single(node, shape, weights)).weights
    assert [v.macs for v in found] == recurrent_products(steps, batch, directions, gates, hidden, inputs)


@pytest.mark.parametrize(("groups", "strides"), [(1, [1, 1]), (2, [2, 1])])
def test_work_of_a_deformable_convolution(groups, strides):
    inputs, outputs, kernel, size = 8, 4, (3, 2), (6, 7)
    out = [(n + 2 - k) // s + 1 for n, k, s in zip(size, kernel, strides, strict=True)]
    count = sum(
        1
        for _ in itertools.product(range(outputs), range(out[0]), range(out[1]))
        for _ in itertools.product(range(inputs // groups), range(kernel[0]), range(kernel[1]))
    )
    node = NODE(
        "DeformConv", ["x", "w", "o"], ["y"], kernel_shape=kernel, pads=[1] * 4, group=groups, strides=strides
    )
    proto = single(node, [1, inputs, *size], {"w": (outputs, inputs // groups, *kernel)}, opset=19)
    offsets = [1, 2 * kernel[0] * kernel[1], *out]
    proto.graph.input.append(helper.make_tensor_value_info("o", TensorProto.FLOAT, offsets))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, outputs, *out]))
    assert verify_model(proto).weights[0].macs == count


@pytest.mark.parametrize("equation", ["bij,jk->bik", "bij,jk->bk", "ij,jk->ik"])
def test_work_of_an_einsum(equation):
    sizes = {"b": 2, "i": 3, "j": 4, "k": 5}
    left, right = equation.partition("->")[0].split(",")
    node = NODE("Einsum", ["x", "w"], ["y"], equation=equation)
    proto = single(node, [sizes[label] for label in left], {"w": tuple(sizes[label] for label in right)})
    labels = sorted(set(left + right))
    count = sum(1 for _ in itertools.product(*(range(sizes[label]) for label in labels)))
    assert verify_model(proto).weights[0].macs == count


def test_work_of_the_projections_of_an_attention():
    node = NODE("Attention", ["x", "w", "b"], ["y"], domain="com.microsoft", num_heads=2)
    proto = single(node, [2, 5, 16], {"w": (16, 48), "b": (48,)})
    assert verify_model(proto).weights[0].macs == 2 * 5 * 16 * 48


def single(node, shape, weights, opset=18):
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)
