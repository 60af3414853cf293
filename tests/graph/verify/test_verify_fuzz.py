"""Damaged and hostile files: a sentence or a verdict, never a hang, a crash or a traceback."""

import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import InputError, ModelError, Nm2trtError
from nm2trt.graph.storage.model import load
from nm2trt.graph.verify.verify_model import verify_model, without_verdicts

NODE = helper.make_node


def value(name, shape=None):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes, weights=(), inputs=("x",), functions=(), domains=()):
    graph = helper.make_graph(
        nodes, "g", [value(name) for name in inputs], [value("y")],
        [w if isinstance(w, TensorProto) else numpy_helper.from_array(w[1], w[0]) for w in weights],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 18), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=opsets, functions=list(functions))


def everything():
    """Return a small model that has a bit of every form of storage and nesting."""
    weight = np.ones((8, 8, 3, 3), np.float32)
    body = helper.make_graph([NODE("MatMul", ["a", "m"], ["t"])], "then", [], [value("t")])
    other = helper.make_graph([NODE("Identity", ["a"], ["e"])], "else", [], [value("e")])
    function = helper.make_function(
        "local", "F", ["p", "q"], ["r"], [NODE("Gemm", ["p", "q"], ["r"])], [helper.make_opsetid("", 18)]
    )
    nodes = [
        NODE("Transpose", ["w"], ["wt"], perm=[1, 0, 2, 3]),
        NODE("Conv", ["x", "wt"], ["c"], pads=[1, 1, 1, 1]),
        NODE("DequantizeLinear", ["q", "s"], ["d"]),
        NODE("Conv", ["c", "d"], ["a"]),
        NODE("If", ["cond"], ["i"], then_branch=body, else_branch=other),
        NODE("Constant", [], ["k"], value=numpy_helper.from_array(np.eye(8, dtype=np.float16))),
        NODE("MatMul", ["i", "k"], ["u"]),
        NODE("F", ["u", "m"], ["y"], domain="local"),
    ]
    weights = [
        ("w", weight),
        ("q", np.ones((8, 8, 1, 1), np.int8)),
        ("s", np.array(0.1, np.float32)),
        ("cond", np.array(True)),
        ("m", np.zeros((8, 8), np.float32)),
    ]
    return model(nodes, weights, functions=[function], domains=["local"])


def test_the_undamaged_model_is_verified():
    report = verify_model(everything())
    assert without_verdicts(load(everything())).mask_sha256 == report.mask_sha256
    assert [v.pattern for v in report.weights] == ["broken", "broken", "holds", "holds", "holds"]


def verdict_or_refusal(source):
    """Verify a damaged model: any exception but our own, or one without a word, fails the test."""
    try:
        verify_model(source)
    except Nm2trtError as error:
        return "refused" if str(error) else "silent"
    return "report"


@pytest.mark.parametrize("kind", ["flip", "cut", "insert", "swap", "repeat"])
def test_mutated_files(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("nm2trt.graph.storage.protobuf_stream._LARGE_BYTES", 64)
    path = tmp_path / "m.onnx"
    good = everything().SerializeToString()
    rng = np.random.default_rng(7)
    outcomes = {"report": 0, "refused": 0}
    for _ in range(100):
        data = bytearray(good)
        # Mutations near the structure, not only in the large tensors.
        place = int(rng.integers(len(data)))
        if kind == "flip":
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
        elif kind == "cut":
            del data[place:]
        elif kind == "insert":
            data[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == "swap":
            end = place + int(rng.integers(1, 64))
            data[place:end] = data[place:end][::-1]
        else:
            data[place:place] = data[place : place + int(rng.integers(1, 256))]
        outcome = verdict_or_refusal(bytes(data))
        outcomes[outcome] += 1
        if data:
            # From a file, large weights stay where they are: another way in, the same answer.
            path.write_bytes(data)
            assert verdict_or_refusal(path) == outcome
    assert outcomes["refused"]


def test_structured_mutations_of_tensors_and_attributes():
    rng = np.random.default_rng(11)
    for _ in range(200):
        proto = everything()
        tensor = proto.graph.initializer[int(rng.integers(len(proto.graph.initializer)))]
        node = proto.graph.node[int(rng.integers(len(proto.graph.node)))]
        choice = int(rng.integers(8))
        if choice == 0 and tensor.dims:
            tensor.dims[int(rng.integers(len(tensor.dims)))] = int(rng.choice([-1, 0, 5, 2**31, 2**62]))
        elif choice == 1:
            tensor.data_type = int(rng.integers(0, 30))
        elif choice == 2:
            tensor.raw_data = tensor.raw_data[: int(rng.integers(0, 8))]
        elif choice == 3 and node.input:
            node.input[int(rng.integers(len(node.input)))] = str(rng.choice(["", "nowhere", "x", "y", "w"]))
        elif choice == 4:
            node.op_type = str(
                rng.choice(["Conv", "MatMul", "Expand", "Tile", "Pad", "Slice", "Split", "Einsum"])
            )
        elif choice == 5:
            node.attribute.extend(
                [helper.make_attribute("perm", [0, 0, 9]), helper.make_attribute("axis", 99)]
            )
        elif choice == 6 and node.output:
            node.output[0] = str(rng.choice(["x", "y", "c", ""]))
        else:
            node.domain = str(rng.choice(["local", "acme", "ai.onnx", "com.microsoft"]))
        verdict_or_refusal(proto)


def test_weights_left_in_the_file_give_the_same_report(tmp_path, monkeypatch):
    monkeypatch.setattr("nm2trt.graph.storage.protobuf_stream._LARGE_BYTES", 64)
    path = tmp_path / "m.onnx"
    onnx.save(everything(), path)
    left = load(path, leave_weights=True).proto
    assert {t.name for t in left.graph.initializer if t.data_location == TensorProto.EXTERNAL} == {
        "w",
        "q",
        "m",
    }
    assert left.ByteSize() < path.stat().st_size / 2
    assert verify_model(path).weights == verify_model(path.read_bytes()).weights


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"not onnx at all", "is not an ONNX model"),
        (b"\x00" * 4096, "is not an ONNX model"),
        (b"PK\x03\x04" + b"\x00" * 64, "is not an ONNX model"),
    ],
    ids=["empty", "text", "zeros", "zip"],
)
def test_files_that_are_no_models(tmp_path, data, message):
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        verify_model(path)


@pytest.mark.parametrize("name", [b"gQ", b"WQ"], ids=["node", "weight"])
def test_names_that_are_no_text(name):
    nodes = [NODE("MatMul", ["x", "WQ"], ["y"], name="gQ")]
    data = model(nodes, [("WQ", np.zeros((8, 8), np.float32))]).SerializeToString()
    with pytest.raises(ModelError, match="a name in it is not UTF-8 text"):
        verify_model(data.replace(name, name[:1] + b"\xff"))


def test_a_cycle_is_named():
    nodes = [NODE("Add", ["x", "b"], ["a"], name="first"), NODE("Relu", ["a"], ["b"], name="second")]
    with pytest.raises(ModelError, match="the nodes around first form a cycle"):
        verify_model(model(nodes))


def test_a_value_defined_twice_is_refused():
    nodes = [NODE("Relu", ["x"], ["a"]), NODE("Abs", ["x"], ["a"])]
    with pytest.raises(ModelError, match=r"defines 'a' twice, again at Abs#1"):
        verify_model(model(nodes))
    weight = ("w", np.ones((4, 4), np.float32))
    with pytest.raises(ModelError, match="defines 'w' twice"):
        verify_model(model([NODE("MatMul", ["x", "w"], ["y"])], [weight, weight]))


def test_nodes_out_of_order_give_the_verdict_of_nodes_in_order():
    weight = np.zeros((8, 8), np.float32)
    nodes = [NODE("Transpose", ["w"], ["v"]), NODE("MatMul", ["x", "v"], ["y"], name="product")]
    forward = verify_model(model(nodes, [("w", weight)])).weights
    assert verify_model(model(nodes[::-1], [("w", weight)])).weights == forward


def test_a_node_waits_for_all_that_it_reads():
    # Out of order, and with two producers: judged before the second is known, the sum would not be constant.
    weights = [("a", np.zeros((8, 8), np.float32)), ("b", np.zeros((8, 8), np.float32))]
    nodes = [
        NODE("MatMul", ["x", "v"], ["y"], name="product"),
        NODE("Add", ["p", "q"], ["v"]),
        NODE("Transpose", ["a"], ["p"]),
        NODE("Neg", ["p"], ["r"]),
        NODE("Add", ["r", "b"], ["q"]),
    ]
    (verdict,) = verify_model(model(nodes, weights)).weights
    assert verdict.pattern == "holds"


def test_unnamed_and_equally_named_nodes():
    weight = ("w", np.zeros((8, 8), np.float32))
    nodes = [NODE("MatMul", ["x", "w"], ["a"]), NODE("MatMul", ["a", "w"], ["b"], name="p")]
    nodes.append(NODE("MatMul", ["b", "w"], ["y"], name="p"))
    assert [v.consumer for v in verify_model(model(nodes, [weight])).weights] == ["MatMul#0", "p", "p"]


def test_recursive_functions_are_refused():
    call = [NODE("F", ["p"], ["q"], domain="local")]
    function = helper.make_function("local", "F", ["p"], ["q"], call, [helper.make_opsetid("local", 1)])
    with pytest.raises(ModelError, match="function 'F' calls itself"):
        verify_model(
            model([NODE("F", ["x"], ["y"], domain="local")], functions=[function], domains=["local"])
        )


def test_functions_that_double_at_every_level_are_refused():
    functions = []
    for level in range(40):
        inner = f"F{level + 1}"
        body = [NODE(inner, ["p"], ["t"], domain="local"), NODE(inner, ["t"], ["q"], domain="local")]
        functions.append(
            helper.make_function("local", f"F{level}", ["p"], ["q"], body, [helper.make_opsetid("local", 1)])
        )
    last = [NODE("Relu", ["p"], ["q"])]
    functions.append(helper.make_function("local", "F40", ["p"], ["q"], last, [helper.make_opsetid("", 18)]))
    with pytest.raises(ModelError, match="functions unfold to 3,298,534,883,327 nodes, more than"):
        verify_model(
            model([NODE("F0", ["x"], ["y"], domain="local")], functions=functions, domains=["local"])
        )


@pytest.mark.parametrize(
    ("nodes", "weights"),
    [
        ([NODE("ConstantOfShape", ["s"], ["v"])], [("s", np.array([2**20, 2**20], np.int64))]),
        ([NODE("Expand", ["w", "s"], ["v"])], [("w", np.ones((1, 1), np.float32)), ("s", np.array([2**20, 2**20]))]),
        ([NODE("Tile", ["w", "s"], ["v"])], [("w", np.ones((1, 1), np.float32)), ("s", np.array([2**20, 2**20]))]),
        ([NODE("Pad", ["w", "s"], ["v"])], [("w", np.ones((1, 1), np.float32)), ("s", np.array([0, 0, 2**20, 2**20]))]),
        ([NODE("Range", ["a", "b", "c"], ["v"])],
         [("a", np.array(0.0)), ("b", np.array(1e15)), ("c", np.array(1.0))]),
        ([NODE("Mul", ["w", "s"], ["v"])],
         [("w", np.ones((2**18, 1), np.float32)), ("s", np.ones((1, 2**18), np.float32))]),
        ([NODE("MatMul", ["w", "s"], ["v"])],
         [("w", np.ones((2**18, 1), np.float32)), ("s", np.ones((1, 2**18), np.float32))]),
    ],
    ids=["constant-of-shape", "expand", "tile", "pad", "range", "broadcast", "product"],
)  # fmt: skip
def test_constants_that_unfold_beyond_all_bounds_are_untraceable(nodes, weights):
    (verdict,) = verify_model(model([*nodes, NODE("MatMul", ["x", "v"], ["y"])], weights)).weights
    assert verdict.pattern == "untraceable"
    assert "would hold" in verdict.sentence


def test_zero_size_tensors():
    weight = ("w", np.zeros((0, 8), np.float32))
    (verdict,) = verify_model(model([NODE("MatMul", ["x", "w"], ["y"])], [weight])).weights
    assert (verdict.pattern, verdict.reason) == ("not-groupable", "empty")


def test_ten_thousand_nodes():
    nodes = [NODE("Identity", ["w"], ["v0"])]
    nodes += [NODE("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(5000)]
    nodes.append(NODE("MatMul", ["x", "v5000"], ["a0"]))
    nodes += [NODE("Relu", [f"a{i}"], [f"a{i + 1}"]) for i in range(5000)]
    start = time.monotonic()
    (verdict,) = verify_model(model(nodes, [("w", np.zeros((8, 8), np.float32))])).weights
    assert verdict.pattern == "holds"
    assert time.monotonic() - start < 60, "quadratic in nodes"


@pytest.fixture
def external(tmp_path):
    """Write a model whose weight is in w.data beside it; return the path and a function that edits the tensor."""
    weight = np.zeros((8, 8), np.float32)
    proto = model([NODE("MatMul", ["x", "w"], ["y"])], [("w", weight)])
    path = tmp_path / "model" / "m.onnx"
    path.parent.mkdir()
    onnx.save_model(proto, path, save_as_external_data=True, location="w.data", size_threshold=0)

    def edit(**entries):
        proto = onnx.load(path, load_external_data=False)
        for entry in proto.graph.initializer[0].external_data:
            if entry.key in entries:
                entry.value = entries[entry.key]
        path.write_bytes(proto.SerializeToString())

    return path, edit


def test_external_data_beside_the_model(external):
    path, _ = external
    assert [v.pattern for v in verify_model(path).weights] == ["holds"]


def test_external_data_behind_a_linked_cache(external, tmp_path):
    path, _ = external
    link = tmp_path / "link.onnx"
    link.symlink_to(path)
    assert [v.pattern for v in verify_model(link).weights] == ["holds"]


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "", "sub/../../m.onnx"])
def test_external_data_outside_is_refused(external, location):
    path, edit = external
    edit(location=location)
    with pytest.raises(ModelError, match=r"external data of tensor 'w' is refused: .* leaves the folder"):
        verify_model(path)


def test_external_data_root_can_be_given(external, tmp_path):
    path, _ = external
    moved = tmp_path / "moved.onnx"
    moved.write_bytes(path.read_bytes())
    with pytest.raises(
        ModelError, match=r"cannot be read from .*w.data: No such file.*keep the data file beside"
    ):
        verify_model(moved)
    assert verify_model(moved, external_data_root=path.parent).any_holds
    with pytest.raises(InputError, match="is not a folder"):
        verify_model(moved, external_data_root=tmp_path / "no")


def test_external_data_cut_short(external):
    path, edit = external
    (path.parent / "w.data").write_bytes(bytes(100))
    with pytest.raises(ModelError, match=r"needs bytes 0 to 256 of w.data, which has 100; .* truncated"):
        verify_model(path)
    edit(length="12")
    with pytest.raises(ModelError, match=r"needs 256 bytes, but its external data declares 12"):
        verify_model(path)


def test_external_offset_that_is_no_number(external):
    path, edit = external
    edit(offset="-4")
    with pytest.raises(ModelError, match="negative offset"):
        verify_model(path)
    for text in ("1e3", "0_0", "\N{ARABIC-INDIC DIGIT ZERO}"):
        edit(offset=text)
        with pytest.raises(ModelError, match="not a number"):
            verify_model(path)


def test_external_location_that_no_file_system_takes(external):
    path, edit = external
    edit(location="a" * 300)
    with pytest.raises(ModelError, match=r"is refused: File name too long$"):
        verify_model(path)
