"""Operators that are evaluated in numpy, against ONNX Runtime and against Python's own integers."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from nm2trt.graph.analysis.constant_values import evaluate, evaluate_tracked
from nm2trt.graph.analysis.numpy_operators import VALUES
from nm2trt.graph.analysis.scopes import main_scope
from nm2trt.graph.analysis.stored_sources import main_source
from nm2trt.graph.storage.model import load

EDGE = [
    0.0,
    -0.0,
    1.0,
    0.0099,
    440.0,
    448.0,
    449.0,
    464.0,
    500.0,
    -1e6,
    57344.0,
    7e4,
    np.inf,
    -np.inf,
    np.nan,
]
FLOAT8 = [TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E5M2]


def by_runtime(node, array, *more):
    """Run a node whose result is an eight-bit float, cast to float32, in ONNX Runtime."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, array.shape)]
    nodes = [node, helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, array.shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, more)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options).run(None, {"x": array})[0]


@pytest.mark.parametrize("to", FLOAT8, ids=TensorProto.DataType.Name)
@pytest.mark.parametrize("saturate", [1, 0])
def test_a_cast_to_eight_bits_saturates_as_onnx_says(to, saturate):
    array = np.array(EDGE, np.float32)
    node = helper.make_node("Cast", ["x"], ["q"], to=to, saturate=saturate)
    found = VALUES["Cast"]([array], {"to": to, "saturate": saturate})
    np.testing.assert_array_equal(found.astype(np.float32), by_runtime(node, array))


@pytest.mark.parametrize("to", FLOAT8, ids=TensorProto.DataType.Name)
def test_quantising_to_eight_bit_floats_saturates(to):
    array = np.array(EDGE, np.float32)
    scale = np.float32(0.5)
    tensors = [onnx.numpy_helper.from_array(scale, "s"), helper.make_tensor("z", to, [], [0.0])]
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"])
    zero = onnx.numpy_helper.to_array(tensors[1])
    found = VALUES["QuantizeLinear"]([array, scale, zero], {})
    np.testing.assert_array_equal(found.astype(np.float32), by_runtime(node, array, *tensors))


BIG = 2**53


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint64, np.uint8])
def test_integers_divide_exactly_and_towards_zero(dtype):
    limits = np.iinfo(dtype)
    tops = [BIG + 1, BIG + 3, -BIG - 1, limits.max, limits.max - 1, limits.min + 1, 7, -7, 8, 0]
    pairs = [
        (a, b)
        for a in tops
        for b in (1, 2, 3, -1, -2, -3, 7)
        if limits.min <= a <= limits.max and limits.min <= b <= limits.max
    ]
    a, b = (np.array(side, dtype) for side in zip(*pairs, strict=True))
    wanted = [abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) for x, y in pairs]
    found = VALUES["Div"]([a, b], {})
    assert (found.dtype, found.tolist()) == (np.dtype(dtype), wanted)


@pytest.mark.parametrize("value", [{}, {"value": 2.5}], ids=["zeros", "a value"])
def test_pads_may_be_attributes_as_up_to_opset_10(value):
    weight = np.arange(1, 7, dtype=np.float32).reshape(2, 3)
    graph = helper.make_graph(
        [helper.make_node("Pad", ["w"], ["y"], pads=[1, 0, 0, -1], **value)],
        "g",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 2])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    scope = main_scope(load(proto))
    found = evaluate(scope, "y")
    np.testing.assert_array_equal(
        found, onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {})[0]
    )
    places, _ = evaluate_tracked(scope, "y", main_source(scope, "y"))
    assert places.tolist() == [[-1, -1], [0, 1], [3, 4]]
