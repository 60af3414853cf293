"""Rows times weights is the node's own output, for every kind of layer and geometry."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.backends.ort import open_onnx
from nm2trt.graph.reconstruct.layers import find_layers
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.rows import conv_rows, matrix_rows, output_rows
from nm2trt.graph.reconstruct.statistics import gather_moments
from nm2trt.graph.reconstruct.streams import Stream
from nm2trt.graph.storage.model import load


def one_node(path, node, weight, rank):
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * rank)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, path)
    return path


def output_of(path, x):
    with open_onnx(path) as session:
        return session.run({"x": x})["y"]


CONVOLUTIONS = [
    pytest.param((8, 6, 1, 1), (5, 7), {}, id="pointwise"),
    pytest.param((8, 6, 1, 1), (5, 7), {"strides": [2, 3]}, id="pointwise-strided"),
    pytest.param((8, 6, 3, 3), (9, 8), {"pads": [1, 1, 1, 1]}, id="padded"),
    pytest.param((8, 6, 3, 5), (9, 11), {"pads": [0, 1, 2, 3]}, id="asymmetric-pads"),
    pytest.param((8, 6, 3, 3), (9, 8), {"strides": [2, 1], "pads": [1, 0, 1, 0]}, id="strided"),
    pytest.param((8, 6, 3, 3), (11, 12), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}, id="dilated"),
    pytest.param((8, 6, 4, 3), (9, 8), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, id="same-upper"),
    pytest.param((8, 6, 4, 3), (9, 8), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}, id="same-lower"),
    pytest.param((8, 6, 2, 2), (9, 8), {"auto_pad": "SAME_LOWER"}, id="same-lower-even"),
    pytest.param((8, 6, 3, 3), (9, 8), {"auto_pad": "VALID"}, id="valid"),
    pytest.param((8, 6, 5), (17,), {"strides": [2], "pads": [2, 1]}, id="one-dimension"),
    pytest.param((4, 6, 2, 3, 2), (5, 6, 4), {"pads": [0, 1, 1, 1, 0, 0]}, id="three-dimensions"),
    pytest.param((6, 1, 3, 3), (7, 9), {"group": 6, "pads": [1, 1, 1, 1], "strides": [2, 2]}, id="depthwise"),
]


@pytest.mark.parametrize(("shape", "sizes", "attributes"), CONVOLUTIONS)
def test_convolution(tmp_path, shape, sizes, attributes):
    random = np.random.default_rng(0)
    weight = random.normal(size=shape).astype(np.float32)
    x = random.normal(size=(3, 6, *sizes)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    path = one_node(tmp_path / "a.onnx", node, weight, x.ndim)
    (layer,), _ = find_layers(Network(load(path)))
    y = output_of(path, x)
    every = np.arange(y.shape[0] * np.prod(y.shape[2:]))
    some = every[::3]
    rows = conv_rows(layer.window, x, some)
    if layer.depthwise:
        mine = np.einsum("pkc,ck->pc", rows, layer.rows(weight))
    else:
        mine = rows.reshape(len(some), -1) @ layer.rows(weight).T
    np.testing.assert_allclose(mine, output_rows(y, some, convolution=True), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(conv_rows(layer.window, x, None), conv_rows(layer.window, x, every))
    np.testing.assert_array_equal(layer.stored(layer.rows(weight)), weight)


@pytest.mark.parametrize(
    ("operator", "shape", "sizes", "attributes"),
    [
        pytest.param("MatMul", (6, 8), (3, 5), {}, id="matmul"),
        pytest.param("Gemm", (6, 8), (), {}, id="gemm"),
        pytest.param("Gemm", (8, 6), (), {"transB": 1}, id="gemm-transposed"),
        pytest.param("Gemm", (6, 8), (), {"transA": 1, "alpha": -0.3, "beta": 2.0}, id="gemm-scaled"),
    ],
)
def test_matrix(tmp_path, operator, shape, sizes, attributes):
    random = np.random.default_rng(0)
    weight = random.normal(size=shape).astype(np.float32)
    x = random.normal(size=(4, *sizes, 6)).astype(np.float32)
    x = x.T if "transA" in attributes else x
    path = one_node(
        tmp_path / "a.onnx", helper.make_node(operator, ["x", "w"], ["y"], **attributes), weight, x.ndim
    )
    (layer,), _ = find_layers(Network(load(path)))
    y = output_of(path, x)
    some = np.arange(y.size // 8)[1::2]
    mine = matrix_rows(layer.multiplied(x), some) @ layer.rows(weight).T
    np.testing.assert_allclose(mine, output_rows(y, some, convolution=False), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(layer.stored(layer.rows(weight)), weight)
    assert (layer.outputs, layer.inputs, layer.channels) == (8, 6, 6)


@pytest.mark.parametrize(
    ("node", "shape", "why"),
    [
        (helper.make_node("Conv", ["x", "w"], ["y"], group=2), (8, 3, 1, 1), "in 2 groups"),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (3, 6, 8), "is not a matrix"),
    ],
)
def test_other_layers_are_left_with_a_reason(tmp_path, node, shape, why):
    path = one_node(tmp_path / "a.onnx", node, np.ones(shape, np.float32), 4 if node.op_type == "Conv" else 2)
    layers, declined = find_layers(Network(load(path)))
    assert not layers
    assert [why in reason for reason in declined.values()] == [True]


def test_each_sample_weighs_the_same_and_each_of_its_tokens(tmp_path):
    weight = np.eye(4, dtype=np.float32)
    path = one_node(tmp_path / "a.onnx", helper.make_node("MatMul", ["x", "w"], ["y"]), weight, 3)
    (layer,), _ = find_layers(Network(load(path)))
    x = np.random.default_rng(0).normal(size=(4, 6, 4)).astype(np.float32)
    lengths = np.array([1, 2, 4, 0])
    mask = (np.arange(6) < lengths[:, None]).astype(np.int64)
    (tmp_path / "stream").mkdir()
    stream = Stream(tmp_path / "stream", [{"x": x, "mask": mask}])
    found = gather_moments(layer, weight, stream, stream, valid="mask", random=np.random.default_rng(1))
    wanted = sum(4 * x[at, :length].mean(0) for at, length in enumerate(lengths) if length)
    assert found.rows == 12
    assert found.fitted.x == pytest.approx(wanted, abs=1e-5)
