"""restore_names: transposed matrices get their parameter's name back, and nothing else is renamed."""

import numpy as np
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from nm2trt.exporter.names import restore_names


def chain(**weights):
    """x @ w @ w ... in the order given."""
    nodes, last = [], "x"
    for name in weights:
        nodes.append(helper.make_node("MatMul", [last, name], [f"{name}_out"]))
        last = f"{name}_out"
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ascontiguousarray(weight), name) for name, weight in weights.items()],
    )
    return ir.serde.deserialize_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def layers(*names):
    torch.manual_seed(0)
    return nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in names})


def transposed(module, name):
    return module[name].weight.detach().numpy().T


def read_by(model):
    """The weight of each product, in order, as the file says it."""
    return [node.input[1] for node in ir.serde.serialize_model(model).graph.node]


def test_equal_shapes_are_told_apart_by_their_numbers():
    module = layers("a", "b")
    model = chain(val_1=transposed(module, "b"), val_2=transposed(module, "a"))
    restore_names(model, module)

    assert read_by(model) == ["b.weight", "a.weight"]
    stored = {t.name: numpy_helper.to_array(t) for t in ir.serde.serialize_model(model).graph.initializer}
    np.testing.assert_array_equal(stored["b.weight"], transposed(module, "b"))
    assert set(stored) == {"a.weight", "b.weight"}


def test_other_numbers_keep_their_name():
    module = layers("a")
    changed = transposed(module, "a").copy()
    changed[3, 3] += 1
    model = chain(val_1=changed)
    restore_names(model, module)

    assert read_by(model) == ["val_1"]


def test_a_name_that_is_taken_is_not_given_twice():
    module = layers("a")
    model = chain(**{"a.weight": module["a"].weight.detach().numpy(), "val_1": transposed(module, "a")})
    restore_names(model, module)

    assert read_by(model) == ["a.weight", "val_1"]
