"""Branches that meet in a sum: which are merged, which are left, and that nothing but rounding changes."""

import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from nm2trt.errors import DifferenceError
from nm2trt.graph.execute.output_comparison import Reference, run_reference
from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.storage.model import Model, metadata
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry
from tests.graph.fuse.test_fuse_model import TWO_FOUR, Net, fused, operators, reasons, sparse_weight, weight

X = [1, 16, 9, 8]


def three_branches(net, channels=16, groups=1, x="x"):
    """The block of a RepVGG: 3x3, 1x1 and identity, each with its BatchNormalization."""
    a = net.norm(
        net.conv(x, "a", (channels, channels // groups, 3, 3), bias=False, pads=[1] * 4, group=groups),
        "na",
        channels,
    )
    b = net.norm(
        net.conv(x, "b", (channels, channels // groups, 1, 1), bias=False, group=groups), "nb", channels
    )
    return a, b, net.norm(x, "nc", channels)


@pytest.mark.parametrize("groups", [1, 4], ids=["plain", "grouped"])
@pytest.mark.parametrize("how", ["nested-add", "nested-other-way", "sum"])
def test_a_repvgg_block_becomes_one_convolution(tmp_path, groups, how):
    net = Net()
    a, b, c = three_branches(net, groups=groups)
    if how == "sum":
        y = net.node("Sum", [c, a, b], "y")
    elif how == "nested-add":
        y = net.node("Add", [net.node("Add", [a, b], "ab"), c], "y")
    else:
        y = net.node("Add", [c, net.node("Add", [b, a], "ab")], "y")
    report, after = fused(tmp_path, net.model(y, X))
    assert operators(after) == ["Conv"]
    assert sorted(t.name for t in after.graph.initializer) == ["a.bias", "a.weight"]
    assert (report.batchnorms_folded, report.branches_merged) == (2, 2)
    assert report.declined == ()
    assert report.relation == "merged"


def test_a_chain_of_blocks_is_merged_block_by_block(tmp_path):
    net = Net()
    x = "x"
    for block in range(3):
        a = net.conv(x, f"{block}.a", (16, 16, 3, 3), pads=[1] * 4)
        b = net.conv(x, f"{block}.b", (16, 16, 1, 1))
        x = net.node("Relu", [net.node("Sum", [a, b, x], f"{block}.sum")], f"{block}.relu")
    report, after = fused(tmp_path, net.model(x, X), tolerance=1e-4)
    assert operators(after) == ["Conv", "Relu"] * 3
    assert report.branches_merged == 6


@pytest.mark.parametrize(
    ("kernel", "attributes"),
    [
        pytest.param((3, 1), {"pads": [1, 0, 1, 0]}, id="3x1"),
        pytest.param((1, 3), {"pads": [0, 1, 0, 1]}, id="1x3"),
        pytest.param((3, 3), {"pads": [1] * 4}, id="3x3"),
        pytest.param((2, 2), {"pads": [1, 0, 0, 1]}, id="even"),
        pytest.param((1, 1), {}, id="1x1"),
        pytest.param((3, 5), {"auto_pad": "SAME_UPPER"}, id="auto-pad"),
        pytest.param((2, 4), {"auto_pad": "SAME_LOWER"}, id="auto-pad-lower"),
    ],
)
def test_a_smaller_kernel_is_placed_where_its_padding_puts_it(tmp_path, kernel, attributes):
    net = Net()
    large = net.conv("x", "large", (8, 16, 5, 5), pads=[2] * 4)
    small = net.conv("x", "small", (8, 16, *kernel), **attributes)
    report, after = fused(tmp_path, net.model(net.node("Add", [small, large], "y"), X))
    assert operators(after) == ["Conv"]
    assert after.graph.node[0].input[1] == "large.weight"
    assert report.merges[0].branches == ("small",)


@settings(max_examples=35, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_merged_computes_the_same(tmp_path_factory, data):
    """Two convolutions of any geometry: either merged without a difference, or left as they are."""
    rank = data.draw(st.sampled_from([1, 2]))
    group = data.draw(st.sampled_from([1, 2]))
    sizes = [data.draw(st.integers(7, 9)) for _ in range(rank)]
    strides = [data.draw(st.integers(1, 2)) for _ in range(rank)]
    autos = [
        data.draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])) for _ in "ab"
    ]
    # ONNX Runtime refuses a dilation where it is to find the padding itself.
    most = 1 if any(auto.startswith("SAME") for auto in autos) else 2
    dilations = [data.draw(st.integers(1, most)) for _ in range(rank)]
    net = Net()
    outputs = []
    reach = None
    for name, auto in zip("ab", autos, strict=True):
        kernel = [data.draw(st.integers(1, 3)) for _ in range(rank)]
        taps = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        attributes = {"group": group, "strides": strides, "dilations": dilations}
        if auto != "NOTSET":
            attributes["auto_pad"] = auto
        else:
            before = [data.draw(st.integers(0, 2)) for _ in range(rank)]
            # The output sizes agree, so that the sum is valid, wherever the kernels lie.
            free = [data.draw(st.integers(0, 2)) for _ in range(rank)]
            ends = free if reach is None else [r + t - b for r, t, b in zip(reach, taps, before, strict=True)]
            assume(min(ends) >= 0)
            attributes["pads"] = before + ends
            reach = [b + e - t for b, e, t in zip(before, ends, taps, strict=True)]
        outputs.append(net.conv("x", name, (4, 4 // group, *kernel), **attributes))
    folder = tmp_path_factory.mktemp("m")
    proto = net.model(net.node("Add", outputs, "y"), [1, 4, *sizes])
    shapes = onnx.shape_inference.infer_shapes(proto).graph.value_info
    dims = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in shapes}
    assume(dims["a"] == dims["b"])
    report, after = fused(folder, proto)
    assert report.branches_merged + len(report.declined) == 1
    assert len(after.graph.node) == (1 if report.branches_merged else 3)


LEFT = [
    pytest.param(
        (8, 16, 3, 3), {"pads": [2] * 4, "dilations": [2, 2]}, r"dilations are \[2, 2\]", id="dilation"
    ),
    pytest.param((8, 8, 3, 3), {"pads": [1] * 4, "group": 2}, r"in 2 groups, a one of \[8, 16", id="groups"),
    pytest.param((1, 16, 3, 3), {"pads": [1] * 4}, r"a weight of shape \[1, 16, 3, 3\]", id="channels"),
    pytest.param((8, 16, 1, 5), {"pads": [0, 2, 0, 2]}, "does not lie inside that of", id="not-nested"),
]


@pytest.mark.parametrize(("shape", "attributes", "reason"), LEFT)
def test_branches_that_do_not_fit_say_why(tmp_path, shape, attributes, reason):
    net = Net()
    a = net.conv("x", "a", (8, 16, 3, 3), pads=[1] * 4)
    b = net.conv("x", "b", shape, **attributes)
    report, after = fused(tmp_path, net.model(net.node("Add", [a, b], "y"), X))
    assert operators(after) == ["Conv", "Conv", "Add"]
    assert [item.node for item in report.declined] == ["b"]
    assert re.search(reason, reasons(report)[0])


def test_strides_that_differ_are_declined(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 1, 1), strides=[2, 2])
    b = net.conv("x", "b", (8, 16, 5, 4))
    onnx.save(net.model(net.node("Add", [a, b], "y"), X), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert reasons(report) == ["its strides are [2, 2], those of b [1, 1]"]


def test_an_identity_would_break_a_sparse_convolution(tmp_path):
    net = Net()
    sparse, _ = sparse_weight(16, 16, 3, 3)
    a = net.conv("x", "a", sparse.shape, weight=sparse, pads=[1] * 4)
    proto = net.model(net.node("Add", [a, "x"], "y"), X)
    report, after = fused(tmp_path, proto)
    assert operators(after) == ["Conv", "Add"]
    (reason,) = reasons(report)
    assert re.fullmatch(
        r"merged with a it would break 2:4 in \d+ of 576 groups; --allow-broken merges it anyway", reason
    )
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": 1}

    report, after = fused(tmp_path, proto, allow_broken=True)
    assert operators(after) == ["Conv"]
    assert report.merges[0].broken
    assert verify_model(tmp_path / "b.onnx").counts == {"broken": 1}


def test_two_sparse_branches_and_an_identity_keep_the_identity_apart(tmp_path):
    net = Net()
    sparse, mask = sparse_weight(16, 16, 3, 3)
    other = (np.random.default_rng(9).standard_normal(sparse.shape) * mask).astype(np.float32)
    a = net.norm(net.conv("x", "a", sparse.shape, weight=sparse, pads=[1] * 4), "na", 16)
    b = net.norm(net.conv("x", "b", sparse.shape, weight=other, pads=[1] * 4), "nb", 16)
    y = net.node("Add", [net.node("Add", ["x", a], "first"), b], "y")
    report, after = fused(tmp_path, net.model(y, X))
    assert sorted(operators(after)) == ["Add", "Conv"]
    assert (report.branches_merged, len(report.declined)) == (1, 1)
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": 1}


def test_masks_of_their_own_are_not_merged(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 3, 3), weight=sparse_weight(8, 16, 3, 3, seed=1)[0], pads=[1] * 4)
    b = net.conv("x", "b", (8, 16, 3, 3), weight=sparse_weight(8, 16, 3, 3, seed=2)[0], pads=[1] * 4)
    report, after = fused(tmp_path, net.model(net.node("Add", [a, b], "y"), X))
    assert operators(after) == ["Conv", "Conv", "Add"]
    assert "it would break 2:4 in" in reasons(report)[0]


@pytest.mark.parametrize("planned", [True, False], ids=["by-plan", "found"])
def test_a_pattern_other_than_2_4_is_kept_too(tmp_path, planned):
    net = Net()
    rng = np.random.default_rng(0)
    dense = rng.standard_normal((8, 16, 1, 1)).astype(np.float32)
    four_of_eight = dense.copy()
    four_of_eight.reshape(8, 2, 8)[:, :, 4:] = 0
    a = net.conv("x", "a", dense.shape, weight=four_of_eight)
    b = net.conv("x", "b", dense.shape, weight=dense)
    pattern = TWO_FOUR.parse("4:8")
    plan = Plan((PlanEntry("a.weight", pattern, "planned", dense.shape, 1),), "x")
    notes = [(METADATA_KEY, plan.to_json())] if planned else []
    report, _ = fused(tmp_path, net.model(net.node("Add", [a, b], "y"), X, notes=notes))
    assert "it would break 4:8" in reasons(report)[0]


def test_a_plan_that_wants_it_dense_lets_a_pattern_go(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 1, 1), weight=sparse_weight(8, 16, 1, 1)[0])
    b = net.conv("x", "b", (8, 16, 1, 1))
    plan = Plan((PlanEntry("a.weight", None, "dense", (8, 16, 1, 1), 1),), "x")
    proto = net.model(net.node("Add", [a, b], "y"), X, notes=[(METADATA_KEY, plan.to_json())])
    report, after = fused(tmp_path, proto)
    assert report.branches_merged == 1
    entries = Plan.from_json(metadata(after)[METADATA_KEY]).entries
    assert [(e.weight, e.pattern) for e in entries] == [("a.weight", None)]


def test_what_is_no_branch_stays_in_the_sum(tmp_path):
    net = Net()
    a = net.conv("x", "a", (16, 16, 3, 3), pads=[1] * 4)
    b = net.conv("x", "b", (16, 16, 1, 1))
    other = net.node("Relu", ["x"], "relu")
    offset = net.random("offset", 16, 1, 1)
    y = net.node("Add", [net.node("Add", [net.node("Add", [other, a], "s1"), offset], "s2"), b], "y")
    report, after = fused(tmp_path, net.model(y, X))
    assert operators(after) == ["Conv", "Relu", "Add", "Add"]
    assert report.branches_merged == 1


def test_branches_of_two_inputs_are_merged_each_for_itself(tmp_path):
    net = Net()
    z = net.node("Relu", ["x"], "z")
    parts = [
        net.conv("x", "x1", (8, 16, 3, 3), pads=[1] * 4),
        net.conv(z, "z1", (8, 16, 3, 3), pads=[1] * 4),
        net.conv("x", "x2", (8, 16, 1, 1)),
        net.conv(z, "z2", (8, 16, 1, 1)),
    ]
    report, after = fused(tmp_path, net.model(net.node("Sum", parts, "y"), X))
    assert operators(after) == ["Relu", "Conv", "Conv", "Sum"]
    assert report.branches_merged == 2


def test_a_second_reader_or_an_output_leaves_a_branch_alone(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 1, 1))
    b = net.conv("x", "b", (8, 16, 1, 1))
    c = net.conv("x", "c", (8, 16, 1, 1))
    total = net.node("Sum", [a, b, c], "sum")
    y = net.node("Mul", [total, net.node("Relu", [b], "relu")], "y")
    report, after = fused(tmp_path, net.model(y, X, outputs=("c",)))
    assert sorted(reasons(report)) == ["'c' is an output of the model", "relu reads 'b' too"]
    assert report.branches_merged == 0
    assert len(after.graph.node) == 6


def test_a_branch_that_is_added_to_itself_is_left(tmp_path):
    net = Net()
    a = net.conv("x", "a", (16, 16, 1, 1))
    report, after = fused(tmp_path, net.model(net.node("Add", [a, a], "y"), X))
    assert operators(after) == ["Conv", "Add"]
    assert set(reasons(report)) == {"y reads 'a' twice"}


def test_a_batchnorm_behind_the_merged_sum_is_folded_too(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 3, 3), pads=[1] * 4)
    b = net.conv("x", "b", (8, 16, 1, 1))
    y = net.norm(net.node("Add", [a, b], "sum"), "bn", 8)
    report, after = fused(tmp_path, net.model(y, X))
    assert operators(after) == ["Conv"]
    assert report.merges[0].weight == "a.weight"
    assert np.isfinite(weight(after, "a.weight")).all()


def test_a_sum_that_overflows_fp16_is_declined(tmp_path):
    net = Net(dtype=np.float16)
    large = np.full((8, 16, 1, 1), 4e4, np.float16)
    parts = [net.conv("x", name, large.shape, weight=large) for name in "ab"]
    onnx.save(net.model(net.node("Add", parts, "y"), X), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx", compare=False)
    assert reasons(report) == ["the merged weight up to 8e+04 overflows float16"]


def test_an_identity_needs_as_many_channels(tmp_path):
    net = Net()
    a = net.conv("x", "a", (1, 16, 1, 1))
    report, _ = fused(tmp_path, net.model(net.node("Add", [a, "x"], "y"), X))
    assert reasons(report) == ["a turns 16 channels into 1"]


def test_same_padding_with_a_stride_needs_the_size(tmp_path):
    net = Net()
    a = net.conv("x", "a", (8, 16, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    b = net.conv("x", "b", (8, 16, 1, 1), strides=[2, 2])
    free = net.model(net.node("Add", [a, b], "y"), [1, 16, "h", "w"])
    report, _ = fused(tmp_path, free, x=np.ones((1, 16, 8, 8), np.float32))
    assert reasons(report) == ["the padding (SAME_UPPER of a) depends on sizes that the model does not tell"]
    report, after = fused(tmp_path, net.model("y", [1, 16, 8, 8]))
    assert operators(after) == ["Conv"]


def test_a_difference_is_an_error_and_writes_nothing(tmp_path):
    # A planted fault: the reference belongs to another model.
    net, other = Net(), Net()
    onnx.save(net.model(net.conv("x", "y", (8, 16, 1, 1)), X), tmp_path / "a.onnx")
    proto = other.model(other.conv("x", "y", (8, 16, 1, 1), weight=np.ones((8, 16, 1, 1), np.float32)), X)
    reference = run_reference(tmp_path / "a.onnx")
    with pytest.raises(DifferenceError, match="before and after: output 'y' differs by"):
        reference.compare(Model(proto, None, tmp_path))


def test_outputs_that_were_not_compared_say_why(tmp_path):
    net = Net()
    y = net.node("Identity", [net.conv("x", "a", (8, 16, 1, 1))], "y")
    net.nodes[-1].domain = "mine"
    proto = net.model(y, X)
    proto.opset_import.add(domain="mine", version=1)
    onnx.save(proto, tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert report.not_measured.startswith("outputs were not compared: ONNX Runtime cannot load")
    assert report.differences == ()
    assert Reference({}, {}, "why").compare(Model(proto, None, None)).sentence == "why"


def test_a_thousand_nodes_are_fused(tmp_path):
    net = Net()
    x = "x"
    small = np.full((4, 4, 1, 1), 0.1, np.float32)
    for block in range(250):
        a = net.conv(x, f"{block}.a", small.shape, weight=small, bias=False)
        b = net.conv(x, f"{block}.b", small.shape, weight=small, bias=False)
        x = net.node("Relu", [net.node("Add", [a, b], f"{block}.add")], f"{block}.relu")
    onnx.save(net.model(x, [1, 4, 2, 2]), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx", compare=False)
    assert (report.nodes_before, report.nodes_after, report.branches_merged) == (1000, 500, 250)
