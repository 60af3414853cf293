"""The ONNX file as a module of layers that `peers.py` hands to ModelOpt: it computes the same, and goes back."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

torch = pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from onnx_module import OnnxModule  # noqa: E402


@pytest.fixture
def model(tmp_path):
    """Conv with stride and groups, a product that is stored transposed, a Gemm, and nodes between."""
    random = np.random.default_rng(0)
    shapes = {"w0": (8, 4, 3, 3), "b0": (8,), "w1": (8, 1, 3, 3), "w2": (8, 12), "w3": (6, 12), "b3": (6,)}
    numbers = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w0", "b0"], ["c0"], "c0", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], "c1", group=8),
        helper.make_node("Relu", ["c1"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w2"], ["m2"], "m2"),
        helper.make_node("Gemm", ["m2", "w3", "b3"], ["y"], "g3", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(array, name) for name, array in numbers.items()],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9),
        tmp_path / "m.onnx",
    )
    return tmp_path / "m.onnx"


def outputs(path, x):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def test_the_module_has_the_files_layers_and_computes_the_same(model):
    x = np.random.default_rng(1).standard_normal((3, 4, 9, 9)).astype(np.float32)
    module = OnnxModule(model)
    assert [type(layer).__name__ for layer in module.layers] == ["Conv2d", "Conv2d", "Linear", "Linear"]
    np.testing.assert_allclose(module({"x": x}).numpy(), outputs(model, x), rtol=1e-4, atol=1e-5)


def test_what_was_done_to_the_layers_goes_back_into_the_file(model, tmp_path):
    x = np.random.default_rng(1).standard_normal((3, 4, 9, 9)).astype(np.float32)
    module = OnnxModule(model)
    with torch.no_grad():
        for layer in module.layers:
            layer.weight *= torch.rand(layer.weight.shape) > 0.5
    module.save(tmp_path / "out.onnx")
    wanted = module({"x": x}).numpy()
    np.testing.assert_allclose(outputs(tmp_path / "out.onnx", x), wanted, rtol=1e-4, atol=1e-5)
    assert np.abs(wanted - outputs(model, x)).max() > 0.1
