"""Why an engine is not faster: which reasons apply, in which order, to how much of the work."""

import json

import pytest

from nm2trt.engine.evidence.evidence import Autotuned, Evidence, SparsityList
from nm2trt.engine.ladder.explain import explain
from nm2trt.engine.ladder.ladder import ladder_rows
from tests.engine.ladder.test_ladder import DENSE, HOLDS, SPARSE, layer, verdict

LARGE = {"shape": (512, 512, 3, 3)}


def why(verdicts, *, sparsity="enable", evidence=None, builder="trt", targets=("sm86",), built=True, **how):
    evidence = evidence or Evidence()
    rows = ladder_rows(verdicts, sparsity=sparsity, builder=builder, targets=targets, evidence=evidence)
    return explain("m.engine", rows, evidence, builder=builder, targets=targets, built=built, **how)


def codes(*arguments, **keywords):
    return [reason.code for reason in why(*arguments, **keywords).reasons]


def test_the_order_is_that_of_the_ladder_and_of_the_work():
    verdicts = [
        verdict(weight="small", macs=100, node="n0"),
        verdict(weight="grouped", macs=300, facts={"conv_groups": 4}, node="n1"),
        verdict(weight="fp32", macs=200, facts={"dtype": "float32"}, node="n2"),
        verdict(weight="broken", macs=150, pattern="broken", reason="broken", sentence="3 groups", node="n3"),
        verdict(
            weight="dense",
            macs=250,
            pattern="dense-by-plan",
            reason="dense-by-plan",
            sentence="by plan",
            node="n4",
        ),
    ]
    found = why(verdicts, built=False).reasons
    assert [(reason.rung, reason.code, reason.weights, reason.share) for reason in found] == [
        ("pattern", "dense-by-plan", ("dense",), 0.25),
        ("pattern", "broken", ("broken",), 0.15),
        ("shape", "group-conv", ("grouped",), 0.3),
        ("dtype", "fp32", ("fp32",), 0.2),
        ("tactic", "small", ("small",), 0.1),
        ("tactic", "not-measured", ("small",), 0.1),
        ("whole", "bound", (), 0.1),
    ]
    assert all(reason.remedy for reason in found)
    assert "the whole would gain 1.05x" in found[-1].sentence  # 1 / (1 - 0.1 / 2)


@pytest.mark.parametrize(
    ("channels", "remedy"),
    [
        (3, "nothing: 3 input channels cannot be cut into groups of four"),
        (1, "nothing: 1 input channel cannot be cut into groups of four"),
        (64, "nothing, if it is dense on purpose; else name it (include= of sparsify, --include of prune)"),
    ],
)
def test_what_to_do_about_a_weight_that_was_left_dense(channels, remedy):
    said = {"pattern": "dense-by-plan", "reason": "dense-by-plan", "sentence": "by plan"}
    facts = {"shape": (64, channels, 3, 3), "pattern": None}
    (reason,) = why([verdict(macs=10, facts=facts, **said)], built=False).reasons
    assert reason.remedy.startswith(remedy)


def test_weights_of_one_reason_are_named_by_their_work():
    rows = [
        verdict(weight=f"w{i}", macs=macs, facts={"dtype": "float32"}) for i, macs in enumerate((1, 9, 5))
    ]
    (reason,) = why(rows).reasons
    assert reason.weights == ("w1", "w2", "w0")


def test_what_runs_sparse_has_nothing_against_it():
    rows = [verdict(macs=10, facts=LARGE)]
    assert codes(rows, evidence=Evidence(layers=(layer(SPARSE),))) == ["bound"]


@pytest.mark.parametrize(
    ("evidence", "expected", "sentence"),
    [
        pytest.param(
            Evidence(layers=(layer(DENSE),)),
            "dense-kernel",
            "nothing says whether sparse ones were tried",
            id="dense-tactic",
        ),
        pytest.param(
            Evidence(layers=(layer(DENSE),), eligible=SparsityList(1, ("conv0",))),
            "not-chosen",
            "took a dense one",
            id="listed-and-dense",
        ),
        pytest.param(
            Evidence(chosen=SparsityList(0, ()), autotuned=(Autotuned("c", ("conv0",), 0.0125, 0.01),)),
            "not-chosen",
            "dense was 1.25x as fast when the builder timed it",
            id="the-builder-timed-it",
        ),
        pytest.param(
            Evidence(eligible=SparsityList(1, ("other",))), "not-listed", "does not list it", id="not-listed"
        ),
        pytest.param(
            Evidence(layers=(layer(SPARSE),), autotuned=(Autotuned("c", ("conv0",), 0.0125, 0.01),)),
            "no-gain",
            "its sparse kernel is not the faster one",
            id="no-gain",
        ),
        pytest.param(Evidence(), "not-measured", "nothing that was given says", id="nothing-given"),
        pytest.param(
            Evidence(layers=(layer("__myelin_CASK_STUB", kind="gemm"),)),
            "not-measured",
            "on the GPU that loads the plan",
            id="chosen-when-loaded",
        ),
    ],
)
def test_what_builder_and_gpu_said(evidence, expected, sentence):
    found = why([verdict(macs=10, facts=LARGE)], evidence=evidence).reasons
    (reason,) = [reason for reason in found if reason.code == expected]
    assert sentence in reason.sentence
    assert reason.weights == ("w",)


def test_an_engine_built_without_the_flag_is_told_so_first():
    found = why([verdict(macs=10, facts=LARGE)], sparsity="disable").reasons
    assert (found[0].rung, found[0].code, found[0].share) == ("build", "sparsity-off", 1.0)
    assert "--sparsity" in found[0].remedy
    assert "100 % of the multiply-accumulates can run sparse" in found[-1].sentence


def test_strict_nans_are_told():
    assert "strict-nans" in codes([verdict(macs=10, facts=LARGE)], strict_nans=True)


def test_an_unknown_is_told_as_such():
    found = why([verdict(macs=10, facts={**LARGE, "operator": "ConvTranspose"})]).reasons
    assert found[0].code == "operator"
    assert "not known to be impossible" in found[0].sentence


def test_the_rung_of_shape_is_told_even_where_a_later_one_decides():
    found = why([verdict(macs=10, facts={**LARGE, "operator": "Einsum", "dtype": "float32"})]).reasons
    assert [reason.code for reason in found[:2]] == ["operator", "fp32"]


def test_shares_are_not_guessed():
    found = why([verdict(macs=None, facts={"dtype": "float32"}), verdict(macs=10, node="x")]).reasons
    assert found[0].share is None
    assert "bound" not in [reason.code for reason in found]


def test_an_explanation_is_json():
    text = json.dumps(why([HOLDS], evidence=Evidence(notes=("a note",))).to_json())
    assert json.loads(text)["notes"] == ["a note"]


def test_a_weight_that_no_rule_would_allow_is_not_to_be_pruned():
    rows = [
        verdict(
            weight="depthwise",
            macs=100,
            pattern="not-groupable",
            reason="not-a-multiple",
            sentence="axis 1 has 1 elements",
            facts={"conv_groups": 32, "pattern": None},
        )
    ]
    (reason,) = why(rows, built=False).reasons
    assert (reason.rung, reason.code, reason.share) == ("shape", "group-conv", 1.0)
    assert reason.remedy.startswith("leave it dense")


def test_a_model_without_weights_is_not_said_to_run_sparse():
    remarks = why([]).remarks()
    assert "it has no weights to judge, so nothing can run sparse" in remarks
    assert not any("speaks against" in line for line in remarks)
