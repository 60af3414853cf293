"""The ladder: which rung a weight reaches, and what stays unanswered without a GPU."""

import dataclasses
import json

import pytest

from nm2trt.engine.evidence.evidence import Autotuned, Evidence, KernelUse, LayerRecord, SparsityList
from nm2trt.engine.ladder.ladder import ladder_rows, sparse_share, with_evidence
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.engine.ladder.unmatched import foreign_layers, lost_weights
from nm2trt.errors import InputError
from nm2trt.nm.advice import holds_two_of_four
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
    (row,) = ladder_rows([verdict(**fields)], sparsity=sparsity)
    return [rung.answer for rung in row.rungs]


def details(sparsity="enable", **fields):
    (row,) = ladder_rows([verdict(**fields)], sparsity=sparsity)
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
    assert holds_two_of_four(dataclasses.replace(HOLDS, wanted=wanted)) is answer


def test_a_row_is_json():
    (row,) = ladder_rows([HOLDS], sparsity="enable")
    assert json.loads(json.dumps(row.to_json()))["gain"] == {
        "answer": "not measured",
        "detail": "not measured",
    }


SPARSE = "sm80_xmma_fprop_sparse_conv_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize64x64x128"
DENSE = "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize64x64x64"


def layer(tactic="", *, nodes=("conv0", "relu0"), kind="CaskConvolution", sparse_weights=None):
    return LayerRecord(" + ".join(nodes), kind, tuple(nodes), tactic, sparse_weights)


def names(*layers):
    return SparsityList(len(layers), layers)


def proved(evidence):
    (row,) = ladder_rows([HOLDS], sparsity="enable", builder="trt", targets=("sm86",), evidence=evidence)
    return row


@pytest.mark.parametrize(
    ("evidence", "listed", "chosen", "detail"),
    [
        pytest.param(
            Evidence(eligible=names("conv0 + relu0"), chosen=names("conv0 + relu0")),
            "yes",
            "yes",
            "the builder chose it",
            id="picked-line",
        ),
        pytest.param(
            Evidence(eligible=names("conv0 + relu0"), chosen=names()),
            "yes",
            "no",
            "not chosen",
            id="picked-empty",
        ),
        pytest.param(
            Evidence(eligible=names("other"), chosen=names("other")), "no", "not reached", "-", id="other"
        ),
        pytest.param(Evidence(layers=(layer(SPARSE),)), "not measured", "yes", SPARSE, id="sparse-tactic"),
        pytest.param(
            Evidence(layers=(layer(DENSE, sparse_weights=True),)),
            "not measured",
            "no",
            "not chosen",
            id="4694-sparse-weights-dense-tactic",
        ),
        pytest.param(
            Evidence(layers=(layer("", sparse_weights=True),)),
            "not measured",
            "no",
            "not chosen: HasSparseWeights does not prove it",
            id="sparse-weights-alone",
        ),
        pytest.param(
            Evidence(layers=(layer("__myelin_CASK_STUB", kind="correlation"),)),
            "not measured",
            "not measured",
            "not measured",
            id="chosen-when-loaded",
        ),
        pytest.param(
            Evidence(kernels=(KernelUse(SPARSE, 1, 5.0, ("conv0",)),), chosen=names()),
            "not measured",
            "yes",
            f"ran {SPARSE}",
            id="a-kernel-that-ran-beats-the-list",
        ),
        pytest.param(
            Evidence(kernels=(KernelUse(DENSE, 1, 5.0),)),
            "not measured",
            "no",
            "no sparse kernel ran at all",
            id="trace-without-layers",
        ),
        pytest.param(
            Evidence(kernels=(KernelUse(SPARSE, 1, 5.0),)),
            "not measured",
            "not measured",
            "not measured",
            id="a-sparse-kernel-of-some-layer",
        ),
        pytest.param(
            Evidence(eligible=SparsityList(3, None), chosen=SparsityList(2, None)),
            "unknown",
            "not measured",
            "not measured",
            id="numbers-without-names",
        ),
        pytest.param(
            Evidence(eligible=SparsityList(39, None), chosen=SparsityList(0, None)),
            "unknown",
            "no",
            "not chosen",
            id="chose-0",
        ),
        pytest.param(
            Evidence(eligible=names("{ForeignNode[a...b]}"), chosen=names("{ForeignNode[a...b]}")),
            "unknown",
            "not measured",
            "not measured",
            id="hidden-in-a-region",
        ),
        pytest.param(
            Evidence(chosen=names(), autotuned=(Autotuned("conv0", ("conv0",), 0.0125, 0.01),)),
            "yes",
            "no",
            "not chosen: dense was 1.25x as fast when the builder timed it: sparse 0.0125 ms, dense 0.01 ms",
            id="the-builder-timed-it",
        ),
    ],
)
def test_what_was_listed_and_chosen(evidence, listed, chosen, detail):
    row = proved(evidence)
    assert (row.listed.answer, row.chosen.answer, row.chosen.detail) == (listed, chosen, detail)


def test_gain_is_what_the_builder_timed():
    row = proved(Evidence(layers=(layer(SPARSE),), autotuned=(Autotuned("conv0", ("conv0",), 0.008, 0.01),)))
    assert (row.gain.answer, row.gain.detail) == (
        "yes",
        "1.25x when the builder timed it: sparse 0.008 ms, dense 0.01 ms",
    )


def test_a_chosen_kernel_overrules_a_rule():
    grouped = verdict(facts={"conv_groups": 2})
    (row,) = ladder_rows([grouped], sparsity="enable", evidence=Evidence(layers=(layer(SPARSE),)))
    assert (row.fits.answer, row.chosen.answer, row.eligible) == ("no", "yes", True)


@pytest.mark.parametrize(
    ("rows", "share", "why"),
    [
        pytest.param([(300, SPARSE), (100, DENSE)], 0.75, "", id="three-quarters"),
        pytest.param([(300, DENSE)], 0.0, "", id="none"),
        pytest.param([(None, SPARSE)], None, "multiply-accumulates of 1 eligible", id="work-not-known"),
        pytest.param([(300, SPARSE), (1, "")], None, "chosen kernel is unknown for 1 of 2", id="one-open"),
        pytest.param([], None, "no weight is eligible", id="nothing-eligible"),
    ],
)
def test_share_of_the_work_that_runs_sparse(rows, share, why):
    verdicts = [verdict(node=f"n{i}", macs=macs) for i, (macs, _) in enumerate(rows)]
    layers = tuple(layer(tactic, nodes=(f"n{i}",)) for i, (_, tactic) in enumerate(rows))
    found, reason = sparse_share(ladder_rows(verdicts, sparsity="enable", evidence=Evidence(layers=layers)))
    assert found == share
    assert why in reason


def test_what_is_not_eligible_does_not_count():
    verdicts = [verdict(macs=100), verdict(macs=900, facts={"dtype": "float32"}, node="other")]
    ladder = ladder_rows(verdicts, sparsity="enable", evidence=Evidence(layers=(layer(SPARSE),)))
    assert sparse_share(ladder) == (1.0, "")


def test_the_unmatched_are_listed():
    verdicts = [HOLDS, verdict(weight="w1", node="conv1")]
    layers = (layer(DENSE), layer(DENSE, nodes=("attention",)), layer("", nodes=("r",), kind="Reformat"))
    evidence = Evidence(layers=layers)
    ladder = ladder_rows(verdicts, sparsity="enable", evidence=evidence)
    assert lost_weights(ladder, evidence) == ("1 weight has no layer of its own in the engine: w1",)
    assert foreign_layers(ladder, evidence) == (
        "1 matrix product of the engine belongs to no weight: attention",
    )


def test_all_layers_fused_away():
    evidence = Evidence(layers=(LayerRecord("__myl_Fc_myl0_1", "kgen", (), "__myl_Fc_0x1"),))
    ladder = ladder_rows([HOLDS, HOLDS], sparsity="enable", evidence=evidence)
    (sentence,) = lost_weights(ladder, evidence)
    assert "all were fused away, into 1 layer without its name" in sentence
    assert ladder[0].chosen.answer == "not measured"


def test_a_row_comes_back_from_json():
    row = proved(Evidence(layers=(layer(SPARSE),)))
    assert LadderRow.from_json(json.loads(json.dumps(row.to_json())), where="m.json") == row
    old = {
        key: value for key, value in row.to_json().items() if key not in ("macs", "node", "source", "basis")
    }
    assert LadderRow.from_json(old, where="m.json").macs is None
    with pytest.raises(InputError, match=r"ladder in m.json is damaged"):
        LadderRow.from_json({**old, "chosen": "yes"}, where="m.json")


def test_nodes_of_one_name_prove_nothing_of_one_another():
    rows = [verdict(weight="w0", macs=1), verdict(weight="w1", macs=1)]
    found = Evidence(chosen=SparsityList(1, ("conv0",)), eligible=SparsityList(1, ("conv0",)))
    ladder = ladder_rows(rows, sparsity="enable", evidence=found)
    assert [row.chosen.answer for row in ladder] == ["not measured"] * 2
    assert [row.chosen.answer for row in with_evidence(ladder, found)] == ["not measured"] * 2
    assert "2 weights share their names" in lost_weights(ladder, found)[0]
    assert ladder_rows(rows[:1], sparsity="enable", evidence=found)[0].chosen.answer == "yes"


@pytest.mark.parametrize("name", ["a,b", "a + b", "a || b", "PWN(a)"])
def test_a_name_that_reads_as_a_list_is_not_called_missing(name):
    (row,) = ladder_rows(
        [verdict(node=name)], sparsity="enable", evidence=Evidence(chosen=SparsityList(2, ("a", "b")))
    )
    assert row.chosen.answer == "not measured"


@pytest.mark.parametrize("tactic", [SPARSE, DENSE])
def test_the_tactic_of_a_region_is_that_of_no_single_node(tactic):
    region = LayerRecord("{ForeignNode[conv0...conv9]}", "conv", ("conv0", "conv9"), tactic)
    assert rungs_of(Evidence((region,)))[4] == "not measured"


def rungs_of(evidence):
    (row,) = ladder_rows([verdict()], sparsity="enable", evidence=evidence)
    return [rung.answer for rung in row.rungs]


@pytest.mark.parametrize(
    "change",
    [
        {"macs": "x"},
        {"macs": 1.5},
        {"weight": 3},
        {"operator": ["Conv"]},
        {"pattern": {"answer": {}, "detail": "2:4"}},
        {"gain": {"answer": ["yes"], "detail": ""}},
        {"chosen": {"answer": "perhaps", "detail": ""}},
    ],
)
def test_a_record_of_other_types_is_damaged(change):
    (row,) = ladder_rows([HOLDS], sparsity="enable")
    written = row.to_json()
    assert LadderRow.from_json(written, where="m.json") == row
    with pytest.raises(InputError, match=r"the ladder in m\.json is damaged"):
        LadderRow.from_json({**written, **change}, where="m.json")
