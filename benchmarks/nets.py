"""Models of real sizes with made-up weights, for the benchmarks."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.analysis.weight_operands import consumers
from nm2trt.graph.storage.model import load
from nm2trt.nm.axes import onnx_weight
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern

__all__ = ["TWO_FOUR", "half", "many_nodes", "matmuls", "minilm", "resnet50", "sparse"]

TWO_FOUR = NMPattern(2, 4)

STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


class Builder:
    """Collects nodes and weights of one graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        data = self.rng.standard_normal(shape, dtype=np.float32) / np.sqrt(max(1, np.prod(shape[1:])))
        self.weights.append(numpy_helper.from_array(data.astype(np.float32), name))
        return name

    def conv(self, x: str, name: str, i: int, o: int, k: int, stride: int = 1) -> str:
        self.nodes.append(
            helper.make_node(
                "Conv",
                [x, self.weight(f"{name}.weight", o, i, k, k), self.weight(f"{name}.bias", o)],
                [name],
                name,
                strides=[stride] * 2,
                pads=[k // 2] * 4,
            )
        )
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def model(self, x: list[object], y: list[object], last: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "benchmark",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, y)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def resnet50() -> onnx.ModelProto:
    """Return a ResNet-50 with folded BatchNorms and random weights: 25.5 M of them."""
    b = Builder()
    x = b.node("Relu", b.conv("x", "conv1", 3, 64, 7, 2), name="relu1")
    x = b.node("MaxPool", x, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (planes, blocks) in enumerate(STAGES):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            y = b.node("Relu", b.conv(x, f"{name}.conv1", width, planes, 1), name=f"{name}.relu1")
            y = b.node("Relu", b.conv(y, f"{name}.conv2", planes, planes, 3, stride), name=f"{name}.relu2")
            y = b.conv(y, f"{name}.conv3", planes, planes * 4, 1)
            skip = x if block else b.conv(x, f"{name}.downsample", width, planes * 4, 1, stride)
            x = b.node("Relu", b.node("Add", y, skip, name=f"{name}.add"), name=f"{name}.relu3")
            width = planes * 4
    x = b.node("Flatten", b.node("GlobalAveragePool", x, name="mean"), name="flat")
    last = b.node("Gemm", x, b.weight("fc.weight", 1000, 2048), b.weight("fc.bias", 1000), name="y", transB=1)
    return b.model(["n", 3, 224, 224], ["n", 1000], last)


def many_nodes(count: int) -> onnx.ModelProto:
    """Return a chain of blocks of two parallel convolutions with BatchNorms: `count` nodes."""
    b = Builder()
    x = "x"
    for block in range(count // 6):
        parts = []
        for branch, kernel in enumerate((3, 1)):
            name = f"b{block}.{branch}"
            y = b.conv(x, name, 4, 4, kernel)
            stats = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
            for part, fill in zip(stats, (0.5, 0.0, 0.0, 1.0), strict=True):
                b.weights.append(numpy_helper.from_array(np.full(4, fill, np.float32), part))
            parts.append(b.node("BatchNormalization", y, *stats, name=f"{name}.bn"))
        x = b.node("Relu", b.node("Add", *parts, name=f"b{block}.add"), name=f"b{block}.relu")
    return b.model([1, 4, 8, 8], [1, 4, 8, 8], x)


def matmuls(layers: int = 24, width: int = 1024) -> onnx.ModelProto:
    """Return a stack of MatMuls, 25 M weights by default."""
    b = Builder()
    x = "x"
    for layer in range(layers):
        x = b.node("MatMul", x, b.weight(f"w{layer}", width, width), name=f"product{layer}")
    return b.model(["n", 128, width], ["n", 128, width], x)


def minilm(*, layers: int = 6, width: int = 384, heads: int = 12, tokens: int = 128) -> onnx.ModelProto:
    """Return a BERT of MiniLM-L6's sizes with random weights: 22.6 M of them."""
    b = Builder()

    def constant(name: str, value: np.ndarray) -> str:
        b.weights.append(numpy_helper.from_array(value, name))
        return name

    def dense(x: str, name: str, i: int, o: int) -> str:
        product = b.node("MatMul", x, b.weight(f"{name}.weight", i, o), name=f"{name}.product")
        return b.node("Add", product, b.weight(f"{name}.bias", o), name=name)

    def normal(x: str, name: str) -> str:
        ones = constant(f"{name}.scale", np.ones(width, np.float32))
        return b.node("LayerNormalization", x, ones, b.weight(f"{name}.shift", width), name=name, axis=-1)

    size = width // heads
    split = constant("split", np.array([0, tokens, heads, size], np.int64))
    join = constant("join", np.array([0, tokens, width], np.int64))
    scale = constant("scale", np.float32(size**-0.5))
    one, half_of, root = (
        constant(n, np.float32(v)) for n, v in (("one", 1), ("half", 0.5), ("root", 2**0.5))
    )
    x = normal(b.node("Gather", b.weight("words", 30522, width), "ids", name="embedding"), "norm")
    for layer in range(layers):
        name = f"layer{layer}"
        parts = []
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            y = b.node(
                "Reshape", dense(x, f"{name}.{part}", width, width), split, name=f"{name}.{part}.split"
            )
            parts.append(b.node("Transpose", y, name=f"{name}.{part}.turned", perm=order))
        y = b.node("Mul", b.node("MatMul", *parts[:2], name=f"{name}.scores"), scale, name=f"{name}.scaled")
        y = b.node("MatMul", b.node("Softmax", y, name=f"{name}.soft"), parts[2], name=f"{name}.mixed")
        y = b.node("Transpose", y, name=f"{name}.back", perm=[0, 2, 1, 3])
        y = dense(b.node("Reshape", y, join, name=f"{name}.joined"), f"{name}.out", width, width)
        x = normal(b.node("Add", x, y, name=f"{name}.sum1"), f"{name}.norm1")
        y = dense(x, f"{name}.up", width, 4 * width)
        bell = b.node("Erf", b.node("Div", y, root, name=f"{name}.div"), name=f"{name}.erf")
        bell = b.node("Mul", b.node("Add", bell, one, name=f"{name}.plus"), half_of, name=f"{name}.bell")
        y = dense(b.node("Mul", y, bell, name=f"{name}.gelu"), f"{name}.down", 4 * width, width)
        x = normal(b.node("Add", x, y, name=f"{name}.sum2"), "y" if layer == layers - 1 else f"{name}.norm2")
    model = b.model(["n", tokens], ["n", tokens, width], x)
    model.graph.input[0].name = "ids"
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64
    return model


def sparse(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make every weight that can be 2:4 hold 2:4."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for operand in consumers(load(model)):
        tensor = tensors[operand.value]
        weight = numpy_helper.to_array(tensor).copy()
        how = onnx_weight("", operand.operator, operand.input_index, weight.ndim, operand.attributes)
        if how is not None and weight.shape[how.axis] % 4 == 0:
            weight *= nm_mask(np.abs(weight), TWO_FOUR, axis=how.axis)
            tensor.CopyFrom(numpy_helper.from_array(weight, tensor.name))
    return model


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """Make floating-point weights, inputs and outputs fp16."""
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    return model
