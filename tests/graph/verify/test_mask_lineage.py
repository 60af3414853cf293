"""Mask lineage: a relation that a stage claims is checked against the weights that were read back."""

from typing import get_args

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt.errors import LineageError
from nm2trt.graph.verify.mask_lineage import check_descent, check_permuted, check_rebuilt
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.lineage import RELATIONS, Relation, relation_in_words

HELD = np.tile([[1.0], [2.0], [0.0], [0.0]], (2, 3)).astype(np.float32)  # (8, 3), 2:4 along axis 0


def report(*weights):
    """Judge x @ w1 @ w2 ..., each weight of shape (in, out)."""
    nodes = [
        helper.make_node("MatMul", [f"h{i}", f"w{i}"], [f"h{i + 1}"], name=f"product_{i}")
        for i in range(len(weights))
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("h0", onnx.TensorProto.FLOAT, ["n", weights[0].shape[0]])],
        [helper.make_tensor_value_info(f"h{len(weights)}", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    return verify_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))


def test_relations_are_named_once():
    assert tuple(RELATIONS) == get_args(Relation)
    assert relation_in_words("equal") == "equal"
    assert relation_in_words("subset") == "subset (zeros added, none taken away)"


def test_moved_zeros_are_permuted_and_rebuilt_but_no_descent():
    moved = np.ascontiguousarray(HELD[[2, 0, 3, 1, 4, 6, 5, 7]])  # inside the groups
    # A column with another number of zeros: descent compares numbers, so it must see this one.
    fewer = np.where(np.arange(8)[:, None] < 4, 1.0, HELD).astype(np.float32)
    assert check_permuted(report(HELD), report(moved)) == "permuted"
    assert check_rebuilt(report(HELD), report(moved)) == "rebuilt"
    with pytest.raises(LineageError, match="no longer does"):
        check_descent(report(HELD), report(fewer), "fuse")


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, r"has .* zeros, and had 50\.0 %"), (5.0, "held 2:4 and no longer does")]
)
def test_a_permutation_neither_adds_nor_takes_zeros(value, words):
    changed = HELD.copy()
    changed[0 if value == 0.0 else 2, 0] = value
    with pytest.raises(LineageError, match=f"permute: w0 {words}"):
        check_permuted(report(HELD), report(changed))


def test_a_permutation_across_groups_may_not_break_what_was_held():
    with pytest.raises(LineageError, match="permute: w0 held 2:4 and no longer does"):
        check_permuted(report(HELD), report(np.ascontiguousarray(HELD[[0, 1, 4, 2, 3, 5, 6, 7]])))


def test_rebuilt_weights_hold_what_they_held():
    dense = np.ones_like(HELD)
    assert check_rebuilt(report(dense), report(HELD)) == "rebuilt"
    with pytest.raises(LineageError, match="w0 held 2:4 and no longer does"):
        check_rebuilt(report(HELD), report(dense))


@pytest.mark.parametrize("check", [check_permuted, check_rebuilt])
def test_weights_that_vanish_or_change_shape_break_the_lineage(check):
    with pytest.raises(LineageError, match="1 weight became 2"):
        check(report(HELD), report(HELD, np.ones((3, 4), np.float32)))
    with pytest.raises(LineageError, match=r"had shape \[8, 3\] and has \[8, 2\] now"):
        check(report(HELD), report(HELD[:, :2].copy()))
