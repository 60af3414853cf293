"""Structure-aware mutants of small models: `verify` answers or refuses, and never fails in another way.

Seeded and bounded; `make fuzz` draws a command for each mutant.
"""

import contextlib
import random
import warnings

import numpy as np
import pytest
from onnx import helper, numpy_helper

from nm2trt.errors import ModelError, Nm2trtError
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.limits import bounds
from tests.hostile.forms import sound
from tests.hostile.mutants import mutant

RUNS = 500


@pytest.mark.parametrize("part", range(5))
def test_verify_answers_or_refuses_any_model(part):
    bounds.use(constant_gb=0.25, constant_seconds=5)
    try:
        for number in range(part, RUNS, 5):
            proto, _ = mutant(random.Random(number))
            with warnings.catch_warnings(), contextlib.suppress(Nm2trtError):
                warnings.simplefilter("ignore")
                verify_model(proto)
    except Exception as error:
        raise AssertionError(f"mutant {number}: {type(error).__name__}: {error}") from error
    finally:
        bounds.use()


def test_a_large_constant_without_an_output_is_no_internal_error():
    proto, _ = sound(random.Random(0))
    value = numpy_helper.from_array(np.ones((64, 64), np.float32))
    proto.graph.node.insert(0, helper.make_node("Constant", [], [], value=value))
    with warnings.catch_warnings(), contextlib.suppress(Nm2trtError):
        warnings.simplefilter("ignore")
        verify_model(proto)


@pytest.mark.parametrize("given", [[], [""]], ids=["no inputs", "an input without a name"])
def test_a_node_without_what_it_needs_is_refused(given):
    # Else its product with a weight would be a product of constants, and the weight would go unseen.
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    nodes = [helper.make_node("Transpose", given, ["t"]), helper.make_node("MatMul", ["t", "w"], ["y"])]
    value = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "g", [], [value], [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ModelError, match=r"Transpose at Transpose#0 .* not valid ONNX"):
        verify_model(model)


def test_a_weight_that_a_default_is_multiplied_with_is_seen():
    """A state with a default looks constant, and its product is not a weight of the file."""
    draw = np.random.default_rng(0)
    stored = {
        "w": draw.standard_normal((16, 16)),
        "v": draw.standard_normal((16, 16)),
        "s": np.zeros((1, 16)),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="of the input"),
        helper.make_node("MatMul", ["s", "v"], ["b"], name="of the state"),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    infos = [
        helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", ["n", 16]), ("s", [1, 16]))
    ]
    tensors = [numpy_helper.from_array(value.astype("f4"), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info("y", 1, None)], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = {verdict.consumer: verdict.pattern for verdict in verify_model(model).weights}
    assert found == {"of the input": "broken", "of the state": "broken"}
    del graph.input[:]  # with nothing to replace, the product of constants is nobody's weight
    graph.input.extend(infos[:1])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    assert [verdict.consumer for verdict in verify_model(model).weights] == ["of the input"]


def test_a_chain_with_two_to_the_sixtieth_paths_is_followed_once():
    """Each node adds a value to itself; the first depends on an input, so that no value is constant."""
    nodes = [helper.make_node("Add", ["w", "x"], ["c0"])]
    nodes += [helper.make_node("Add", [f"c{i}", f"c{i}"], [f"c{i + 1}"]) for i in range(60)]
    nodes.append(helper.make_node("MatMul", ["x", "c60"], ["y"]))
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    infos = [helper.make_tensor_value_info(name, 1, [16, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], [weight])
    verify_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
