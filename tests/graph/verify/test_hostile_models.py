"""Structure-aware mutants of small models: `verify` answers or refuses, and never fails in another way.

Seeded and bounded; `make fuzz` draws a command for each mutant.
"""

import contextlib
import random
import warnings

import numpy as np
import pytest
from onnx import helper, numpy_helper

from nm2trt import bounds
from nm2trt.errors import Nm2trtError
from nm2trt.graph.verify.verify_model import verify_model
from tests.hostile.mutants import mutant, sound

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


def test_a_node_without_inputs_is_no_constant():
    # Else its product with a weight would be a product of constants, and the weight would go unseen.
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    nodes = [helper.make_node("Transpose", [], ["t"]), helper.make_node("MatMul", ["t", "w"], ["y"])]
    value = helper.make_tensor_value_info("y", 1, None)
    graph = helper.make_graph(nodes, "g", [], [value], [weight])
    report = verify_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))
    assert "broken" in [verdict.pattern for verdict in report.weights]
