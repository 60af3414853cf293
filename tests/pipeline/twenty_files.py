"""Twenty small files, of every kind that the question "can it run sparse?" has to tell apart."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

NODE = helper.make_node
FLOAT, HALF, BFLOAT, DOUBLE = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.BFLOAT16,
    TensorProto.DOUBLE,
)
_SIDE = 32


def weight(rows=_SIDE, inputs=_SIDE, *, sparse=True, dtype=np.float32):
    made = np.abs(np.random.default_rng(3).standard_normal((rows, inputs))) + 1
    if sparse:
        made.reshape(rows, -1, 4)[..., 2:] = 0
    return made.astype(dtype)


def save(path, nodes, stored, *, kind=FLOAT, shape=(1, _SIDE, 4, 4), opset=17, domains=()):
    tensors = [
        value if isinstance(value, onnx.TensorProto) else numpy_helper.from_array(value, name)
        for name, value in stored.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def _conv(path, *, dtype=np.float32, kind=FLOAT, sparse=True, opset=17):
    made = weight(sparse=sparse)[..., None, None]
    stored = (
        made.astype(dtype) if kind != BFLOAT else helper.make_tensor("w", BFLOAT, made.shape, made.ravel())
    )
    return save(path, [NODE("Conv", ["x", "w"], ["y"], name="n")], {"w": stored}, kind=kind, opset=opset)


def _one(operator, stored, *, shape=(1, _SIDE), kind=FLOAT, inputs=("x", "w"), domain="", **attributes):
    def make(path):
        node = NODE(operator, list(inputs), ["y"], name="n", domain=domain, **attributes)
        return save(path, [node], stored, shape=shape, kind=kind, domains=[domain] if domain else [])

    return make


def _quantised(*, output=True, zero=0, kind=np.int8):
    def make(path):
        pair = ["s", "z"]
        nodes = [
            NODE("QuantizeLinear", ["x", *pair], ["xq"]),
            NODE("DequantizeLinear", ["xq", *pair], ["xd"]),
            NODE("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
            NODE("Conv", ["xd", "wd"], ["c"], name="n"),
        ]
        nodes += (
            [NODE("QuantizeLinear", ["c", *pair], ["q"]), NODE("DequantizeLinear", ["q", *pair], ["y"])]
            if output
            else [NODE("Relu", ["c"], ["y"])]
        )
        scales = {"s": np.float32(0.1), "z": kind(zero), "ws": np.full(_SIDE, 0.1, np.float32)}
        return save(path, nodes, {"w": weight(dtype=np.int8)[..., None, None], **scales})

    return make


def _qlinear(path):
    nodes = [
        NODE("QuantizeLinear", ["x", "s", "z"], ["q"]),
        NODE("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["o"], name="n"),
        NODE("DequantizeLinear", ["o", "s", "z"], ["y"]),
    ]
    stored = {"w": weight(dtype=np.int8)[..., None, None], "s": np.float32(0.1), "z": np.int8(0)}
    return save(path, nodes, stored)


def _chosen(path):
    nodes = [
        NODE("ReduceMax", ["x"], ["m"], keepdims=0),
        NODE("Cast", ["m"], ["i"], to=TensorProto.INT64),
        NODE("Gather", ["w", "i"], ["v"]),
        NODE("MatMul", ["x", "v"], ["y"], name="n"),
    ]
    return save(path, nodes, {"w": np.stack([weight().T] * 4)}, shape=(1, _SIDE))


def _pair(path):
    """Two layers of one file, one quantised from end to end and one in float."""
    _quantised()(path)
    proto = onnx.load(path)
    proto.graph.node[-1].output[0] = "between"
    proto.graph.node.append(NODE("Conv", ["between", "v"], ["y"], name="n2"))
    proto.graph.initializer.append(numpy_helper.from_array(weight()[..., None, None], "v"))
    onnx.save(proto, path)
    return path


W = weight()
HALVES = W.astype(np.float16)
FILES = {
    "conv fp32": _conv,
    "conv fp16": lambda path: _conv(path, dtype=np.float16, kind=HALF),
    "conv bf16": lambda path: _conv(path, kind=BFLOAT),
    "conv fp32 opset 11": lambda path: _conv(path, opset=11),
    "conv dense": lambda path: _conv(path, sparse=False),
    "matmul fp64": _one("MatMul", {"w": W.T.astype(np.float64)}, kind=DOUBLE),
    "matmul fp16": _one("MatMul", {"w": HALVES.T.copy()}, kind=HALF),
    "gemm fp16": _one("Gemm", {"w": HALVES}, kind=HALF, transB=1),
    "left operand": _one("MatMul", {"w": HALVES}, kind=HALF, inputs=("w", "x"), shape=(_SIDE, 2)),
    "grouped": _one("Conv", {"w": weight(32, 16)[..., None]}, shape=(1, _SIDE, 5), group=2),
    "transposed": _one("ConvTranspose", {"w": HALVES.T[..., None].copy()}, shape=(1, _SIDE, 5), kind=HALF),
    "einsum": _one("Einsum", {"w": W.T}, equation="bi,ij->bj"),
    "six channels": _one("MatMul", {"w": np.ones((6, 8), np.float32)}, shape=(1, 6)),
    "int8 end to end": _quantised(),
    "int8 in, float out": _quantised(output=False),
    "int8 asymmetric": _quantised(zero=3),
    "uint8": _quantised(kind=np.uint8),
    "int8 beside fp32": _pair,
    "QLinearConv": _qlinear,
    "chosen by an input": _chosen,
}
