"""Hardware rules: what each forbids, what it depends on, and that the page made from them is current."""

import dataclasses
import runpy
from pathlib import Path

import pytest

from nm2trt.nm.eligibility import (
    EXPECTATIONS,
    RULES,
    Place,
    Where,
    can_run_sparse,
    eligibility_of,
    expectations,
)
from nm2trt.nm.eligibility_tables import CHANNEL_MULTIPLES, DTYPE_ROWS
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import WeightFacts

DOCS = Path(__file__).parents[2] / "docs"
TWO_FOUR = NMPattern(2, 4)
CONV = WeightFacts("Conv", (512, 512, 3, 3), 1, "float16", 1, TWO_FOUR, convolution=True)


def facts(**fields):
    return dataclasses.replace(CONV, **fields)


def test_nothing_speaks_against_a_large_fp16_convolution():
    assert (eligibility_of(CONV).answer, eligibility_of(CONV).code) == ("yes", "eligible")
    assert expectations(CONV) == ()


@pytest.mark.parametrize(
    ("fields", "answer", "code"),
    [
        pytest.param({"pattern": None}, "no", "not-2:4", id="dense"),
        pytest.param({"pattern": NMPattern(4, 8)}, "no", "not-2:4", id="4:8"),
        pytest.param({"conv_groups": 2}, "no", "group-conv", id="grouped"),
        pytest.param({"dtype": "float32"}, "no", "fp32", id="fp32"),
        pytest.param({"operator": "ConvTranspose"}, "unknown", "operator", id="transposed"),
        pytest.param({"dtype": "bfloat16"}, "unknown", "dtype", id="bf16"),
        pytest.param({"dtype": "float8e4m3fn"}, "unknown", "dtype", id="fp8"),
        pytest.param({"dtype": "int4"}, "unknown", "dtype", id="type-of-no-row"),
        pytest.param({"island": "its output stays float16"}, "no", "qdq-island", id="island"),
        pytest.param(
            {"operator": "ConvTranspose", "dtype": "float32"}, "no", "fp32", id="a-no-beats-an-unknown"
        ),
    ],
)
def test_the_rule_that_decides(fields, answer, code):
    found = eligibility_of(facts(**fields))
    assert (found.answer, found.code) == (answer, code)
    assert found.source
    assert found.basis in ("measured", "cited", "assumed")


def test_patterns_that_imply_two_of_four_pass():
    assert (
        eligibility_of(facts(pattern=NMPattern(1, 4))).answer
        == eligibility_of(facts(pattern=NMPattern(2, 8))).answer
        == "yes"
    )


@pytest.mark.parametrize(
    ("dtype", "builder", "target", "answer", "basis"),
    [
        pytest.param("int8", "trt-rtx", "sm80", "yes", "measured", id="rtx-names-int8-on-sm80"),
        pytest.param("int8", "trt-rtx", "sm120", "unknown", "measured", id="rtx-names-none-on-sm120"),
        pytest.param("float16", "trt-rtx", "sm86", "unknown", "measured", id="rtx-names-no-fp16-on-sm86"),
        pytest.param("float16", "trt", "sm86", "yes", "cited", id="tensorrt-takes-fp16"),
        pytest.param("float16", "", "", "yes", "cited", id="builder-not-known"),
        pytest.param("float16", "trt", "sm75", "no", "cited", id="turing"),
    ],
)
def test_a_type_depends_on_builder_and_architecture(dtype, builder, target, answer, basis):
    found = eligibility_of(facts(dtype=dtype), Where(builder, target))
    assert (found.answer, found.basis) == (answer, basis)


def test_what_only_tensorrt_for_rtx_cannot_read_holds_no_other_builder_back():
    found = facts(unread_by_rtx="Unique at u", dtype="int8")
    rtx = eligibility_of(found, Where("trt-rtx", "sm80"))
    assert (rtx.answer, rtx.code) == ("no", "unread-by-rtx")
    assert "it has Unique at u" in rtx.sentence
    assert eligibility_of(found, Where("trt", "sm80")).answer == "yes"


def test_of_several_targets_all_must_say_yes():
    found = can_run_sparse(CONV, Place("trt", "", ("sm75", "sm86")))
    assert found.answer == "no"
    assert "sm75 has no sparse tensor cores (on sm75, but not on sm86)" in found.sentence
    assert can_run_sparse(CONV, Place("trt", "", ("sm80", "sm86"))).answer == "yes"
    assert can_run_sparse(CONV, Place("trt", "", ("sm75",))).code == "architecture"


def test_rules_of_one_rung_leave_the_others_out():
    bad = facts(conv_groups=2, dtype="float32")
    assert eligibility_of(bad, rung="shape").code == "group-conv"
    assert eligibility_of(bad, rung="dtype").code == "fp32"
    assert eligibility_of(bad, rung="pattern").answer == "yes"


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        pytest.param({"shape": (512, 64, 3, 3)}, [], id="3x3-counts-its-channels-nine-times"),
        pytest.param({"shape": (512, 64, 1, 1)}, ["small"], id="1x1-with-64-in"),
        pytest.param({"shape": (64, 512, 3, 3)}, ["small"], id="64-out"),
        pytest.param({"shape": (512, 520, 3, 3)}, ["channel-multiple"], id="520-is-no-multiple-of-16"),
        pytest.param({"shape": (516, 512, 1, 1), "dtype": "int8"}, ["channel-multiple"], id="int8-516-out"),
        pytest.param(
            {"operator": "MatMul", "convolution": False, "shape": (768, 100), "axis": 0},
            ["channel-multiple", "small"],
            id="matmul-100-out",
        ),
        pytest.param(
            {"operator": "Gemm", "convolution": False, "shape": (1000, 512), "axis": 1},
            [],
            id="gemm-transposed",
        ),
    ],
)
def test_what_speaks_against_a_sparse_kernel_that_may_run(fields, codes):
    assert [item.code for item in expectations(facts(**fields))] == codes
    assert eligibility_of(facts(**fields)).answer == "yes"


def test_every_row_and_rule_names_its_source():
    for item in (*RULES, *EXPECTATIONS, *DTYPE_ROWS, *CHANNEL_MULTIPLES):
        assert item.source, item
        assert item.basis in ("measured", "cited", "assumed"), item
    codes = [rule.code for rule in (*RULES, *EXPECTATIONS)]
    assert len(codes) == len(set(codes))
    assert all(rule.remedy and rule.summary for rule in (*RULES, *EXPECTATIONS))


def test_the_page_is_what_the_rules_say():
    made = runpy.run_path(str(DOCS / "make_eligibility.py"))["page"]()
    assert (DOCS / "eligibility.md").read_text() == made, "run python docs/make_eligibility.py"
    assert all(f"| `{rule.code}` |" in made for rule in (*RULES, *EXPECTATIONS))


@pytest.mark.parametrize("target", ["sm53", "sm62", "sm37", "sm75"])
def test_every_architecture_before_ampere_runs_dense(target):
    assert eligibility_of(CONV, Where("trt", target)).code == "architecture"


@pytest.mark.parametrize("target", ["sm80", "sm121", "gfx942", ""])
def test_later_and_foreign_architectures_are_not_ruled_out(target):
    assert eligibility_of(CONV, Where("trt", target), rung="shape").answer == "yes"
