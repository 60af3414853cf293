"""Small ONNX files with planted patterns, for the tests of builders, engines and commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

_ELEMENTS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


def two_of_four(shape, *, axis, seed=0):
    """Random weights in which the elements 2 and 3 of every group of 4 on `axis` are zero."""
    weight = np.random.default_rng(seed).standard_normal(shape)
    lines = np.moveaxis(weight, axis, -1)
    lines[..., 2::4] = 0
    lines[..., 3::4] = 0
    return weight


def conv_net(
    path: Path,
    *,
    layers=2,
    channels=16,
    dtype="float16",
    shape=("n", 16, 8, 8),
    sparse=True,
    group=1,
    plan=None,
):
    """Convolutions 3x3 with ReLUs: nodes conv0, relu0, ...; weights w0, ...; input x, output y."""
    nodes, weights, value = [], [], "x"
    for layer in range(layers):
        weight_shape = (channels, channels // group, 3, 3)
        weight = two_of_four(weight_shape, axis=1, seed=layer)
        if not sparse:
            weight = np.random.default_rng(layer).standard_normal(weight_shape)
        weights.append(numpy_helper.from_array(weight.astype(dtype), f"w{layer}"))
        out = "y" if layer == layers - 1 else f"r{layer}"
        nodes.append(
            helper.make_node(
                "Conv", [value, f"w{layer}"], [f"c{layer}"], name=f"conv{layer}", pads=[1] * 4, group=group
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [out], name=f"relu{layer}"))
        value = out
    save(path, nodes, {"x": (dtype, shape)}, {"y": (dtype, shape)}, weights, plan)
    return path


def elementwise_net(path: Path, inputs: dict, operator="Add", dtype="float32", domain=""):
    """One node, named odd_one, over the inputs (name -> shape); output y."""
    node = helper.make_node(operator, list(inputs), ["y"], name="odd_one", domain=domain)
    save(
        path, [node], {name: (dtype, shape) for name, shape in inputs.items()}, {"y": (dtype, None)}, [], None
    )
    return path


def save(path: Path, nodes, inputs, outputs, weights, plan, *, external=False):
    graph = helper.make_graph(
        nodes,
        "net",
        [
            helper.make_tensor_value_info(name, _ELEMENTS[dtype], shape)
            for name, (dtype, shape) in inputs.items()
        ],
        [
            helper.make_tensor_value_info(name, _ELEMENTS[dtype], shape)
            for name, (dtype, shape) in outputs.items()
        ],
        weights,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("custom", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    if plan is not None:
        helper.set_model_props(model, {"nm2trt.plan": plan.to_json()})
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)


def endless_net(path: Path) -> Path:
    """Input x of shape (n, 16), a weight w of a MatMul, and a Loop whose end nobody sees."""
    tensor = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Add", ["state", "state"], ["next"]),
        ],
        "body",
        [tensor("turn", 7, []), tensor("go", 9, []), tensor("state", 1, None)],
        [tensor("on", 9, []), tensor("next", 1, None)],
    )
    stored = [
        numpy_helper.from_array(np.random.default_rng(0).standard_normal((16, 16), np.float32), "w"),
        numpy_helper.from_array(np.array(2**62), "turns"),
        numpy_helper.from_array(np.array(True), "go"),
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Loop", ["turns", "go", "h"], ["y"], body=body),
    ]
    graph = helper.make_graph(nodes, "net", [tensor("x", 1, ["n", 16])], [tensor("y", 1, ["n", 16])], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path
