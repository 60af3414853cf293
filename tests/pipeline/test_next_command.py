"""The next command for a file: exactly which one, by what verify found and where it is to run."""

from dataclasses import replace

import numpy as np
import pytest
from onnx import helper, numpy_helper

import nm2trt
from nm2trt.pipeline.next_command import next_command, pruning_command
from tests.engine.nets import two_of_four

AMPERE = {"backend": "trt-rtx", "targets": "sm86"}  # has sparse kernels for int8 only
CPU = {"backend": "ort"}  # has none


def judged(weight, place, *, operator="MatMul", domain="", facts=None, **changes):
    """Return what verify says of `y = x weight`, with facts about its file, or about the weight, changed."""
    ends = [helper.make_tensor_value_info(name, 1, None) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], name="product", domain=domain)],
        "net",
        ends[:1],
        ends[1:],
        [numpy_helper.from_array(weight.astype(np.float32), "w")],
    )
    opsets = [helper.make_opsetid(name, version) for name, version in {"": 17, domain: 17}.items()]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    report = nm2trt.verify(model, **place)
    weights = tuple(replace(v, facts=replace(v.facts, **(facts or {}))) for v in report.weights)
    return replace(report, weights=weights, **changes)


def beside(report, other):
    """Return one report on the weights of two."""
    return replace(report, weights=report.weights + other.weights)


DENSE = np.random.default_rng(0).standard_normal((32, 32))
SPARSE = two_of_four((32, 32), axis=0)
NESTED = {"facts": {"nested": True}}  # in a body, which no pass that takes samples changes
HELD = {"facts": {"fixed": "a Gather reads it too", "rebuilt": False}}
MASKED = {"facts": {"fixed": "run nm2trt fuse first"}}
LOWER = "nm2trt build m.onnx --sparsity --precision int8 --calib SAMPLES.npz"
EXPLAIN = "nm2trt explain m.onnx"


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (judged(SPARSE, AMPERE), LOWER),
        (judged(SPARSE, AMPERE, quantised="q"), EXPLAIN),  # a file with Q/DQ is not quantised again
        (judged(SPARSE, AMPERE, **NESTED), EXPLAIN),
        # It holds a weight that quantize leaves in float.
        (judged(SPARSE, AMPERE, operator="Attention", domain="com.microsoft"), EXPLAIN),
        # Half of the file is fp16 already, and the float32 half lies in a body, where nothing is lowered.
        (
            beside(judged(SPARSE, AMPERE, facts={"dtype": "float16"}), judged(SPARSE, AMPERE, **NESTED)),
            EXPLAIN,
        ),
        (beside(judged(SPARSE, AMPERE, facts={"dtype": "float16"}), judged(SPARSE, AMPERE)), LOWER),
        (judged(SPARSE, CPU), EXPLAIN),
        (judged(DENSE, AMPERE), "nm2trt prune m.onnx --calib SAMPLES.npz"),
        (judged(DENSE, AMPERE, **NESTED), "nm2trt prune m.onnx"),
        (judged(DENSE, AMPERE, facts={"rebuilt": False}), "nm2trt prune m.onnx"),
        (judged(DENSE, AMPERE, **HELD), ""),
        (judged(DENSE, AMPERE, **MASKED), "nm2trt prune m.onnx --calib SAMPLES.npz"),
        (judged(DENSE, AMPERE, quantised="q"), ""),
        (judged(DENSE, CPU, **NESTED), ""),
    ],
    ids="lowered qdq body attention half-body half cpu dense dense-body computed held masked dense-qdq dense-cpu".split(),
)
def test_the_next_command(found, wanted):
    assert next_command("m.onnx", found) == wanted


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (judged(DENSE, CPU, quantised="q", **NESTED), "nm2trt prune f.onnx"),
        (judged(SPARSE, CPU, quantised="q"), ""),  # nothing to prune
    ],
    ids=["prunable", "sparse"],
)
def test_a_file_that_was_quantised_leads_to_its_float_model(found, wanted):
    assert pruning_command("f.onnx", found) == wanted
