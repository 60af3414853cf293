"""Damaged models through fuse and prune: a sentence or a sound file, never a crash or half of a file."""

import numpy as np
import onnx
import pytest
from onnx import helper

from nm2trt.errors import ModelError, Nm2trtError
from nm2trt.graph.fuse.fuse_model import fuse_model
from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model
from tests.graph.fuse.test_fuse_model import Net, sparse_weight

RUNS = 120
SIZES = [-1, 0, 1, 5, 16, 2**31, 2**62]
OPERATORS = ["Conv", "ConvTranspose", "Gemm", "BatchNormalization", "Add", "Sum", "Transpose", "Identity"]


def something():
    """Return a model with every kind of place that fuse and prune change."""
    net = Net()
    weight, mask = sparse_weight(16, 16, 3, 3)
    net.tensor("mask", mask)
    net.node("Cast", ["mask"], "m", to=1)
    net.tensor("raw", weight)
    net.node("Mul", ["raw", "m"], "masked")
    a = net.norm(net.node("Conv", ["x", "masked"], "a", pads=[1] * 4), "na", 16)
    b = net.norm(net.conv("x", "b", (16, 16, 3, 3), weight=weight, pads=[1] * 4), "nb", 16)
    y = net.node("Add", [net.node("Add", [a, b], "ab"), "x"], "abx")
    y = net.norm(net.conv(y, "t", (16, 8, 2, 2), operator="ConvTranspose", group=2), "nt", 16)
    y = net.node("Flatten", [net.node("GlobalAveragePool", [y], "mean")], "flat")
    y = net.norm(net.node("Gemm", [y, net.random("g", 16, 16)], "gemm"), "ng", 16)
    net.tensor("q", np.ones((16, 16), np.int8))
    net.tensor("s", np.float32(0.5))
    y = net.node("MatMul", [y, net.node("DequantizeLinear", ["q", "s"], "dq")], "y")
    return net.model(y, [1, 16, 6, 6])


def mutate(proto, rng):
    tensor = proto.graph.initializer[int(rng.integers(len(proto.graph.initializer)))]
    node = proto.graph.node[int(rng.integers(len(proto.graph.node)))]
    names = (
        [t.name for t in proto.graph.initializer]
        + [n.output[0] for n in proto.graph.node]
        + ["", "none", "x"]
    )
    choice = int(rng.integers(11))
    if choice == 0 and tensor.dims:
        tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice(SIZES))
    elif choice == 1:
        tensor.data_type = int(rng.integers(0, 30))
    elif choice == 2:
        tensor.raw_data = tensor.raw_data[: int(rng.integers(0, 40))]
    elif choice in (3, 4) and node.input:
        node.input[int(rng.integers(len(node.input)))] = str(rng.choice(names))
    elif choice == 5:
        node.op_type = str(rng.choice(OPERATORS))
    elif choice == 6 and node.attribute:
        attribute = node.attribute[0]
        name = str(rng.choice(["pads", "strides", "dilations", "group", "axis", "epsilon", "transB"]))
        value = (
            rng.choice(SIZES, int(rng.integers(0, 5))).tolist()
            if rng.random() < 0.5
            else int(rng.choice(SIZES))
        )
        attribute.CopyFrom(helper.make_attribute(name, value, attr_type=None if value != [] else 7))
    elif choice == 7:
        node.output[0] = str(rng.choice(names))
    elif choice == 8:
        proto.graph.node.append(proto.graph.node.pop(0))
    elif choice == 9:
        number = np.float32(rng.choice([np.nan, np.inf, -1, 3e38, 0]))
        tensor.raw_data = number.tobytes() + tensor.raw_data[4:]
    else:
        del node.input[int(rng.integers(0, len(node.input) + 1)) :]


@pytest.mark.parametrize("stage", [fuse_model, prune_model], ids=["fuse", "prune"])
def test_a_damaged_model_is_refused_or_changed_soundly(tmp_path, stage):
    rng = np.random.default_rng(3)
    options = {"compare": False} if stage is fuse_model else {}
    written = refused = 0
    sound = something()
    for number in range(RUNS):
        proto = onnx.ModelProto()
        proto.CopyFrom(sound)
        for _ in range(int(rng.integers(1, 3))):
            mutate(proto, rng)
        source, target = tmp_path / f"{number}.onnx", tmp_path / "out.onnx"
        source.write_bytes(proto.SerializeToString())
        try:
            stage(source, target, **options)
        except Nm2trtError as error:
            refused += bool(str(error)) and not target.exists()
        else:
            verify_model(target)
            written += 1
            target.unlink()
        source.unlink()
        assert not list(tmp_path.iterdir())
    assert written
    assert written + refused == RUNS


def test_the_undamaged_model_is_changed(tmp_path):
    onnx.save(something(), tmp_path / "a.onnx")
    report = fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
    assert (report.constants_evaluated, report.batchnorms_folded, report.branches_merged) == (1, 4, 1)
    assert len(report.declined) == 1
    assert prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx").counts == {
        "pruned": 3,
        "kept": 1,
        "dense": 0,
    }
    assert load(tmp_path / "c.onnx").proto.graph.node


@pytest.mark.parametrize(("operator", "name", "value"), [("Conv", "group", [1, 2]), ("Gemm", "transB", "x")])
def test_an_attribute_of_the_wrong_type_is_a_sentence(operator, name, value):
    proto = something()
    node = next(node for node in proto.graph.node if node.op_type == operator)
    node.attribute.append(helper.make_attribute(name, value))
    with pytest.raises(
        ModelError, match=rf"{operator} at .* has an attribute {name} of another type than INT"
    ):
        verify_model(proto)


def test_nodes_out_of_order_are_refused(tmp_path):
    proto = something()
    proto.graph.node.append(proto.graph.node.pop(0))
    onnx.save(proto, tmp_path / "a.onnx")
    with pytest.raises(ModelError, match="are not in topological order, as ONNX demands; export it again"):
        fuse_model(tmp_path / "a.onnx", tmp_path / "b.onnx")
