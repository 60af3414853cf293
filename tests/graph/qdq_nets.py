"""Small float networks for the tests of precision, and what every value of one reaches by itself."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

NODE = helper.make_node


class Builder:
    """Collects nodes and weights; weights are 2:4 along their reduction axis."""

    def __init__(self, seed=0):
        self.nodes, self.weights = [], []
        self.rng = np.random.default_rng(seed)

    def constant(self, name, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weight(self, name, *shape, axis=1):
        array = self.rng.standard_normal(shape).astype(np.float32)
        lines = np.moveaxis(array, axis, -1)
        if shape[axis] % 4 == 0:
            lines[..., 0::4] = lines[..., 3::4] = 0
        return self.constant(name, array)

    def node(self, operator, inputs, output, **attributes):
        self.nodes.append(NODE(operator, inputs, [output], output, **attributes))
        return output

    def conv(self, x, name, i, o, k=1, **attributes):
        w = self.weight(f"{name}.weight", o, i, k, k)
        b = self.constant(f"{name}.bias", self.rng.standard_normal(o).astype(np.float32))
        return self.node("Conv", [x, w, b], name, pads=[k // 2] * 4, **attributes)

    def model(self, last, shape=("n", 8, 6, 6), opset=18, more=()):
        graph = helper.make_graph(
            self.nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (last, *more)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def residual_net(opset=18):
    """A residual block, a Concat of two branches, pooling, and a classifier: every rule of placement."""
    b = Builder()
    stem = b.node("Relu", [b.conv("x", "stem", 8, 16, 3)], "stem.relu")
    one = b.node("Relu", [b.conv(stem, "one", 16, 16, 3)], "one.relu")
    two = b.conv(one, "two", 16, 16)
    total = b.node("Relu", [b.node("Add", [two, stem], "sum")], "sum.relu")
    left = b.node("Relu", [b.conv(total, "left", 16, 8)], "left.relu")
    right = b.node("MaxPool", [total], "pool", kernel_shape=[3, 3], pads=[1] * 4)
    joined = b.node("Concat", [left, right], "joined", axis=1)
    last = b.conv(joined, "last", 24, 16)
    mean = b.node("GlobalAveragePool", [b.node("HardSwish", [last], "hard")], "mean")
    flat = b.node("Flatten", [mean], "flat")
    w = b.weight("fc.weight", 10, 16)
    c = b.constant("fc.bias", np.zeros(10, np.float32))
    return b.model(b.node("Gemm", [flat, w, c], "y", transB=1), opset=opset)


def transformer_net(opset=18):
    """An embedding-free encoder step: MatMul with bias, a sum that goes into LayerNormalization, MatMul."""
    b = Builder()
    one = b.node("MatMul", ["x", b.weight("w1", 16, 32, axis=0)], "m1")
    one = b.node("Add", [one, b.constant("b1", np.ones(32, np.float32))], "a1")
    one = b.node("Relu", [one], "r1")
    two = b.node("MatMul", [one, b.weight("w2", 32, 16, axis=0)], "m2")
    two = b.node("Add", [b.constant("b2", np.ones(16, np.float32)), two], "a2")
    total = b.node("Add", [two, "x"], "sum")
    g, s = b.constant("g", np.ones(16, np.float32)), b.constant("s", np.zeros(16, np.float32))
    b.node("LayerNormalization", [total, g, s], "norm")
    last = b.node("MatMul", ["norm", b.weight("w3", 16, 16, axis=0)], "m3")
    return b.model(b.node("Softmax", [last], "y"), shape=("n", 5, 16), opset=opset)


def every_value(model, feeds):
    """Return what ONNX Runtime gives for every value of a graph."""
    probe = onnx.ModelProto.FromString(model.SerializeToString())
    names = [name for node in probe.graph.node for name in node.output]
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return {**feeds, **dict(zip(names, session.run(names, feeds), strict=True))}


def samples(count=12, shape=(8, 6, 6), seed=1):
    return np.random.default_rng(seed).standard_normal((count, *shape)).astype(np.float32)
