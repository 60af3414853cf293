"""Weights that verify cannot judge are never passed: plan, status and gate in one matrix, and every way to hide one."""

import itertools

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.report import FAIL_ON
from nm2trt.graph.verify.verify_model import verify_model, without_verdicts
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry

NODE = helper.make_node
RANDOM = np.random.default_rng(7)
FLOAT = TensorProto.FLOAT


def proto(nodes, inputs, stored, *, domains=(), functions=(), plan=None, opset=18):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    made = helper.make_model(graph, opset_imports=opsets, functions=list(functions), ir_version=9)
    if plan is not None:
        made.metadata_props.add(key=METADATA_KEY, value=plan.to_json())
    return made


def matrix(*shape):
    return RANDOM.standard_normal(shape).astype(np.float32)


def two_of_four(rows=16, columns=8):
    weight = np.abs(matrix(rows, columns)) + 1
    weight.reshape(rows // 4, 4, columns)[:, 2:] = 0
    return weight


STATUSES = {
    "holds": ([], two_of_four(), "w"),
    "broken": ([], np.ones((16, 8), np.float32), "w"),
    "not-groupable": ([], np.ones((6, 8), np.float32), "w"),
    "untraceable": (
        [NODE("RandomNormalLike", ["w"], ["noise"]), NODE("Add", ["w", "noise"], ["v"])],
        two_of_four(),
        "v",
    ),
}
# What each status, under each plan, must answer to the gates broken, ineligible, any and none: by hand.
PASSES = {
    ("holds", "none"): "yes no no yes",  # float32: no sparse kernel is known
    ("holds", "sparse"): "yes no no yes",
    ("holds", "dense"): "yes yes yes yes",
    ("broken", "none"): "no no no yes",
    ("broken", "sparse"): "no no no yes",
    ("broken", "dense"): "yes yes yes yes",
    ("not-groupable", "none"): "yes yes no yes",
    ("not-groupable", "sparse"): "yes yes no yes",
    ("not-groupable", "dense"): "yes yes yes yes",
    ("untraceable", "none"): "yes yes no yes",
    ("untraceable", "sparse"): "no no no yes",
    ("untraceable", "dense"): "yes yes no yes",
}


@pytest.mark.parametrize(
    ("status", "planned"), list(itertools.product(STATUSES, ("none", "sparse", "dense")))
)
def test_plan_status_and_gate(status, planned):
    nodes, weight, operand = STATUSES[status]
    good = two_of_four()
    entries = (
        PlanEntry("w", NMPattern(2, 4) if planned == "sparse" else None, "r", weight.shape, 0),
        PlanEntry("good", None, "kept", good.shape, 0),
    )
    made = proto(
        [*nodes, NODE("MatMul", ["x", operand], ["h"]), NODE("MatMul", ["z", "good"], ["y"])],
        {"x": (FLOAT, [1, weight.shape[0]]), "z": (FLOAT, [1, 16])},
        {"w": weight, "good": good},
        plan=None if planned == "none" else Plan(entries, "sr-ste"),
    )
    report = verify_model(made)
    assert without_verdicts(load(made)).mask_sha256 == report.mask_sha256
    answers = []
    for gate in FAIL_ON:
        failing = {verdict.weight for verdict in report.failures(gate)}
        answers.append("no" if "w" in failing else "yes")
    assert " ".join(answers) == PASSES[status, planned]


@pytest.mark.parametrize("gate", FAIL_ON)
def test_a_file_of_which_no_weight_could_be_judged_passes_no_gate(gate):
    nodes, weight, operand = STATUSES["untraceable"]
    report = verify_model(
        proto([*nodes, NODE("MatMul", ["x", operand], ["y"])], {"x": (FLOAT, [1, 16])}, {"w": weight})
    )
    assert (report.judged, report.blind) == (0, True)
    assert report.passed(gate) is (gate == "none")


def test_a_file_without_weights_passes():
    assert verify_model(proto([NODE("Relu", ["x"], ["y"])], {"x": (FLOAT, [1, 4])}, {})).passed("any")


X = {"x": (FLOAT, ["b", 32])}
BRANCHES = [
    helper.make_graph(
        [], name, [], [helper.make_tensor_value_info(f"{name}w", FLOAT, [32, 16])],
        [numpy_helper.from_array(matrix(32, 16), f"{name}w")],
    )
    for name in ("yes", "no")
]  # fmt: skip
SCALED = helper.make_function(
    "local", "Scaled", ["a", "s"], ["b"], [NODE("Mul", ["a", "s"], ["b"])], [helper.make_opsetid("", 18)]
)
READ = NODE("MatMul", ["x", "v"], ["y"])
HIDDEN = {
    "an expert that an input picks": (
        [NODE("Gather", ["w", "i"], ["v"]), READ], {"i": (TensorProto.INT64, [])}, {"w": matrix(4, 32, 16)}, "Gather#0"),
    "columns that an input picks": (
        [NODE("Gather", ["w", "i"], ["v"], axis=1), READ], {"i": (TensorProto.INT64, [8])}, {"w": matrix(32, 16)},
        "Gather#0"),
    "one of two": (
        [NODE("Where", ["i", "w", "other"], ["v"]), READ], {"i": (TensorProto.BOOL, [])},
        {"w": matrix(32, 16), "other": matrix(32, 16)}, "Where#0"),
    "a branch of an If": (
        [NODE("If", ["i"], ["v"], then_branch=BRANCHES[0], else_branch=BRANCHES[1]), READ],
        {"i": (TensorProto.BOOL, [])}, {}, "If#0"),
    "times an input": ([NODE("Mul", ["s", "w"], ["v"]), READ], {"s": (FLOAT, [16])}, {"w": matrix(32, 16)}, "Mul#0"),
    "over an input": ([NODE("Div", ["w", "s"], ["v"]), READ], {"s": (FLOAT, [1])}, {"w": matrix(32, 16)}, "Div#0"),
    "a patch added": ([NODE("Add", ["w", "s"], ["v"]), READ], {"s": (FLOAT, [32, 16])}, {"w": matrix(32, 16)}, "Add#0"),
    "a local function scales it": (
        [NODE("Scaled", ["w", "s"], ["v"], domain="local"), READ], {"s": (FLOAT, [])}, {"w": matrix(32, 16)}, "Mul#0"),
    "dequantised by an input": (
        [NODE("DequantizeLinear", ["w", "s"], ["v"]), READ], {"s": (FLOAT, [])},
        {"w": np.ones((32, 16), np.int8)}, "DequantizeLinear#0"),
    "moved and cast behind the choice": (
        [NODE("Gather", ["w", "i"], ["e"]), NODE("Transpose", ["e"], ["t"]), NODE("Cast", ["t"], ["v"], to=FLOAT), READ],
        {"i": (TensorProto.INT64, [])}, {"w": matrix(4, 16, 32).astype(np.float16)}, "Gather#0"),
    "repeated for each row of a batch": (
        [NODE("Shape", ["x"], ["n"], end=1), NODE("Concat", ["n", "rest"], ["to"], axis=0),
         NODE("Expand", ["w", "to"], ["v"]), NODE("Unsqueeze", ["x", "one"], ["u"]), NODE("MatMul", ["u", "v"], ["y"])],
        {}, {"w": matrix(32, 16), "rest": np.array([32, 16]), "one": np.array([1])}, "Expand#2"),
    "one of a sequence": (
        [NODE("SequenceConstruct", ["w", "other"], ["q"]), NODE("SequenceAt", ["q", "i"], ["v"]), READ],
        {"i": (TensorProto.INT64, [])}, {"w": matrix(32, 16), "other": matrix(32, 16)}, "SequenceAt#1"),
    "a part of a sequence": (
        [NODE("SplitToSequence", ["w", "n"], ["q"]), NODE("SequenceAt", ["q", "i"], ["v"]), READ],
        {"i": (TensorProto.INT64, [])}, {"w": matrix(64, 16), "n": np.array([32, 32])}, "SequenceAt#1"),
    "a constant part of a sequence": (
        [NODE("SplitToSequence", ["w", "n"], ["q"]), NODE("SequenceAt", ["q", "i"], ["v"]), READ],
        {}, {"w": matrix(64, 16), "n": np.array([32, 32]), "i": np.int64(1)}, "SplitToSequence#0 is not evaluated"),
    "a custom operator": ([NODE("MyLinear", ["x", "w"], ["y"], domain="my.ops")], {}, {"w": matrix(32, 16)}, "MyLinear#0"),
    "an operator that ONNX has not": ([NODE("DCNv9", ["x", "w"], ["y"])], {}, {"w": matrix(32, 16)}, "DCNv9#0"),
    "the blocked layout of ONNX Runtime": (
        [NODE("Conv", ["x", "w"], ["y"], domain="com.microsoft.nchwc")], {}, {"w": matrix(16, 32, 1, 1)}, "Conv#0"),
    "a filter times an input": (
        [NODE("Mul", ["w", "s"], ["v"]), NODE("Conv", ["x", "v"], ["y"])], {"s": (FLOAT, [16, 1, 1])},
        {"w": matrix(16, 32, 1)}, "Mul#0"),
    "a recurrent layer's": (
        [NODE("Mul", ["w", "s"], ["v"]), NODE("RNN", ["x", "v", "r"], ["y"], hidden_size=8)], {"s": (FLOAT, [])},
        {"w": matrix(1, 8, 32), "r": matrix(1, 8, 8)}, "Mul#0"),
}  # fmt: skip


@pytest.mark.parametrize("case", HIDDEN)
def test_what_was_not_seen_is_untraceable_with_its_node(case):
    nodes, inputs, stored, named = HIDDEN[case]
    made = proto(
        nodes, X | inputs, stored, domains=("local", "my.ops", "com.microsoft.nchwc"), functions=[SCALED]
    )
    report = verify_model(made)
    assert without_verdicts(load(made)).mask_sha256 == report.mask_sha256
    unseen = [verdict for verdict in report.weights if verdict.pattern == "untraceable"]
    assert len(unseen) == 1
    assert named in unseen[0].sentence
    if stored:
        assert unseen[0].weight == "w"


def test_a_call_is_looked_through_by_its_overload():
    opsets = [helper.make_opsetid("", 18)]
    first, second = (
        helper.make_function("local", "Scaled", ["a", "s"], ["b"], [node], opsets, overload=overload)
        for overload, node in (("1", NODE("Relu", ["s"], ["b"])), ("2", NODE("Mul", ["a", "s"], ["b"])))
    )
    call = NODE("Scaled", ["w", "s"], ["v"], domain="local", overload="2")
    inputs, stored = X | {"s": (FLOAT, [])}, {"w": matrix(32, 16)}
    made = proto([call, READ], inputs, stored, domains=("local",), functions=[first, second])
    made.ir_version = 10  # the first with overloads
    assert [verdict.weight for verdict in verify_model(made).weights] == ["w"]


VISIBLE = {
    "an embedding is the activation": (
        [NODE("Gather", ["table", "i"], ["e"]), NODE("MatMul", ["e", "w"], ["y"])],
        {"i": (TensorProto.INT64, [5])}, {"table": matrix(50, 32), "w": matrix(32, 16)}, ["w"]),
    "a gain on the activation": (
        [NODE("Mul", ["x", "gain"], ["h"]), NODE("MatMul", ["h", "w"], ["y"])], {},
        {"gain": matrix(32), "w": matrix(32, 16)}, ["w"]),
    "attention of activations": (
        [NODE("Add", ["x", "place"], ["h"]), NODE("Transpose", ["h"], ["t"]), NODE("MatMul", ["x", "t"], ["y"])], {},
        {"place": matrix(1, 32)}, []),
    "a rotary table": (
        [NODE("RotaryEmbedding", ["x", "p", "c", "s"], ["y"], domain="com.microsoft")],
        {"p": (TensorProto.INT64, [1, 4])}, {"c": matrix(64, 16), "s": matrix(64, 16)}, []),
    "a scan from a state of zeros, as in Mamba": (
        [NODE("Mul", ["zeros", "decay"], ["kept"]), NODE("Add", ["kept", "u"], ["h"]), NODE("MatMul", ["x", "h"], ["y"])],
        {"decay": (FLOAT, [32, 8]), "u": (FLOAT, [32, 8])}, {"zeros": np.zeros((32, 8), np.float32)}, []),
    "scores under a mask": (
        [NODE("Transpose", ["x"], ["t"]), NODE("MatMul", ["x", "t"], ["q"]), NODE("Where", ["m", "q", "low"], ["k"]),
         NODE("MatMul", ["k", "x"], ["y"])], {"m": (TensorProto.BOOL, ["b", "b"])}, {"low": np.float32(-1e4)}, []),
}  # fmt: skip


@pytest.mark.parametrize("case", VISIBLE)
def test_an_activation_is_no_weight(case):
    nodes, inputs, stored, names = VISIBLE[case]
    made = proto(nodes, X | inputs, stored, domains=("com.microsoft",))
    assert [verdict.weight for verdict in verify_model(made).weights] == names


def texts(form):
    if form == "value_strings":
        return NODE("Constant", [], ["t"], value_strings=[b"1.0"] * 16)
    if form == "value_string":
        return NODE("Constant", [], ["t"], value_string=b"1.0")
    return NODE("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.STRING, [16], [b"1.0"] * 16))


@pytest.mark.parametrize("form", ["value_strings", "value_string", "value", "initializer"])
def test_text_in_front_of_a_weight_costs_one_row(form):
    nodes = [
        *([] if form == "initializer" else [texts(form)]),
        NODE("Cast", ["t"], ["c"], to=FLOAT),
        NODE("Reshape", ["c", "shape"], ["v"]),
        NODE("MatMul", ["x", "v"], ["h"]),
        NODE("MatMul", ["h", "w"], ["y"]),
    ]
    made = proto(nodes, {"x": (FLOAT, [1, 4])}, {"shape": np.array([4, 4]), "w": two_of_four(4, 8)})
    if form == "initializer":
        made.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [16], [b"1.0"] * 16))
    first, second = verify_model(made).weights
    assert (first.pattern, second.pattern) == ("untraceable", "holds")
    assert "holds text" in first.sentence


def quantised(*, opset, zero, output_dtype=0, moves=()):
    """Return a quantised Conv between pairs, with operators that only move numbers in front of it."""
    stored = {"w": two_of_four(4, 8).T.reshape(8, 4, 1, 1).astype(np.int8), "s": np.float32(0.1)}
    stored |= {"ws": np.full(8, 0.1, np.float32), "z": np.int8(0)}
    stored |= {"from": np.array([0]), "to": np.array([4]), "axes": np.array([3])}
    pair = ["s", "z"] if zero else ["s"]
    kind = {"output_dtype": output_dtype} if output_dtype else {}
    nodes = [
        NODE("QuantizeLinear", ["x", *pair], ["q"], **kind),
        NODE("DequantizeLinear", ["q", *pair], ["d"]),
    ]
    value = "d"
    for number, (operator, rest, attributes) in enumerate(moves):
        nodes.append(NODE(operator, [value, *rest], [f"m{number}"], **attributes))
        value = f"m{number}"
    nodes += [
        NODE("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        NODE("Conv", [value, "wd"], ["c"], name="conv"),
        NODE("QuantizeLinear", ["c", *pair], ["cq"], **kind),
        NODE("DequantizeLinear", ["cq", *pair], ["y"]),
    ]
    return proto(nodes, {"x": (FLOAT, [1, 4, 4, 8])}, stored, opset=opset)


MOVES = {
    "slice": ("Slice", ["from", "to", "axes"], {}),
    "transpose": ("Transpose", [], {"perm": [0, 1, 3, 2]}),
    "pool": ("MaxPool", [], {"kernel_shape": [2, 2]}),
    "identity": ("Identity", [], {}),
}


@pytest.mark.parametrize("moves", [(), *((name,) for name in MOVES), ("slice", "transpose", "pool", "slice")])
def test_island_and_dtype_agree_behind_moving_operators(moves):
    report = verify_model(quantised(opset=17, zero=True, moves=[MOVES[name] for name in moves]))
    (verdict,) = report.weights
    assert (verdict.facts.dtype, verdict.facts.island, report.islands) == ("int8", "", ())


def test_output_dtype_says_the_type_where_no_zero_point_does():
    (verdict,) = verify_model(quantised(opset=21, zero=False, output_dtype=TensorProto.INT8)).weights
    assert (verdict.facts.dtype, verdict.facts.island) == ("int8", "")
    report = verify_model(quantised(opset=21, zero=False))  # ONNX's default
    assert [island.code for island in report.islands] == ["unsigned"]
