"""The plan survives its JSON, and a damaged one is refused."""

import pytest

from nm2trt.errors import ModelError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan, PlanEntry

PLAN = Plan(
    (
        PlanEntry("conv.weight", NMPattern(2, 4), "16 input channels", (8, 16, 3, 3), 1),
        PlanEntry("stem.weight", None, "3 input channels are fewer than 16", (8, 3, 3, 3), 1),
        PlanEntry("fc.weight", None, "chosen", (), None, unstructured=True),
    ),
    "sr-ste",
)


def test_json_round_trip():
    assert Plan.from_json(PLAN.to_json()) == PLAN


def test_lookup_and_renaming():
    renamed = PLAN.renamed({"conv.weight": "w0"})
    assert renamed.get("w0").pattern == NMPattern(2, 4)
    assert renamed.get("conv.weight") is None
    assert [entry.weight for entry in renamed.sparse] == ["w0"]


def test_canonical_shape_is_the_same_before_and_after_a_transpose():
    assert (
        PlanEntry("a", None, "", (5, 7), 1).canonical_shape
        == PlanEntry("b", None, "", (7, 5), 0).canonical_shape
    )


def test_zeros_anywhere_are_not_counted_as_dense():
    entries = [PlanEntry(name, None, "", (4,), 0, unstructured=name != "c") for name in "abc"]
    assert Plan(tuple(entries)).counts() == "0 weights sparse, 2 with zeros anywhere, 1 dense on purpose"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 1, "method": "x", "weights": [{"weight": "a"}]}',
        "[" * 5000,
        Plan((PlanEntry("a", None, "", (4,), 0, unstructured=True),), "x").to_json().replace("true", "1"),
    ],
)
def test_damaged_plans_are_refused(text):
    with pytest.raises(ModelError, match=r"is damaged"):
        Plan.from_json(text)


def test_a_plan_of_another_version():
    with pytest.raises(ModelError, match="has version 9; this release reads version 1"):
        Plan.from_json('{"version": 9}')
