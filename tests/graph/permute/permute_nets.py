"""Small networks for the tests of channel permutation; every weight is drawn from its name."""

import zlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Net:
    """Collects nodes and weights of a graph x (1, 3, 8, 8) -> y."""

    def __init__(self, shape=(1, 3, 8, 8), *, opset=18, kind=np.float32):
        self.nodes, self.weights, self.opset, self.kind = [], [], opset, kind
        self.input = helper.make_tensor_value_info(
            "x", helper.np_dtype_to_tensor_dtype(np.dtype(kind)), shape
        )
        self.outputs = []

    def random(self, name, *shape):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return self.tensor(name, (rng.standard_normal(shape) * rng.uniform(0.2, 2, shape)).astype(self.kind))

    def tensor(self, name, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def ints(self, name, *numbers):
        return self.tensor(name, np.array(numbers, np.int64))

    def node(self, operator, inputs, name, **attributes):
        outputs = name if isinstance(name, list) else [name]
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], **attributes))
        return name

    def conv(self, x, name, outputs, inputs, kernel=1, *, bias=True, weight="", **attributes):
        groups = attributes.get("group", 1)
        weight = weight or self.random(f"{name}.weight", outputs, inputs // groups, kernel, kernel)
        values = [x, weight, *([self.random(f"{name}.bias", outputs)] if bias else [])]
        return self.node("Conv", values, name, **attributes)

    def proto(self, *outputs, functions=()):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.kind))
        graph = helper.make_graph(
            self.nodes,
            "g",
            [self.input],
            [helper.make_tensor_value_info(name, kind, None) for name in outputs],
            self.weights,
        )
        imports = [
            helper.make_opsetid("", self.opset),
            *(helper.make_opsetid(f.domain, 1) for f in functions),
        ]
        return helper.make_model(graph, opset_imports=imports, ir_version=9, functions=list(functions))

    def save(self, path, *outputs, **options):
        onnx.save(self.proto(*outputs, **options), path)
        return path


def stored(source):
    """Return the initializers of a file or model by name."""
    proto = source if isinstance(source, onnx.ModelProto) else onnx.load(source)
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
