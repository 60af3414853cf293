"""The ladder: which rung a weight reaches, and what stays unanswered without a GPU."""

import dataclasses
import json

import pytest

from nm2trt.engine.proof import climb, readable
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import WeightFacts, WeightVerdict

HOLDS = WeightVerdict(
    weight="w",
    consumer="conv",
    operator="Conv",
    shape=(16, 16, 3, 3),
    dtype="float16",
    axis=1,
    wanted="2:4",
    pattern="holds",
    groups=576,
    broken_groups=0,
    first_broken=None,
    zero_share=0.5,
    nonfinite=0,
    parameters=2304,
    macs=None,
    eligible="yes",
    reason="eligible",
    sentence="2:4 along axis 1",
    source="guide",
    facts=WeightFacts("Conv", (16, 16, 3, 3), 1, "float16", 1, NMPattern(2, 4), convolution=True),
    node="conv0",
)


def verdict(*, facts=(), **fields):
    """The verdict above with some fields and some facts changed."""
    return dataclasses.replace(HOLDS, facts=dataclasses.replace(HOLDS.facts, **dict(facts)), **fields)


def rungs(sparsity="enable", **fields):
    (row,) = climb([verdict(**fields)], sparsity=sparsity)
    return [rung.answer for rung in row.rungs]


def details(sparsity="enable", **fields):
    (row,) = climb([verdict(**fields)], sparsity=sparsity)
    return [rung.detail for rung in row.rungs]


def test_what_a_gpu_must_answer_reads_not_measured():
    assert details() == ["2:4", "fits", "float16", "not measured", "not measured", "not measured"]
    assert rungs()[:3] == ["yes"] * 3


def test_a_dense_build_says_that_sparsity_is_off():
    assert details("disable") == ["2:4", "fits", "float16", "sparsity off", "-", "-"]


@pytest.mark.parametrize(
    ("fields", "reached", "detail"),
    [
        pytest.param(
            {"pattern": "broken", "broken_groups": 7, "reason": "broken"},
            0,
            "broken, 7 of 576 groups",
            id="broken",
        ),
        pytest.param({"pattern": "dense-by-plan", "wanted": ""}, 0, "dense by plan", id="dense-by-plan"),
        pytest.param({"pattern": "not-groupable"}, 0, "not groupable", id="not-groupable"),
        pytest.param({"wanted": "4:8", "eligible": "no", "reason": "not-2:4"}, 0, "4:8 is not 2:4", id="4:8"),
        pytest.param({"facts": {"conv_groups": 2}}, 1, "group-conv", id="group-conv"),
        pytest.param(
            {"facts": {"dtype": "float32"}},
            2,
            "float32: no sparse kernel known",
            id="fp32",
        ),
    ],
)
def test_a_weight_stops_at_the_first_no(fields, reached, detail):
    assert rungs(**fields) == ["yes"] * reached + ["no"] + ["not reached"] * (5 - reached)
    assert details(**fields)[reached] == detail


def test_unknown_does_not_stop():
    assert rungs(facts={"operator": "ConvTranspose"}) == ["yes", "unknown", "yes"] + ["not measured"] * 3


@pytest.mark.parametrize(
    ("wanted", "answer"), [("2:4", True), ("1:4", True), ("2:8", True), ("4:8", False), ("3:4", False)]
)
def test_only_what_implies_two_of_four_is_readable(wanted, answer):
    assert readable(dataclasses.replace(HOLDS, wanted=wanted)) is answer


def test_a_row_is_json():
    (row,) = climb([HOLDS], sparsity="enable")
    assert json.loads(json.dumps(row.to_json()))["gain"] == {
        "answer": "not measured",
        "detail": "not measured",
    }
