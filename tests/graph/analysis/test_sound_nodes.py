"""Nodes that break their operator's signature are refused before a pass relies on them."""

import re

import pytest
from onnx import TensorProto, helper

from nm2trt.errors import ModelError
from nm2trt.graph.analysis.sound_nodes import check_nodes
from nm2trt.graph.storage.model import load


def model(nodes, functions=()):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    return load(helper.make_model(graph, opset_imports=opsets, functions=list(functions)))


def node(*arguments, **attributes):
    return helper.make_node(*arguments, name="here", **attributes)


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (node("Add", ["x"], ["y"]), "has 1 inputs, and takes 2"),
        (node("Relu", ["x", "x"], ["y"]), "has 2 inputs, and takes 1"),
        (node("MatMul", ["x", ""], ["y"]), "lacks its input B"),
        (node("Relu", ["x"], []), "has 0 outputs, and takes 1"),
        (node("Relu", ["x"], [""]), "has no output with a name"),
        (node("Cast", ["x"], ["y"]), "lacks its attribute to"),
        (node("Cast", ["x"], ["y"], to="float"), "has an attribute to of another type than INT"),
        (node("Concat", ["x", "x"], ["y"], axis=[1]), "has an attribute axis of another type than INT"),
        # onnx's inference never ends at the first three.
        (
            node("Einsum", ["x", "x"], ["y"], equation="i1,j"),
            "has the equation 'i1,j', which Einsum does not take",
        ),
        (
            node("Einsum", ["x", "x"], ["y"], equation="..i,j"),
            "has the equation '..i,j', which Einsum does not take",
        ),
        (
            node("Einsum", ["x"], ["y"], equation="i\n->i"),
            "has the equation 'i\\n->i', which Einsum does not take",
        ),
        (
            node("Einsum", ["x"], ["y"], equation="i->i->i"),
            "has the equation 'i->i->i', which Einsum does not take",
        ),
    ],
)
def test_a_broken_signature_is_named(broken, words):
    with pytest.raises(ModelError, match=rf"{broken.op_type} at here {re.escape(words)}.*not valid ONNX"):
        check_nodes(model([broken]))


@pytest.mark.parametrize(
    "equation", ["ij,jk", "...ij,jk->...ik", "i j , j k -> i k", "ij->", "i...j->...", "aB,Bc"]
)
def test_what_onnx_takes_as_an_equation_is_taken(equation):
    check_nodes(model([node("Einsum", ["x"] * (equation.count(",") + 1), ["y"], equation=equation)]))


def test_nodes_in_bodies_and_functions_are_read():
    body = helper.make_graph(
        [node("Relu", [], ["r"])], "b", [], [helper.make_tensor_value_info("r", 1, None)]
    )
    inside = helper.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=body)
    with pytest.raises(ModelError, match=r"Relu at if/(then|else)_branch/here has 0 inputs"):
        check_nodes(model([inside]))
    function = helper.make_function(
        "local", "F", ["p"], ["r"], [node("Add", ["p"], ["r"])], [helper.make_opsetid("", 18)]
    )
    with pytest.raises(ModelError, match="Add at F/here has 1 inputs"):
        check_nodes(model([helper.make_node("F", ["x"], ["y"], domain="local")], [function]))


def test_what_the_opset_or_the_domain_does_not_know_is_passed_over():
    check_nodes(model([helper.make_node("Odd", [], ["y"])]))
    check_nodes(model([helper.make_node("Add", ["x"], ["y"], domain="acme")]))


@pytest.mark.parametrize(
    ("inputs", "outputs", "words"),
    [
        (["x", "x", "x"], ["y"], "has 3 inputs, and takes 2"),
        (["x"], ["y"], "lacks its input q"),
        (["", "x"], ["y"], "lacks its input p"),
        (["x", "x"], ["y", "z"], "has 2 outputs, and takes 1"),
        (["x", "x"], [], "has no output with a name"),
        (["x", "x"], [""], "has no output with a name"),
    ],
)
def test_a_call_of_a_function_is_held_to_what_its_body_needs(inputs, outputs, words):
    body = [helper.make_node("Add", ["p", "q"], ["r"])]
    function = helper.make_function("local", "F", ["p", "q"], ["r"], body, [helper.make_opsetid("", 18)])
    check_nodes(model([helper.make_node("F", ["x", "x"], ["y"], domain="local")], [function]))
    call = helper.make_node("F", inputs, outputs, name="here", domain="local")
    with pytest.raises(ModelError, match=f"F at here {words}"):
        check_nodes(model([call], [function]))


def test_a_call_may_leave_out_what_the_body_can_do_without():
    body = [helper.make_node("Clip", ["p", "low", "high"], ["r"])]
    formal = ["p", "low", "high"]
    function = helper.make_function("local", "F", formal, ["r"], body, [helper.make_opsetid("", 18)])
    for inputs in (["x"], ["x", "", ""], ["x", "", "x"]):
        check_nodes(model([helper.make_node("F", inputs, ["y"], domain="local")], [function]))
