"""`nm2trt.graph.storage.light_onnx`: the same messages, schemas and shapes as the whole package gives."""

import subprocess
import sys

import onnx
import pytest
from onnx import helper

from nm2trt.graph.storage import light_onnx

LATER = """
import sys
from nm2trt.graph.storage import light_onnx as light

model = light.onnx.ModelProto.FromString(sys.stdin.buffer.read())
inferred = light.infer_shapes(model)
assert light.schemas().has_schema("Conv") and not light.schemas().has_schema("Conv", "elsewhere")
assert "onnx" not in sys.modules, "the package was imported"

import onnx
assert all(getattr(onnx, name) is getattr(light.onnx, name) for name in ("ModelProto", "TensorProto", "NodeProto"))
assert onnx.shape_inference.infer_shapes(model) == inferred
assert onnx.defs.get_schema("Conv").name == "Conv"
try:
    onnx.checker.check_model(onnx.ModelProto())
except onnx.onnx_cpp2py_export.checker.ValidationError:
    print("refused")
"""


def relu():
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xyz"]
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["z"])]
    return helper.make_model(helper.make_graph(nodes, "g", values[:1], values[2:]))


def test_the_package_can_be_imported_after_its_parts_and_agrees_with_them():
    ended = subprocess.run(
        [sys.executable, "-c", LATER], input=relu().SerializeToString(), capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, b"refused\n"), ended.stderr.decode()


@pytest.mark.parametrize("data_prop", [False, True])
def test_shapes_are_those_that_the_package_infers(data_prop):
    model = relu()
    wanted = onnx.shape_inference.infer_shapes(model, data_prop=data_prop)
    assert light_onnx.infer_shapes(model, data_prop=data_prop) == wanted


@pytest.mark.parametrize(
    "value",
    [
        1.5,
        3,
        "text",
        b"\xff",
        [1.0, 2.5],
        [1, 2],
        ["a", "b"],
        helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [1.0]),
        relu().graph,
        [relu().graph, relu().graph],
        onnx.TypeProto(denotation="d"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_attribute_has_the_value_that_the_package_reads(value):
    attribute = helper.make_attribute("a", value)
    assert light_onnx.attribute_value(attribute) == helper.get_attribute_value(attribute)


def test_a_reference_and_an_unknown_type_are_refused_as_the_package_refuses_them():
    assert light_onnx.attribute_value(onnx.AttributeProto(name="a")) is None
    with pytest.raises(ValueError, match="'a' refers to 'b'"):
        light_onnx.attribute_value(onnx.AttributeProto(name="a", ref_attr_name="b"))
