"""prune_model: which weights become zero, in every type and form of storage, and what is left alone."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.cli import main
from nm2trt.errors import InputError, ModelError, PatternError, SparsityError
from nm2trt.graph.prune.prune_model import METHOD, prune_model
from nm2trt.graph.storage.model import load, metadata
from nm2trt.graph.storage.stage_metadata import read_lineage
from nm2trt.graph.storage.tensors import read_tensor
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry

NODE = helper.make_node


def randn(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def write(path, nodes, weights, *, inputs=(("x", [None, None, None, None]),), sparse=(), metadata=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [w if isinstance(w, TensorProto) else numpy_helper.from_array(w[1], w[0]) for w in weights],
        sparse_initializer=list(sparse),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    for key, value in metadata:
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, path)
    return path


def stored(path, name="w"):
    model = load(path)
    return next(read_tensor(t, model.root) for t in model.proto.graph.initializer if t.name == name)


def best_of_every_group(score, axis, n=2, m=4):
    """Mark, group by group and choice by choice, the N of M whose scores sum highest; lowest index first."""
    lines = np.moveaxis(score, axis, -1)
    kept = np.zeros(lines.shape, bool)
    for place in np.ndindex(lines.shape[:-1]):
        for start in range(0, lines.shape[-1], m):
            group = lines[place][start : start + m]
            best = max(itertools.combinations(range(m), n), key=lambda c: sum(float(group[i]) for i in c))
            for i in best:
                kept[(*place, start + i)] = True
    return np.moveaxis(kept, -1, axis)


DTYPES = [
    pytest.param("FLOAT", np.float32, False, id="fp32"),
    pytest.param("DOUBLE", np.float64, False, id="fp64"),
    pytest.param("FLOAT16", np.float16, False, id="fp16"),
    pytest.param("FLOAT16", np.float16, True, id="fp16-int32-storage"),
    pytest.param("BFLOAT16", ml_dtypes.bfloat16, False, id="bf16"),
    pytest.param("BFLOAT16", ml_dtypes.bfloat16, True, id="bf16-int32-storage"),
    pytest.param("FLOAT8E4M3FN", ml_dtypes.float8_e4m3fn, False, id="fp8"),
    pytest.param("FLOAT8E5M2", ml_dtypes.float8_e5m2, True, id="fp8-int32-storage"),
]


@pytest.mark.parametrize(("name", "dtype", "typed"), DTYPES)
def test_the_largest_of_every_group_stay_bit_for_bit(tmp_path, name, dtype, typed):
    dense = (randn(6, 16, 3, 2) * 4).astype(dtype)
    kind = getattr(TensorProto, name)
    tensor = TensorProto(name="w", data_type=kind, dims=dense.shape)
    if typed:
        bits = dense.view(np.uint16 if dense.itemsize == 2 else np.uint8)
        tensor.int32_data.extend(int(b) for b in bits.reshape(-1))
    else:
        tensor.raw_data = dense.tobytes()
    source = write(tmp_path / "a.onnx", [NODE("Conv", ["x", "w"], ["y"], "conv")], [tensor])
    report = prune_model(source, tmp_path / "b.onnx")
    left = stored(tmp_path / "b.onnx")
    kept = best_of_every_group(np.abs(dense.astype(np.float64)), 1)
    assert left.dtype == dense.dtype
    assert (left.view(np.uint8) == np.where(kept, dense, np.zeros((), dense.dtype)).view(np.uint8)).all()
    assert report.counts == {"pruned": 1, "kept": 0, "dense": 0}
    assert report.relation == "subset"


CONSUMERS = [
    pytest.param(NODE("Gemm", ["x", "w"], ["y"], transB=1), (8, 16), 1, id="gemm-transposed"),
    pytest.param(NODE("Gemm", ["x", "w"], ["y"]), (16, 6), 0, id="gemm"),
    pytest.param(NODE("Gemm", ["w", "x"], ["y"], transA=1), (16, 6), 0, id="gemm-left-transposed"),
    pytest.param(NODE("MatMul", ["x", "w"], ["y"]), (3, 16, 5), 1, id="matmul-batched"),
    pytest.param(NODE("MatMul", ["x", "w"], ["y"]), (16,), 0, id="matmul-vector"),
    pytest.param(NODE("ConvTranspose", ["x", "w"], ["y"], group=2), (16, 3, 2, 2), 0, id="conv-transpose"),
    pytest.param(NODE("Conv", ["x", "w"], ["y"], group=2), (8, 8, 3, 3), 1, id="conv-grouped"),
    pytest.param(NODE("Einsum", ["x", "w"], ["y"], equation="bi,ki->bk"), (6, 16), 1, id="einsum"),
]


@pytest.mark.parametrize(("node", "shape", "axis"), CONSUMERS)
def test_groups_lie_along_the_axis_that_the_operator_reduces(tmp_path, node, shape, axis):
    dense = randn(*shape)
    source = write(tmp_path / "a.onnx", [node], [("w", dense)])
    prune_model(source, tmp_path / "b.onnx")
    kept = best_of_every_group(np.abs(dense), axis)
    assert (stored(tmp_path / "b.onnx") == np.where(kept, dense, 0)).all()


@pytest.mark.parametrize("zero_point", [3, [3, -5, 0, 7, 1, -2]], ids=["per-tensor", "per-channel"])
def test_int8_behind_a_dequantise_becomes_its_zero_point(tmp_path, zero_point):
    q = np.random.default_rng(0).integers(-128, 128, (6, 16, 1, 1)).astype(np.int8)
    zero = np.array(zero_point, np.int8)
    scale = np.linspace(0.1, 0.6, 6, dtype=np.float32) if zero.ndim else np.float32(0.1).reshape(())
    nodes = [
        NODE("DequantizeLinear", ["q", "scale", "zero"], ["w"], axis=0),
        NODE("Conv", ["x", "w"], ["y"], "conv"),
    ]
    source = write(tmp_path / "a.onnx", nodes, [("q", q), ("scale", scale), ("zero", zero)])
    prune_model(source, tmp_path / "b.onnx")
    wide = np.broadcast_to(zero.reshape(-1, 1, 1, 1), q.shape)
    kept = best_of_every_group(np.abs(q.astype(int) - wide), 1)
    assert (stored(tmp_path / "b.onnx", "q") == np.where(kept, q, wide)).all()


def test_blocked_scales_along_the_reduced_axis_decide_what_is_large(tmp_path):
    # Two blocks of 8 with scales 1 and 100, in groups of 16: the integers alone would mislead.
    q = np.tile(np.array([100, 90, 80, 70, 60, 50, 40, 30, 4, 3, 2, 1, 8, 7, 6, 5], np.int8), (4, 1)).T.copy()
    scale = np.tile(np.array([[1.0], [100.0]], np.float32), (1, 4))
    nodes = [
        NODE("DequantizeLinear", ["q", "scale"], ["w"], axis=0, block_size=8),
        NODE("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    source = write(tmp_path / "a.onnx", nodes, [("q", q), ("scale", scale)])
    prune_model(source, tmp_path / "b.onnx", pattern="8:16")
    left = stored(tmp_path / "b.onnx", "q")
    kept = best_of_every_group(np.abs(q * np.repeat(scale, 8, axis=0)), 0, 8, 16)
    assert (left == np.where(kept, q, 0)).all()
    assert kept[:8].sum() == 4, "the integers alone would have kept the first block"


def test_int4_stays_packed(tmp_path):
    values = np.random.default_rng(0).integers(-8, 8, (6, 16)).astype(np.int8)
    tensor = helper.make_tensor("q", TensorProto.INT4, values.shape, values.reshape(-1).tolist())
    nodes = [NODE("DequantizeLinear", ["q", "scale"], ["w"]), NODE("Gemm", ["x", "w"], ["y"], transB=1)]
    source = write(tmp_path / "a.onnx", nodes, [tensor, ("scale", np.array(0.5, np.float32))])
    prune_model(source, tmp_path / "b.onnx")
    kept = best_of_every_group(np.abs(values.astype(int)), 1)
    assert (stored(tmp_path / "b.onnx", "q").astype(np.int8) == np.where(kept, values, 0)).all()
    assert len(load(tmp_path / "b.onnx").proto.graph.initializer[0].raw_data) == 48


def test_integer_operators_subtract_their_zero_point(tmp_path):
    q = np.random.default_rng(0).integers(0, 256, (6, 16, 1, 1)).astype(np.uint8)
    node = NODE("ConvInteger", ["x", "w", "xz", "wz"], ["y"], "conv")
    weights = [("w", q), ("xz", np.array(128, np.uint8)), ("wz", np.array(100, np.uint8))]
    source = write(tmp_path / "a.onnx", [node], weights)
    prune_model(source, tmp_path / "b.onnx")
    kept = best_of_every_group(np.abs(q.astype(int) - 100), 1)
    assert (stored(tmp_path / "b.onnx") == np.where(kept, q, 100)).all()


@pytest.mark.parametrize("external", [False, True], ids=["inline", "external"])
def test_a_transposed_weight_is_pruned_where_it_is_stored(tmp_path, external):
    dense = randn(5, 16)
    nodes = [
        NODE("Transpose", ["w"], ["t"], perm=[1, 0]),
        NODE("Reshape", ["t", "shape"], ["r"]),
        NODE("MatMul", ["x", "r"], ["y"], "matmul"),
    ]
    source = write(tmp_path / "a.onnx", nodes, [("w", dense), ("shape", np.array([16, 5]))])
    if external:
        onnx.save(onnx.load(source), source, save_as_external_data=True, size_threshold=0, location="w.data")
    prune_model(source, tmp_path / "b.onnx")
    assert (stored(tmp_path / "b.onnx") == np.where(best_of_every_group(np.abs(dense), 1), dense, 0)).all()
    assert (tmp_path / "b.onnx.data").exists() == external


def test_a_constant_node_is_pruned_in_place(tmp_path):
    dense = randn(6, 16)
    nodes = [
        NODE("Constant", [], ["w"], value=numpy_helper.from_array(dense)),
        NODE("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    prune_model(write(tmp_path / "a.onnx", nodes, []), tmp_path / "b.onnx")
    left = numpy_helper.to_array(onnx.load(tmp_path / "b.onnx").graph.node[0].attribute[0].t)
    assert (left == np.where(best_of_every_group(np.abs(dense), 1), dense, 0)).all()


def reason_of(report, weight="w"):
    return next(w.reason for w in report.weights if w.weight == weight)


GOOD = [NODE("Gemm", ["x", "good"], ["g"], "good_gemm", transB=1)]

LEFT_DENSE = [
    pytest.param(
        [NODE("Conv", ["x", "w"], ["y"])], (8, 8, 3, 3), "8 input channels are fewer than 16", id="few"
    ),
    pytest.param(
        [NODE("Conv", ["x", "w"], ["y"])], (8, 18, 3, 3), "18 input channels are not a mult", id="18"
    ),
    pytest.param(
        [NODE("Conv", ["x", "w"], ["y"], group=16)], (16, 1, 3, 3), "depthwise: one input", id="depthwise"
    ),
    pytest.param(
        [NODE("ConvTranspose", ["x", "w"], ["y"], group=8)],
        (48, 4, 3, 3),
        "6 input channels in each of 8 groups are not a multiple of 4",
        id="transposed-groups",
    ),
    pytest.param(
        [NODE("Gemm", ["x", "w"], ["a"], "a", transB=1), NODE("Gemm", ["x", "w"], ["y"], "b")],
        (16, 16),
        "a and b both read it, and group its elements differently, for example along different axes",
        id="axes-disagree",
    ),
    pytest.param(
        [NODE("Gather", ["w", "x"], ["e"], "embed"), NODE("Gemm", ["x", "w"], ["y"], transB=1)],
        (8, 16),
        "Gather at embed reads it too, which multiplies no matrix",
        id="tied-to-an-embedding",
    ),
    pytest.param(
        [
            NODE("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
            NODE("Mul", ["w", "m"], ["v"], "masking"),
            NODE("Gemm", ["x", "v"], ["y"], transB=1),
        ],
        (8, 16),
        "Mul at masking stands between w and its consumer; run nm2trt fuse first",
        id="masked",
    ),
    pytest.param(
        [NODE("GRU", ["x", "w", "w"], ["y"], hidden_size=16)],
        (1, 48, 16),
        "GRU has no known sparse kernel; name it in --include",
        id="recurrent",
    ),
    pytest.param([NODE("Gemm", ["x", "w"], ["y"], transB=1)], (8, 0), "has no elements", id="empty"),
    pytest.param([NODE("Gemm", ["x", "w"], ["y"], transB=1)], "nan", "it holds NaN or infinity", id="nan"),
    pytest.param(
        [NODE("Gemm", ["x", "w"], ["y"], transB=1)], "plan", "the plan keeps it dense: by hand", id="plan"
    ),
    pytest.param(
        [NODE("MyOp", ["w"], ["v"], "odd", domain="mine"), NODE("Gemm", ["x", "v"], ["y"], transB=1)],
        (8, 16),
        "MyOp at odd is of domain mine, which is not evaluated",
        id="unknown-operator",
    ),
]


@pytest.mark.parametrize(("nodes", "shape", "reason"), LEFT_DENSE)
def test_what_stays_dense_says_why(tmp_path, nodes, shape, reason):
    notes = []
    if shape == "plan":
        plan = Plan((PlanEntry("w", None, "by hand", (8, 16), 1),), "sr-ste")
        notes = [(METADATA_KEY, plan.to_json())]
    dense = randn(*(shape if isinstance(shape, tuple) else (8, 16)))
    if shape == "nan":
        dense[0, 0] = np.nan
    weights = [("w", dense), ("good", randn(8, 16)), ("mask", np.ones((8, 16), bool))]
    source = write(tmp_path / "a.onnx", GOOD + nodes, weights, metadata=notes)
    report = prune_model(source, tmp_path / "b.onnx")
    assert reason in reason_of(report)
    assert np.array_equal(stored(tmp_path / "b.onnx"), dense, equal_nan=True)
    assert report.counts["pruned"] == 1
    entry = Plan.from_json(metadata(load(tmp_path / "b.onnx").proto)[METADATA_KEY]).get("w")
    assert entry.pattern is None
    assert reason in entry.reason
    assert verify_model(tmp_path / "b.onnx").passed()


def test_two_consumers_that_agree_share_one_mask(tmp_path):
    dense = randn(16, 16)
    nodes = [
        NODE("Transpose", ["w"], ["t"]),
        NODE("MatMul", ["x", "t"], ["a"]),
        NODE("Gemm", ["x", "w"], ["y"], transB=1),
    ]
    report = prune_model(write(tmp_path / "a.onnx", nodes, [("w", dense)]), tmp_path / "b.onnx")
    assert report.weights[0].status == "pruned"
    assert len(report.weights[0].consumers) == 2
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": 2}


def test_a_weight_in_a_body_and_a_function_is_pruned(tmp_path):
    inner = helper.make_graph(
        [NODE("Gemm", ["x", "inner"], ["z"], "in_body", transB=1)],
        "body",
        [],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(randn(8, 16), "inner")],
    )
    nodes = [NODE("If", ["flag"], ["y"], "if", then_branch=inner, else_branch=inner)]
    source = write(tmp_path / "a.onnx", [*GOOD, *nodes], [("good", randn(8, 16)), ("flag", np.array(True))])
    report = prune_model(source, tmp_path / "b.onnx")
    assert report.counts["pruned"] == 3
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": 3}


def test_globs_choose_and_a_full_name_overrides_the_least_channels(tmp_path):
    nodes = [NODE("Gemm", ["x", f"l{i}.w"], [f"y{i}"], f"l{i}", transB=1) for i in range(3)]
    weights = [(f"l{i}.w", randn(4, 8 if i == 2 else 16)) for i in range(3)]
    source = write(tmp_path / "a.onnx", nodes, weights)

    def pruned(**rules):
        report = prune_model(source, tmp_path / "b.onnx", **rules)
        return [w.weight for w in report.weights if w.status == "pruned"]

    assert pruned() == ["l0.w", "l1.w"]
    assert pruned(exclude=["l0*"]) == ["l1.w"]
    assert pruned(include=["l0*", "l2.w"]) == ["l0.w", "l2.w"]
    assert pruned(include=["l2*", "l0*"]) == ["l0.w"]
    assert pruned(min_channels=8) == ["l0.w", "l1.w", "l2.w"]
    with pytest.raises(SparsityError, match=r"can hold 2:4; l2.w: [^;]*fewer than 128"):
        pruned(include=["l2.w*"], min_channels=128)
    with pytest.raises(InputError, match=r"include: 'l9\*' matches no weight; the model has l0.w, l1.w"):
        pruned(include=["l9*"])


def test_everything_else_is_kept_and_the_lineage_is_written(tmp_path):
    source = write(
        tmp_path / "a.onnx", GOOD, [("good", randn(8, 16)), ("other", randn(3))], metadata=[("author", "me")]
    )
    report = prune_model(source, tmp_path / "b.onnx")
    before, after = onnx.load(source), onnx.load(tmp_path / "b.onnx")
    assert metadata(after)["author"] == "me"
    (entry,) = read_lineage(after)
    assert (entry.stage, entry.relation) == ("prune", "subset")
    assert entry.parent == verify_model(source).mask_sha256 == report.parent_mask_sha256
    verified = verify_model(tmp_path / "b.onnx")
    assert entry.child == verified.mask_sha256 == verified.recorded_mask_sha256
    assert verified.plan.method == METHOD
    del after.metadata_props[1:]
    after.graph.initializer[0].CopyFrom(before.graph.initializer[0])
    assert after == before


def test_pruning_again_changes_no_number(tmp_path):
    source = write(tmp_path / "a.onnx", GOOD, [("good", randn(8, 16))])
    first = prune_model(source, tmp_path / "b.onnx")
    again = prune_model(tmp_path / "b.onnx", tmp_path / "c.onnx")
    assert again.counts == {"pruned": 0, "kept": 1, "dense": 0}
    # Only what loses weights may lose accuracy.
    assert [any("lose most of their accuracy" in line for line in r.remarks()) for r in (first, again)] == [
        1,
        0,
    ]
    assert again.relation == "equal"
    assert [e.relation for e in read_lineage(load(tmp_path / "c.onnx").proto)] == ["subset", "equal"]


def test_a_stricter_pattern_of_training_stays_in_the_plan(tmp_path):
    dense = randn(8, 16)
    dense.reshape(8, 4, 4)[:, :, 1:] = 0
    plan = Plan((PlanEntry("good", NMPattern(1, 4), "trained", (8, 16), 1),), "sr-ste")
    source = write(tmp_path / "a.onnx", GOOD, [("good", dense)], metadata=[(METADATA_KEY, plan.to_json())])
    report = prune_model(source, tmp_path / "b.onnx")
    assert (report.weights[0].status, report.plan.entries[0].pattern) == ("kept", NMPattern(1, 4))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        pytest.param(
            {"target": "a.onnx"}, InputError, "is the input; give another path with -o", id="itself"
        ),
        pytest.param({"pattern": "4"}, PatternError, "is not an N:M pattern", id="pattern"),
        pytest.param({"source": "none.onnx"}, InputError, "does not exist", id="missing"),
        pytest.param(
            {"source": "bad.onnx"}, ModelError, "is not an ONNX model, or it is truncated", id="garbage"
        ),
        pytest.param({"target": "no/b.onnx"}, InputError, "does not exist; create it", id="no-folder"),
        pytest.param(
            {"exclude": ["*"]}, SparsityError, "no weight of .* can hold 2:4; good: excluded", id="none-left"
        ),
        pytest.param(
            {"pattern": "2:64"}, SparsityError, "16 input channels are not a multiple of 64", id="too-wide"
        ),
    ],
)
def test_bad_input_is_a_sentence_and_changes_nothing(tmp_path, change, error, message):
    write(tmp_path / "a.onnx", GOOD, [("good", randn(8, 16))])
    (tmp_path / "bad.onnx").write_bytes(b"\xff\xff\xff")
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    options = {"source": "a.onnx", "target": "b.onnx", **change}
    source, target = tmp_path / options.pop("source"), tmp_path / options.pop("target")
    with pytest.raises(error, match=message):
        prune_model(source, target, **options)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_sparse_initializer_is_left_with_a_reason(tmp_path):
    values = numpy_helper.from_array(np.arange(1, 41, dtype=np.float32), "w")
    indices = numpy_helper.from_array(np.arange(40, dtype=np.int64), "w_indices")
    sparse = helper.make_sparse_tensor(values, indices, [8, 16])
    nodes = [*GOOD, NODE("Gemm", ["x", "w"], ["y"], transB=1)]
    source = write(tmp_path / "a.onnx", nodes, [("good", randn(8, 16))], sparse=[sparse])
    report = prune_model(source, tmp_path / "b.onnx")
    assert reason_of(report) == "it is stored as a sparse tensor"
    assert onnx.load(tmp_path / "b.onnx").graph.sparse_initializer[0] == sparse


def test_command_line(tmp_path, capsys):
    source = write(tmp_path / "a.onnx", GOOD, [("good", randn(8, 16))])
    assert main(["prune", str(source), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"pruned": 1, "kept": 0, "dense": 0}
    assert report["output"] == str(tmp_path / "a.pruned.onnx")
    assert main(["verify", report["output"]]) == 0
    capsys.readouterr()
    assert main(["prune", str(source), "-o", str(tmp_path / "b.onnx"), "--pattern", "1:4"]) == 0
    assert "1 weight pruned to 1:4, 0 held it already, 0 stay dense" in capsys.readouterr().out
    assert main(["prune", str(source), "-o", str(source)]) == 2
    assert "is the input" in capsys.readouterr().err


_LARGE = """
import sys
from nm2trt.graph.prune.prune_model import prune_model
from nm2trt.measure import peak_resident_bytes
report = prune_model(sys.argv[1], sys.argv[2])
print(report.counts["pruned"], peak_resident_bytes())
"""


@pytest.mark.slow
def test_external_data_goes_through_by_pieces(tmp_path):
    count, rows, columns = 5, 8192, 4096
    block = randn(64, columns).tobytes()
    nodes, weights = [], []
    with (tmp_path / "big.data").open("wb") as file:
        for index in range(count):
            tensor = TensorProto(name=f"w{index}", data_type=TensorProto.FLOAT, dims=[rows, columns])
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (
                ("location", "big.data"),
                ("offset", file.tell()),
                ("length", rows * columns * 4),
            ):
                tensor.external_data.add(key=key, value=str(value))
            weights.append(tensor)
            nodes.append(NODE("MatMul", ["x", f"w{index}"], [f"y{index}"]))
            for _ in range(rows // 64):
                file.write(block)
    source = write(tmp_path / "a.onnx", nodes, weights)
    done = subprocess.run(
        [sys.executable, "-c", _LARGE, source, tmp_path / "b.onnx"],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    pruned, peak = map(int, done.stdout.split())
    assert pruned == count
    assert peak < 300 << 20, "640 MiB of weights"
    assert verify_model(tmp_path / "b.onnx").counts == {"holds": count}


@pytest.mark.parametrize("end", ["unread", "y"])
def test_a_weight_that_a_loop_hands_to_its_body_is_pruned_unless_more_reads_it(end, tmp_path):
    names = {"i": TensorProto.INT64, "go": TensorProto.BOOL, "c": TensorProto.BOOL}
    given, made = (
        [helper.make_tensor_value_info(name, names.get(name, TensorProto.FLOAT), None) for name in listed]
        for listed in (("i", "go", "h", "v"), ("c", "k", "again"))
    )
    inside = [
        NODE("Identity", ["go"], ["c"]),
        NODE("MatMul", ["h", "v"], ["k"]),
        NODE("Identity", ["v"], ["again"]),
    ]
    body = helper.make_graph(inside, "body", given, made)
    outputs = ["y", "unread"] if end == "unread" else ["state", "y"]
    nodes = [NODE("Loop", ["trips", "", "x", "w"], outputs, name="loop", body=body)]
    weight = randn(16, 16)
    source = write(
        tmp_path / "a.onnx", nodes, [("w", weight), ("trips", np.array(2))], inputs=(("x", [None, 16]),)
    )
    if end == "y":
        with pytest.raises(SparsityError, match="w: it is also an output of the model"):
            prune_model(source, tmp_path / "b.onnx")
        return
    prune_model(source, tmp_path / "b.onnx")
    kept = best_of_every_group(np.abs(weight), 0)
    np.testing.assert_array_equal(stored(tmp_path / "b.onnx"), np.where(kept, weight, 0))
