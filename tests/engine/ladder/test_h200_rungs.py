"""The upper rungs and `explain` on cut logs of TensorRT 8.6.0 on an H200."""

import pytest

from nm2trt.engine.evidence.evidence import Autotuned, Evidence, SparsityList
from nm2trt.engine.ladder.chosen_kernels import chosen_speed_ups
from nm2trt.engine.ladder.explain import explain
from nm2trt.engine.ladder.ladder import ladder_rows, sparse_share
from nm2trt.engine.ladder.unmatched import listed_anyway, lost_weights
from nm2trt.engine.twin.layer_changes import layer_changes
from tests.engine.evidence.test_h200_logs import cut
from tests.engine.ladder.test_ladder import verdict

LARGE = {"shape": (512, 512, 3, 3)}


def row_of(node, log, **facts):
    (row,) = ladder_rows(
        [verdict(node=node, weight=f"{node}.weight", macs=10, facts={**LARGE, **facts})],
        sparsity="enable", builder="trt", targets=("sm90",), version="8.6.0", evidence=cut(log),
    )  # fmt: skip
    return row


def reasons(row, evidence):
    return explain("m.engine", [row], evidence, builder="trt", targets=("sm90",), built=True)


@pytest.mark.parametrize(
    ("node", "log", "listed", "chosen", "gain"),
    [
        pytest.param(
            "layer1.0.conv2", "int8", "listed", "sm80_xmma_fprop_avdt_sparse_int8int8_",
            "1.39x when the builder timed it: sparse 0.01186 ms, dense 0.01646 ms", id="sparse-won",
        ),
        pytest.param(
            "layer1.0.conv1", "int8", "listed",
            "not chosen: dense was 1.23x as fast when the builder timed it: sparse 0.01088 ms, dense 0.00883 ms", "-",
            id="dense-won",
        ),
        pytest.param("layer1.1.conv2", "int8", "listed", "sm80_xmma_fprop_avdt_sparse", "not measured", id="cached-and-chosen"),
        pytest.param(
            "layer1.0.conv1", "fp16", "timed, though not listed",
            "not chosen: dense was 1.01x as fast when the builder timed it: sparse 0.009163 ms, dense 0.009068 ms", "-",
            id="a-gemm-won",
        ),
        pytest.param(
            "layer3.1.conv3", "fp16", "not listed: a GEMM kernel won", "not chosen: an equal layer, or the timing cache, had its timings",
            "-", id="a-gemm-won-from-the-cache",
        ),
        pytest.param("inside", "foreign_node", "not listed: inside a foreign node", "-", "-", id="foreign-node"),
    ],
)  # fmt: skip
def test_how_far_a_weight_gets(node, log, listed, chosen, gain):
    row = row_of(node, log)
    assert (row.listed.detail, row.gain.detail) == (listed, gain)
    assert row.chosen.detail.startswith(chosen)


@pytest.mark.parametrize(
    ("node", "log", "code", "words"),
    [
        ("layer1.0.conv1", "int8", "not-chosen", "sparse 0.01088 ms, dense 0.00883 ms"),
        ("layer1.0.conv1", "fp16", "not-chosen", "sparse 0.009163 ms, dense 0.009068 ms"),
        ("layer3.1.conv3", "fp16", "gemm-kernel", "a dense GEMM kernel runs it"),
        ("inside", "foreign_node", "foreign-node", "part of a foreign node"),
    ],
)
def test_what_explain_says(node, log, code, words):
    first = reasons(row_of(node, log), cut(log)).reasons[0]
    assert first.code == code
    assert words in first.sentence
    assert first.remedy


def test_what_the_builder_left_dense_counts_for_no_gain():
    dense, sparse = row_of("layer1.0.conv1", "int8"), row_of("layer1.0.conv2", "int8")
    assert "bound" not in [reason.code for reason in reasons(dense, cut("int8")).reasons]
    both = explain("m.engine", [dense, sparse], cut("int8"), builder="trt", targets=("sm90",), built=True)
    assert "50 % of the multiply-accumulates run sparse" in both.reasons[-1].sentence
    assert "the whole would gain 1.33x" in both.reasons[-1].sentence


def test_weights_of_a_foreign_node_have_one_sentence_and_no_share():
    row, evidence = row_of("inside", "foreign_node"), cut("foreign_node")
    # The log and the inspector both tell the one layer.
    twice = Evidence.merged((evidence, evidence))
    (sentence,) = lost_weights([row], twice)
    assert "all were fused away, into 1 foreign node" in sentence
    assert sparse_share([row]) == (0.0, "")


def test_the_builder_lists_what_a_rule_excludes():
    """Its output is float: TensorRT 8.6.0 lists it as eligible, and times no sparse kernel."""
    evidence = cut("int8")
    island = {
        "operator": "MatMul",
        "convolution": False,
        "shape": (2048, 1000),
        "axis": 0,
        "island": "float out",
    }
    row = row_of("y", "int8", **island)
    assert row.dtype.answer == "no"
    (sentence,) = listed_anyway([row], evidence)
    assert sentence.startswith("the builder lists y.weight as eligible against a rule")
    assert sentence.endswith("it timed dense kernels only, as the rule says")
    wrong = Evidence(eligible=SparsityList(1, ("y",)), autotuned=(Autotuned("y", ("y",), 0.01, 0.02),))
    assert listed_anyway([row], wrong)[0].endswith("so the rule does not hold in this version")
    untimed = Evidence(eligible=SparsityList(1, ("y",)))
    assert listed_anyway([row], untimed)[0].endswith("the log has no timings of it")
    assert listed_anyway([row], Evidence()) == ()
    assert listed_anyway([row_of("layer1.0.conv1", "int8")], evidence) == ()


def test_how_much_faster_the_chosen_kernels_are():
    rows = [row_of(node, "int8") for node in ("layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv2")]
    (sentence,) = chosen_speed_ups(rows, cut("int8"))
    assert "chosen for 2 weights; for the 1 that" in sentence
    assert "1.39x to 1.39x" in sentence
    assert chosen_speed_ups(rows[:1], cut("int8")) == ()


@pytest.mark.parametrize(
    ("off", "on", "words"),
    [
        pytest.param({"a": 1.0}, {"a": 0.5}, None, id="the-same-layers"),
        pytest.param(
            {"a": 1.0, "b": 1.0},
            {"a": 0.8, "b": 1.0, "Reformatting CopyNode for Input Tensor 0 to a": 0.15},
            ("from 2 layers to 3: 1 added (of them 1 reformat)", "the added layers eat most of what is saved"),
            id="reformats-eat-it",
        ),
        pytest.param(
            {"a": 1.0}, {"a": 0.8, "Reformatting CopyNode for Input Tensor 0 to a": 0.0}, ("cost +0.000 ms",), id="free"
        ),
        pytest.param({"a": 1.0, "b": 0.2}, {"a": 0.9, "b2": 0.1}, ("1 dropped cost -0.100 ms",), id="cheaper"),
    ],
)  # fmt: skip
def test_layers_that_the_flag_adds(off, on, words):
    found = layer_changes(off, on)
    assert (not found) if words is None else all(word in found[0] for word in words)
    assert ("eat" in "".join(found)) == (words is not None and len(words) > 1)
