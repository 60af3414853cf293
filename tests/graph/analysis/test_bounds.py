"""Small files that ask for much: refused with a reason, before the memory or the time is spent."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import InputError, ModelError
from nm2trt.graph.analysis.shapes import infer_shapes
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.limits import bounds

node = helper.make_node


@pytest.fixture(autouse=True)
def _defaults():
    bounds.use()
    yield
    bounds.use()


def ints(*values):
    return np.array(values, np.int64)


def net(nodes, weights, functions=()):
    graph = helper.make_graph(
        [*nodes, node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 18), *([helper.make_opsetid("l", 1)] if functions else [])]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)


def filled(dtype, name="a"):
    return node("ConstantOfShape", ["s"], [name], value=numpy_helper.from_array(np.ones(1, dtype)))


MEMORY = {
    "constant-of-shape": ([filled(np.float64, "w")], {"s": ints(16, 1 << 26)}),
    "range": (
        [node("Range", ["a", "b", "c"], ["r"]), node("Cast", ["r"], ["f"], to=1), node("Reshape", ["f", "s"], ["w"])],
        {"a": np.array(0), "b": np.array(1 << 30), "c": np.array(1), "s": ints(16, 1 << 26)},
    ),
    "einsum": (
        [filled(np.float32), node("Einsum", ["a", "a"], ["w"], equation="i,j->ij")],
        {"s": ints(40000)},
    ),
    "nonzero": (
        [filled(np.float32), node("NonZero", ["a"], ["o"]), node("Cast", ["o"], ["w"], to=1)],
        {"s": ints(*[1] * 30, 1 << 24)},
    ),
    "expand": ([node("Expand", ["a", "s"], ["w"])], {"a": np.ones(1, np.float32), "s": ints(1 << 15, 1 << 15)}),
    "tile": ([node("Tile", ["a", "s"], ["w"])], {"a": np.ones((1, 1), np.float32), "s": ints(1 << 15, 1 << 15)}),
    "cast-to-double": (
        [node("Expand", ["a", "s"], ["e"]), node("Cast", ["e"], ["w"], to=TensorProto.DOUBLE)],
        {"a": np.ones(1, np.int8), "s": ints(1 << 12, 1 << 12)},
    ),
}  # fmt: skip
TIME = {
    "whole-number-product": (
        [filled(np.int64), node("MatMul", ["a", "a"], ["b"]), node("Cast", ["b"], ["w"], to=1)],
        {"s": ints(4096, 4096)},
    ),
    "einsum": (
        [filled(np.float32), node("Einsum", ["a"] * 4, ["w"], equation="ab,bc,cd,de->ae")],
        {"s": ints(200, 200)},
    ),
    "erf": ([filled(np.float32), node("Erf", ["a"], ["w"])], {"s": ints(16, 1 << 22)}),
    "scatter": (
        [filled(np.float32), filled(np.int64, "i"),
         node("ScatterElements", ["a", "i", "a"], ["w"], axis=1)],
        {"s": ints(16, 1 << 22)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", [f"memory-{name}" for name in MEMORY] + [f"time-{name}" for name in TIME])
def test_a_constant_that_passes_a_bound_is_untraceable_with_the_reason(case):
    what, _, name = case.partition("-")
    nodes, weights = (MEMORY if what == "memory" else TIME)[name]
    if name == "cast-to-double":
        bounds.use(constant_gb=0.1)  # the value before the cast, which is computed, fits into it
    (verdict,) = verify_model(net(nodes, weights)).weights
    assert verdict.pattern == "untraceable"
    assert ("--constant-memory" if what == "memory" else "--constant-time") in verdict.sentence


def test_bounds_are_raised_by_an_option():
    model = net([filled(np.float32, "w")], {"s": ints(16, 1 << 10)})
    bounds.use(constant_gb=1e-6)
    assert verify_model(model).weights[0].pattern == "untraceable"
    bounds.use(constant_gb=1e-3)
    assert verify_model(model).weights[0].pattern == "broken"
    bounds.use(constant_seconds=1e-9)
    assert "0 s are left" in verify_model(model).weights[0].sentence


@pytest.mark.parametrize(
    "options", [{"constant_gb": 0}, {"constant_gb": float("nan")}, {"constant_seconds": -1}]
)
def test_bounds_that_are_no_bounds(options):
    with pytest.raises(InputError, match="out of range"):
        bounds.use(**options)


def test_functions_that_unfold_without_end():
    functions = [
        helper.make_function(
            "l", "F0", ["p"], ["r"], [node("Identity", ["p"], ["r"])], [helper.make_opsetid("", 18)]
        )
    ]
    for k in range(1, 20):
        calls = [node(f"F{k - 1}", ["p"], ["q"], domain="l"), node(f"F{k - 1}", ["q"], ["r"], domain="l")]
        functions.append(
            helper.make_function("l", f"F{k}", ["p"], ["r"], calls, [helper.make_opsetid("l", 1)])
        )
    model = net([node("F19", ["x"], ["z"], domain="l")], {"w": np.ones((16, 16), np.float32)}, functions)
    with pytest.raises(ModelError, match="functions unfold to 1,572,864 nodes"):
        verify_model(model)


def test_shapes_of_a_model_with_an_endless_vector():
    graph = helper.make_graph(
        [node("Cast", ["i"], ["c"], to=TensorProto.INT64), node("Identity", ["x"], ["y"])],
        "g",
        [
            helper.make_tensor_value_info("i", TensorProto.INT32, [1 << 31]),
            helper.make_tensor_value_info("x", 1, [2, 3]),
        ],
        [
            helper.make_tensor_value_info("y", 1, None),
            helper.make_tensor_value_info("c", TensorProto.INT64, None),
        ],
    )
    model = load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    shapes = infer_shapes(model)
    assert shapes["y"] == (2, 3)
    assert shapes["c"] == (1 << 31,)
