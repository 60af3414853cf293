"""fuse_model: BatchNormalizations, masks and branches become one weight; nothing else moves."""

import json

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.errors import DifferenceError, InputError
from nm2trt.graph.execute.output_comparison import run_reference
from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.storage.model import Model, load, metadata
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry

NODE = helper.make_node
TWO_FOUR = NMPattern(2, 4)


class Net:
    """Collects nodes and weights; every weight is drawn from a seed of its own."""

    def __init__(self, opset=18, dtype=np.float32, ir_version=9):
        self.nodes, self.weights, self.opset, self.dtype, self.ir = [], [], opset, dtype, ir_version
        self.values = []

    def tensor(self, name, array):
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, name, *shape, low=None):
        rng = np.random.default_rng(sum(map(ord, name)))
        array = rng.standard_normal(shape) if low is None else rng.uniform(low, low + 1.5, shape)
        return self.tensor(name, array.astype(self.dtype))

    def node(self, operator, inputs, name, **attributes):
        self.nodes.append(NODE(operator, inputs, [name], name, **attributes))
        return name

    def conv(self, x, name, shape, *, bias=True, weight=None, operator="Conv", **attributes):
        w = self.random(f"{name}.weight", *shape) if weight is None else self.tensor(f"{name}.weight", weight)
        channels = shape[0] if operator == "Conv" else shape[1] * attributes.get("group", 1)
        inputs = [x, w] + ([self.random(f"{name}.bias", channels)] if bias else [])
        return self.node(operator, inputs, name, **attributes)

    def norm(self, x, name, channels, *, outputs=1, **replaced):
        parts = {
            "scale": self.random(f"{name}.scale", channels),
            "shift": self.random(f"{name}.shift", channels),
            "mean": self.random(f"{name}.mean", channels),
            "var": self.random(f"{name}.var", channels, low=0.5),
        }
        attributes = {k: v for k, v in replaced.items() if k not in parts}
        for part, array in replaced.items():
            if part in parts:
                self.weights = [w for w in self.weights if w.name != f"{name}.{part}"]
                self.tensor(f"{name}.{part}", np.asarray(array, self.dtype))
        extra = [f"{name}.out{i}" for i in range(1, outputs)]
        self.nodes.append(
            NODE("BatchNormalization", [x, *parts.values()], [name, *extra], name, **attributes)
        )
        return name

    def model(self, output, shape, outputs=(), notes=()):
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", kind, shape)],
            [helper.make_tensor_value_info(name, kind, [None] * len(shape)) for name in (output, *outputs)],
            self.weights,
            value_info=self.values,
        )
        proto = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir
        )
        for key, value in notes:
            proto.metadata_props.add(key=key, value=value)
        return proto


def run(path, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})


def fused(tmp_path, proto, *, x=None, tolerance=2e-5, **options):
    """Fuse, compare with the unfused model node by node in ONNX Runtime, and fuse again."""
    source, target, again = (tmp_path / name for name in ("a.onnx", "b.onnx", "c.onnx"))
    onnx.save(proto, source)
    report = fuse_model(source, target, **options)
    after = onnx.load(target)
    onnx.checker.check_model(after, full_check=True)
    if x is None:
        dims = proto.graph.input[0].type.tensor_type.shape.dim
        shape = [d.dim_value or 2 for d in dims]
        x = np.random.default_rng(5).standard_normal(shape)
        x = x.astype(helper.tensor_dtype_to_np_dtype(proto.graph.input[0].type.tensor_type.elem_type))
    for before, now in zip(run(source, x), run(target, x), strict=True):
        scale = max(1e-6, float(np.abs(before).max()))
        assert float(np.abs(before.astype(np.float64) - now.astype(np.float64)).max()) <= tolerance * scale
    second = fuse_model(target, again, **options)
    assert (second.batchnorms_folded, second.branches_merged, second.constants_evaluated) == (0, 0, 0)
    assert again.read_bytes() == target.read_bytes(), "fusing again changes nothing"
    return report, after


def operators(proto):
    return [node.op_type for node in proto.graph.node]


def weight(proto, name):
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)


def reasons(report):
    return [item.reason for item in report.declined]


FOLDS = [
    pytest.param("Conv", (8, 16, 3, 3), {"pads": [1] * 4}, [2, 16, 7, 7], 8, id="conv"),
    pytest.param("Conv", (8, 4, 3, 2), {"group": 4, "strides": [2, 1]}, [1, 16, 9, 7], 8, id="conv-grouped"),
    pytest.param("Conv", (6, 4, 5), {}, [2, 4, 11], 6, id="conv1d"),
    pytest.param("Conv", (4, 2, 2, 2, 2), {}, [1, 2, 4, 4, 4], 4, id="conv3d"),
    pytest.param("ConvTranspose", (8, 5, 3, 3), {"strides": [2, 2]}, [1, 8, 5, 5], 5, id="transpose"),
    pytest.param("ConvTranspose", (8, 3, 2, 2), {"group": 4}, [1, 8, 5, 5], 12, id="transpose-grouped"),
]


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize(("operator", "shape", "attributes", "x", "channels"), FOLDS)
def test_a_batchnorm_becomes_part_of_the_convolution(
    tmp_path, operator, shape, attributes, x, channels, bias
):
    net = Net()
    y = net.conv("x", "conv", shape, operator=operator, bias=bias, **attributes)
    report, after = fused(tmp_path, net.model(net.norm(y, "bn", channels, epsilon=1e-3), x))
    assert operators(after) == [operator]
    assert [t.name for t in after.graph.initializer] == ["conv.weight", "conv.bias"]
    assert after.graph.node[0].output == ["bn"]
    assert (report.batchnorms_folded, report.relation, report.declined) == (1, "equal", ())
    assert report.mask_sha256 == report.parent_mask_sha256
    assert report.differences[0].max_relative < 1e-5


def test_nothing_that_was_found_before_is_kept_in_an_open_model():
    net = Net()
    y = net.node("Mul", [net.random("mask", 8, 16, 1, 1), net.random("stored", 8, 16, 1, 1)], "masked")
    made = net.model(net.norm(net.node("Conv", ["x", y], "c"), "bn", 8), [1, 16, 4, 4])
    opened = load(made)
    before = verify_model(opened)
    fuse_model(opened, None)
    after = verify_model(opened)
    again = verify_model(opened.proto.SerializeToString())
    assert after.weights == again.weights != before.weights


@pytest.mark.parametrize(
    ("attributes", "shape", "addend"),
    [
        pytest.param({"transB": 1, "alpha": 0.5, "beta": 2.0}, (6, 10), (6,), id="transposed"),
        pytest.param({"beta": 0.25}, (10, 6), (1, 6), id="row"),
        pytest.param({"beta": 3.0}, (10, 6), (), id="scalar"),
        pytest.param({"alpha": 2.0}, (10, 6), None, id="none"),
    ],
)
def test_a_batchnorm_becomes_part_of_a_gemm(tmp_path, attributes, shape, addend):
    net = Net()
    inputs = ["x", net.random("w", *shape)] + ([net.random("c", *addend)] if addend is not None else [])
    y = net.node("Gemm", inputs, "gemm", **attributes)
    report, after = fused(tmp_path, net.model(net.norm(y, "bn", 6), ["n", 10]))
    assert operators(after) == ["Gemm"]
    assert report.batchnorms_folded == 1


def test_a_product_of_activations_is_no_weight_that_was_evaluated(tmp_path):
    net = Net()
    net.node("Transpose", ["x"], "t", perm=[0, 1, 3, 2])
    net.node("MatMul", ["x", "t"], "y")
    report, after = fused(tmp_path, net.model("y", [1, 4, 4, 4]))
    assert report.constants_evaluated == 0
    assert operators(after) == ["Transpose", "MatMul"]


def test_fp16_stays_fp16(tmp_path):
    net = Net(dtype=np.float16)
    y = net.norm(net.conv("x", "conv", (8, 16, 3, 3)), "bn", 8)
    _, after = fused(tmp_path, net.model(y, [1, 16, 6, 6]), tolerance=1e-2)
    assert weight(after, "conv.weight").dtype == np.float16
    assert operators(after) == ["Conv"]


def test_fp64_is_exact(tmp_path):
    net = Net(dtype=np.float64)
    y = net.node("Gemm", ["x", net.random("w", 10, 6)], "gemm")
    _, after = fused(tmp_path, net.model(net.norm(y, "bn", 6), [3, 10]), tolerance=1e-13)
    assert weight(after, "w").dtype == np.float64
    assert operators(after) == ["Gemm"]


def test_bf16_is_rounded_once(tmp_path):
    net = Net(dtype=ml_dtypes.bfloat16)
    onnx.save(
        net.model(net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8), [1, 16, 4, 4]), tmp_path / "a.onnx"
    )
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    before = {
        t.name: numpy_helper.to_array(t).astype(np.float64)
        for t in onnx.load(tmp_path / "a.onnx").graph.initializer
    }
    factor = before["bn.scale"] / np.sqrt(before["bn.var"] + float(np.float32(1e-5)))
    wanted = (before["conv.weight"] * factor.reshape(-1, 1, 1, 1)).astype(ml_dtypes.bfloat16)
    assert (weight(onnx.load(tmp_path / "b.onnx"), "conv.weight") == wanted).all()
    assert report.not_measured.startswith("outputs were not compared: ONNX Runtime cannot load")


def test_gamma_zero_only_adds_zeros(tmp_path):
    net = Net()
    scale = np.ones(8)
    scale[3] = 0.0
    report, after = fused(
        tmp_path, net.model(net.norm(net.conv("x", "c", (8, 16, 1, 1)), "bn", 8, scale=scale), [1, 16, 4, 4])
    )
    assert (weight(after, "c.weight")[3] == 0).all()
    assert report.relation == "subset"
    assert read_lineage(after)[0].relation == "subset"


def bad_norm(**replaced):
    def build(net):
        return net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8, **replaced), ()

    return build


def second_reader(net):
    y = net.conv("x", "conv", (8, 16, 1, 1))
    return net.node("Add", [net.norm(y, "bn", 8), net.node("Relu", [y], "relu")], "add"), ()


def graph_output(net):
    return net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8), ("conv",)


def missing_statistics(net):
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    net.nodes[-1].input[3] = "mean"
    net.nodes.insert(1, NODE("ReduceMean", ["x", "axes"], ["mean16"], "average", keepdims=0))
    net.nodes.insert(2, NODE("Slice", ["mean16", "start", "end"], ["mean"], "half"))
    net.tensor("axes", np.array([0, 2, 3]))
    net.tensor("start", np.array([0]))
    net.tensor("end", np.array([8]))
    return y, ()


def after_relu(net):
    y = net.node("Relu", [net.conv("x", "conv", (8, 16, 1, 1))], "relu")
    return net.norm(y, "bn", 8), ()


def quantised(net):
    net.tensor("q", np.ones((8, 16, 1, 1), np.int8))
    net.tensor("s", np.float32(0.1))
    net.node("DequantizeLinear", ["q", "s"], "w")
    return net.norm(net.node("Conv", ["x", "w"], "conv"), "bn", 8), ()


DECLINED = [
    pytest.param(
        bad_norm(var=[1, 1, -0.5, 1, 1, 1, 1, 1]),
        "running variance is -0.5 at channel 2",
        id="negative-variance",
    ),
    pytest.param(
        bad_norm(mean=[np.inf] + [0] * 7), "its running mean holds NaN or infinity", id="infinite-mean"
    ),
    pytest.param(second_reader, "relu reads 'conv' too", id="second-reader"),
    pytest.param(graph_output, "'conv' is an output of the model", id="graph-output"),
    pytest.param(missing_statistics, "its running mean is not constant", id="missing-statistics"),
    pytest.param(after_relu, "from Relu at relu, not from a Conv, ConvTranspose or Gemm", id="after-relu"),
    pytest.param(quantised, "its weight is quantised; fuse before quantising", id="quantised"),
]


@pytest.mark.parametrize(("build", "reason"), DECLINED)
def test_a_batchnorm_that_cannot_be_folded_says_why(tmp_path, build, reason):
    net = Net()
    output, outputs = build(net)
    proto = net.model(output, [1, 16, 4, 4], outputs)
    onnx.save(proto, tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [item.node for item in report.declined] == ["bn"]
    assert reason in report.declined[0].reason
    assert onnx.load(tmp_path / "b.onnx") == proto, "nothing else changed either"


def test_a_fold_that_overflows_fp16_is_declined(tmp_path):
    net = Net(dtype=np.float16)
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8, scale=np.full(8, 6e4), var=np.full(8, 1e-4))
    onnx.save(net.model(y, [1, 16, 4, 4]), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx", compare=False)
    assert "the merged weight of conv up to" in report.declined[0].reason
    assert "overflows float16" in report.declined[0].reason


def test_training_mode_is_declined(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8, outputs=3, training_mode=1)
    onnx.save(net.model(y, [1, 16, 4, 4]), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert reasons(report) == ["it runs in training mode"]


@pytest.mark.parametrize(
    ("read", "told"), [("bn", []), ("bn.out1", ["another node reads its running statistics 'bn.out1'"])]
)
def test_statistics_stay_only_if_something_reads_them(tmp_path, read, told):
    """Files before opset 14 list them though they are of a model that does not train."""
    net = Net(opset=13)
    net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8, outputs=3)
    onnx.save(net.model(read, [1, 16, 4, 4]), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx", compare=False)
    assert (reasons(report), report.batchnorms_folded) == (told, 0 if told else 1)


def test_a_shared_weight_is_folded_for_each_and_kept_for_others(tmp_path):
    net = Net()
    a = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn1", 8)
    b = net.norm(net.node("Conv", ["x", "conv.weight"], "other"), "bn2", 8)
    c = net.node("Conv", ["x", "conv.weight"], "plain")
    y = net.node("Concat", [a, b, c], "cat", axis=1)
    plan = Plan((PlanEntry("conv.weight", None, "dense", (8, 16, 1, 1), 1),), "x")
    report, after = fused(tmp_path, net.model(y, [1, 16, 4, 4], notes=[(METADATA_KEY, plan.to_json())]))
    assert report.batchnorms_folded == 2
    names = [node.input[1] for node in after.graph.node if node.op_type == "Conv"]
    assert sorted(names) == ["conv.weight", "conv.weight_fused", "conv.weight_fused2"]
    entries = Plan.from_json(metadata(after)[METADATA_KEY])
    assert sorted(entry.weight for entry in entries) == sorted(names)


def test_a_value_that_a_body_reads_stays(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    out = [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)]
    body = helper.make_graph([NODE("Relu", ["conv"], ["z"])], "body", [], out)
    net.tensor("flag", np.array(True))
    net.nodes.append(NODE("If", ["flag"], ["i"], "choice", then_branch=body, else_branch=body))
    report, _ = fused(tmp_path, net.model(net.node("Add", [y, "i"], "add"), [1, 16, 4, 4]))
    assert reasons(report) == ["a body of If 'choice' reads 'conv'"]


def test_what_training_information_or_an_annotation_names_stays(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    y = net.norm(net.conv(y, "next", (8, 8, 1, 1)), "bn2", 8)
    proto = net.model(y, [1, 16, 4, 4])
    proto.graph.quantization_annotation.add(tensor_name="next")
    proto.training_info.add().update_binding.add(key="conv.weight", value="y")
    report, after = fused(tmp_path, proto)
    assert reasons(report) == ["'next' has a quantization annotation"]
    assert after.training_info == proto.training_info
    assert (weight(after, "conv.weight") == weight(proto, "conv.weight")).all()
    assert after.graph.node[0].input[1] == "conv.weight_fused"


def test_classes_are_compared_as_classes(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    proto = net.model(net.node("ArgMax", [y], "classes", axis=1), [1, 16, 4, 4])
    proto.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    report, _ = fused(tmp_path, proto)
    assert report.differences[0].dtype == "int64"
    other = Net()
    z = other.conv("x", "conv", (8, 16, 1, 1), weight=np.ones((8, 16, 1, 1), np.float32))
    changed = other.model(other.node("ArgMax", [z], "classes", axis=1), [1, 16, 4, 4])
    changed.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    with pytest.raises(DifferenceError, match=r"% of output 'classes' differ"):
        run_reference(tmp_path / "a.onnx").compare(Model(changed, None, tmp_path))


def test_a_model_of_texts_is_not_compared(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    proto = net.model(y, [1, 16, 4, 4])
    proto.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, [1]))
    onnx.save(proto, tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert report.not_measured == "outputs were not compared: 'text' is of type tensor(string)"


def test_old_files_list_their_initializers_among_the_inputs(tmp_path):
    net = Net(opset=9, ir_version=3)
    proto = net.model(net.norm(net.conv("x", "conv", (8, 16, 1, 1), bias=False), "bn", 8), [1, 16, 4, 4])
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, tensor.dims))
    _, after = fused(tmp_path, proto)
    assert [value.name for value in after.graph.input] == ["x", "conv.weight", "conv.bias"]


def test_external_data_stays_external(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (32, 16, 3, 3)), "bn", 32)
    y = net.conv(y, "next", (8, 32, 3, 3))
    onnx.save(net.model(y, [1, 16, 8, 8]), tmp_path / "a.onnx", save_as_external_data=True, location="w.data")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert report.differences[0].max_relative < 1e-5
    after = load(tmp_path / "b.onnx").proto
    outside = [t.name for t in after.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    assert {"conv.weight", "next.weight"} <= set(outside)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.onnx", "b.onnx", "b.onnx.data", "w.data"]
    fuse_model(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert (tmp_path / "c.onnx.data").read_bytes() == (tmp_path / "b.onnx.data").read_bytes()


def sparse_weight(*shape, seed=0):
    rng = np.random.default_rng(seed)
    mask = nm_mask(rng.random(shape), TWO_FOUR, axis=1)
    return (rng.standard_normal(shape) * mask).astype(np.float32), mask


@pytest.mark.parametrize("masked", [True, False], ids=["masks-in-the-graph", "masks-baked"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16], ids=["fp32", "fp16"])
def test_two_branches_of_one_mask_become_one_convolution(tmp_path, masked, dtype):
    net = Net(dtype=dtype)
    shape = (16, 32, 3, 3)
    _, mask = sparse_weight(*shape)
    spatial = np.zeros((1, 1, 3, 3), bool)
    spatial[..., 1, :] = True
    main_weight = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    branch_weight = np.random.default_rng(2).standard_normal(shape).astype(dtype)
    if masked:
        net.tensor("mask", mask)
        net.tensor("spatial", spatial)
        net.tensor("a.weight", main_weight)
        net.tensor("b.weight", branch_weight)
        net.node("Cast", ["mask"], "m1", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        net.node("Mul", ["a.weight", "m1"], "w1")
        net.node("And", ["mask", "spatial"], "both")
        net.node("Cast", ["both"], "m2", to=helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
        net.node("Mul", ["b.weight", "m2"], "w2")
        names = ("w1", "w2")
    else:
        names = (
            net.tensor("a.weight", main_weight * mask),
            net.tensor("b.weight", branch_weight * (mask & spatial)),
        )
    a = net.node("Conv", ["x", names[0]], "conv1", pads=[1] * 4)
    b = net.node("Conv", ["x", names[1]], "conv2", pads=[1] * 4)
    y = net.node("Add", [net.norm(a, "bn1", 16), net.norm(b, "bn2", 16)], "sum")
    plan = Plan(
        (
            PlanEntry("a.weight", TWO_FOUR, "main", shape, 1),
            PlanEntry("b.weight", TWO_FOUR, "branch", shape, 1),
        ),
        "spre",
    )
    tolerance = 1e-2 if dtype is np.float16 else 2e-5
    proto = net.model(y, [1, 32, 9, 9], notes=[(METADATA_KEY, plan.to_json())])
    report, after = fused(tmp_path, proto, tolerance=tolerance)
    assert operators(after) == ["Conv"]
    assert after.graph.node[0].output == ["sum"]
    merged = weight(after, "a.weight")
    assert merged.dtype == dtype
    assert not (merged != 0)[~mask].any()
    verified = verify_model(tmp_path / "b.onnx")
    assert [(v.weight, v.pattern) for v in verified.weights] == [("a.weight", "holds")]
    assert verified.passed()
    (entry,) = verified.plan.entries
    assert (entry.weight, entry.pattern, entry.reason) == (
        "a.weight",
        TWO_FOUR,
        "merged of a.weight, b.weight",
    )
    (stage,) = read_lineage(after)
    assert (stage.stage, stage.relation, stage.child) == ("fuse", "merged", verified.mask_sha256)
    assert (report.constants_evaluated, report.batchnorms_folded, report.branches_merged) == (
        2 * masked,
        2,
        1,
    )


def test_a_weight_standardised_by_a_batchnorm_is_judged_and_evaluated(tmp_path):
    """NFNets normalise their weights, one row an output channel, when they run."""
    net = Net()
    weight_of = net.random("w", 8, 16, 3, 3)
    rows = net.node("Reshape", [weight_of, net.tensor("rows", np.array([1, 8, 144]))], "seen")
    net.norm(rows, "bn", 8)
    y = net.node(
        "Conv", ["x", net.node("Reshape", ["bn", net.tensor("back", np.array([8, 16, 3, 3]))], "k")], "y"
    )
    proto = net.model(y, [1, 16, 5, 5])
    onnx.save(proto, tmp_path / "m.onnx")
    (verdict,) = verify_model(tmp_path / "m.onnx").weights
    assert (verdict.pattern, verdict.axis, verdict.shape) == ("broken", 1, (8, 16, 3, 3))
    report, after = fused(tmp_path, proto, tolerance=2e-5)
    assert operators(after) == ["Conv"]
    assert (report.constants_evaluated, report.batchnorms_folded, report.declined) == (1, 0, ())


@pytest.mark.parametrize("stored", [np.int8, np.float16], ids=["int8", "fp16"])
def test_a_weight_stored_smaller_is_not_blown_up(tmp_path, stored):
    net = Net()
    net.tensor("w", np.arange(128).reshape(8, 16, 1, 1).astype(stored))
    net.tensor("scale", np.float32(0.01))
    net.node("Cast", ["w"], "wide", to=TensorProto.FLOAT)
    net.node("Mul", ["wide", "scale"], "scaled")
    y = net.node("Conv", ["x", "scaled"], "conv")
    proto = net.model(net.norm(y, "bn", 8) if stored is np.int8 else y, [1, 16, 4, 4])
    report, after = fused(tmp_path, proto)
    assert after == proto
    assert reasons(report) == (
        ["its weight is quantised; fuse before quantising"] if stored is np.int8 else []
    )


def test_a_damaged_lineage_is_a_sentence(tmp_path):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    onnx.save(net.model(y, [1, 16, 4, 4], notes=[("nm2trt.lineage", "[1]")]), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"the lineage in the ONNX metadata .* is damaged"):
        fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_command_line(tmp_path, capsys):
    net = Net()
    y = net.norm(net.conv("x", "conv", (8, 16, 1, 1)), "bn", 8)
    y = net.norm(net.node("Relu", [y], "relu"), "late", 8)
    source = tmp_path / "a.onnx"
    onnx.save(net.model(y, ["n", 16, "h", "w"]), source)
    assert main(["fuse", str(source)]) == 0
    out = capsys.readouterr().out
    assert "1 BatchNormalization folded, 0 branches merged, 0 constant weights evaluated, 1 left" in out
    assert "not from a Conv, ConvTranspose or Gemm" in out
    assert "output late (float32): max difference" in out
    assert main(["fuse", str(source), "-o", str(tmp_path / "c.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["batchnorms_folded"] == 1
    assert report["declined"][0]["node"] == "late"
    assert report["differences"][0]["max_relative"] < 1e-5
    assert main(["fuse", str(source), "-o", str(source)]) == 2
    assert "is the input; give another path with -o" in capsys.readouterr().err


def test_the_output_may_not_be_a_file_that_holds_the_weights(tmp_path):
    weight = numpy_helper.from_array(np.ones((8, 8, 3, 3), np.float32), "w")
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 5, 5])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [weight],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
    )
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    before = (tmp_path / "w.bin").read_bytes()
    for output, told in (("w.bin", "holds weights of"), ("m.onnx", "is the input")):
        with pytest.raises(InputError, match=told):
            fuse_model(tmp_path / "m.onnx", tmp_path / output)
    assert (tmp_path / "w.bin").read_bytes() == before
