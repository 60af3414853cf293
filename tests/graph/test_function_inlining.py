"""Passes on models with local functions: calls are inlined first, under the names that verify shows."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.errors import ModelError
from nm2trt.graph.function_inlining import FunctionInlining
from nm2trt.graph.pass_frame import run_passes
from nm2trt.graph.storage.model import load

RNG = np.random.default_rng(5)
FLOAT = TensorProto.FLOAT


def numbers(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def opsets(**others):
    return [helper.make_opsetid(domain, version) for domain, version in {"": 17, **others}.items()]


def constant(name, array):
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))


def saved(path, nodes, functions, initializers, shape, *, inputs=(), opset=17):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape), *inputs],
        [helper.make_tensor_value_info("y", FLOAT, [None] * len(shape))],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    onnx.save(helper.make_model(graph, functions=functions, opset_imports=imports, ir_version=9), path)
    return path


@pytest.fixture
def blocks(tmp_path):
    """Two calls of Conv-BatchNorm-Relu in a call of another function; one reads a weight of its own."""
    block = helper.make_function(
        "local",
        "Block",
        ["p", "w", "s"],
        ["r"],
        [
            helper.make_node("Conv", ["p", "w"], ["c"], "conv", pads=[1, 1, 1, 1]),
            helper.make_node("BatchNormalization", ["c", "s", "s", "s", "s"], ["n"], "norm"),
            helper.make_node("Relu", ["n"], ["r"]),
        ],
        opsets(),
    )
    own = [
        constant("w", numbers(16, 16, 3, 3)),
        helper.make_node("Block", ["p", "v", "s"], ["q"], "first", domain="local"),
        helper.make_node("Block", ["q", "w", "t"], ["r"], "second", domain="local"),
    ]
    stack = helper.make_function("local", "Stack", ["p", "v", "s", "t"], ["r"], own, opsets(local=1))
    stored = {"w": numbers(16, 16, 3, 3)}
    stored |= {name: RNG.uniform(0.5, 1, 16).astype(np.float32) for name in ("s", "t")}
    nodes = [helper.make_node("Stack", ["x", "w", "s", "t"], ["y"], "stack", domain="local")]
    return saved(tmp_path / "m.onnx", nodes, [block, stack], stored, [2, 16, 6, 6])


def rows(path):
    return [(v.weight, v.consumer, v.pattern, v.axis, v.shape) for v in nm2trt.verify(path).weights]


def outputs(path, feeds):
    return ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)


def operators(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_verify_says_the_same_of_an_inlined_model(blocks, tmp_path):
    step = FunctionInlining(compared=True)
    passed = run_passes(blocks, tmp_path / "flat.onnx", [step])
    flat = onnx.load(tmp_path / "flat.onnx")
    onnx.checker.check_model(flat, full_check=True)
    assert not flat.functions
    assert step.notes == ("3 calls of local functions inlined",)
    assert passed.agreement.differences[0].max_abs == 0
    assert rows(tmp_path / "flat.onnx") == rows(blocks)
    assert [v[:2] for v in rows(blocks)] == [
        ("w", "stack/first/conv"),
        ("stack/w", "stack/second/conv"),
    ]


def test_fuse_folds_what_stands_in_functions(blocks, tmp_path):
    report = nm2trt.fuse(blocks, tmp_path / "fused.onnx")
    assert report.batchnorms_folded == 2
    assert report.notes == ("3 calls of local functions inlined",)
    assert operators(tmp_path / "fused.onnx") == ["Conv", "Relu", "Conv", "Relu"]
    feeds = {"x": numbers(2, 16, 6, 6)}
    expected, found = outputs(blocks, feeds)[0], outputs(tmp_path / "fused.onnx", feeds)[0]
    assert np.abs(expected - found).max() < 1e-5 * np.abs(expected).max()
    assert [v.weight for v in nm2trt.verify(tmp_path / "fused.onnx").weights] == ["w", "stack/w"]


def test_cast_and_quantize_reach_into_functions(blocks, tmp_path):
    cast = nm2trt.cast(blocks, tmp_path / "half.onnx")
    assert [t.data_type for t in onnx.load(tmp_path / "half.onnx").graph.initializer] == [
        TensorProto.FLOAT16
    ] * 4
    assert cast.kept == ()
    found = nm2trt.quantize(
        blocks, tmp_path / "q.onnx", calib={"x": numbers(4, 16, 6, 6)}, exclude=["stack/w"]
    )
    assert [(layer.weight, layer.quantised) for layer in found.layers] == [("w", True), ("stack/w", False)]
    assert found.notes[0] == "3 calls of local functions inlined"


def test_shards_find_the_ranges_of_one_run(blocks, tmp_path):
    samples = {"x": numbers(4, 16, 6, 6)}
    whole = nm2trt.quantize(blocks, tmp_path / "q.onnx", calib=samples)
    np.savez(tmp_path / "calib.npz", **samples)
    for shard in ("0/2", "1/2"):
        nm2trt.quantize_shard(blocks, calib=tmp_path / "calib.npz", shard=shard, batch=2)
    merged = nm2trt.quantize(blocks, tmp_path / "r.onnx", calib=tmp_path / "calib.npz", batch=2, merge=True)
    assert merged.scales == whole.scales


def test_prune_from_samples_and_permute_reach_into_functions(blocks, tmp_path):
    report = nm2trt.prune(blocks, tmp_path / "p.onnx", calib={"x": numbers(8, 16, 6, 6)})
    assert [row.status for row in report.weights] == ["pruned", "pruned"]
    assert report.notes == ("3 calls of local functions inlined",)
    for tensor in onnx.load(tmp_path / "p.onnx").graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 4:
            groups = (np.moveaxis(array, 1, -1) != 0).reshape(-1, 4).sum(axis=1)
            assert groups.max() == 2
    permuted = nm2trt.permute(blocks, tmp_path / "o.onnx")
    assert permuted.moved == 1
    assert permuted.notes == ("3 calls of local functions inlined",)


def test_a_plan_follows_weights_of_bodies_in_functions(tmp_path):
    def body(name):
        inner = [constant("k", numbers(16, 16)), helper.make_node("MatMul", ["p", "k"], [name])]
        return helper.make_graph(inner, name, [], [helper.make_tensor_value_info(name, FLOAT, None)])

    choose = helper.make_node("If", ["c"], ["r"], "if", then_branch=body("t"), else_branch=body("e"))
    function = helper.make_function("local", "F", ["p", "c"], ["r"], [choose], opsets())
    nodes = [
        helper.make_node("F", ["x", "c"], ["h"], "one", domain="local"),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    condition = helper.make_tensor_value_info("c", TensorProto.BOOL, [])
    path = saved(tmp_path / "m.onnx", nodes, [function], {"w": numbers(16, 16)}, [2, 16], inputs=[condition])
    nm2trt.prune(path, tmp_path / "p.onnx")
    nm2trt.fuse(tmp_path / "p.onnx", tmp_path / "f.onnx")
    found = nm2trt.verify(tmp_path / "f.onnx")
    assert found.missing == ()
    assert [v.pattern for v in found.weights] == ["holds"] * 3
    assert found.mask_sha256 == nm2trt.verify(tmp_path / "p.onnx").mask_sha256


@pytest.mark.parametrize("stays", [False, True], ids=["inlined", "of-another-opset"])
def test_weights_that_functions_return_are_judged_where_they_are_read(stays, tmp_path):
    """As torch 2.1 to 2.5 export with dynamo: aten_t is a function that transposes, and a constant may be one."""
    own = [helper.make_opsetid("", 16 if stays else 17)]
    stored = numbers(32, 16)
    functions = [
        helper.make_function("local", "Weight", [], ["r"], [constant("r", stored)], own),
        helper.make_function("local", "T", ["w"], ["r"], [helper.make_node("Transpose", ["w"], ["r"])], own),
    ]
    nodes = [
        helper.make_node("T", ["v"], ["vt"], "turn", domain="local"),
        helper.make_node("Weight", [], ["w"], "get", domain="local"),
        helper.make_node("MatMul", ["x", "vt"], ["h"], "first"),
        helper.make_node("MatMul", ["h", "w"], ["y"], "second"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, functions, {"v": numbers(32, 16)}, [2, 16])
    assert rows(path) == [
        ("v", "first", "broken", 0, (16, 32)),
        ("get/r", "second", "broken", 0, (32, 16)),
    ]
    feeds = {"x": numbers(2, 16)}
    for name, work in (("cast", nm2trt.cast), ("fuse", nm2trt.fuse), ("prune", nm2trt.prune)):
        work(path, tmp_path / f"{name}.onnx")
    assert np.array_equal(outputs(path, feeds)[0], outputs(tmp_path / "fuse.onnx", feeds)[0])
    pruned = nm2trt.verify(tmp_path / "prune.onnx")
    assert [v.pattern for v in pruned.weights] == ["holds", "holds"]
    (found,) = (f for f in onnx.load(tmp_path / "prune.onnx").functions if f.name == "Weight")
    left = numpy_helper.to_array(found.node[0].attribute[0].t)
    kept = left != 0
    assert np.array_equal(left[kept], stored[kept])
    assert (kept.reshape(8, 4, 16).sum(axis=1) == 2).all()
    nm2trt.cast(tmp_path / "prune.onnx", tmp_path / "half.onnx")
    assert [v.pattern for v in nm2trt.verify(tmp_path / "half.onnx").weights] == ["holds", "holds"]


def test_functions_of_another_opset_stay(tmp_path):
    relu = [helper.make_node("Relu", ["p"], ["r"])]
    functions = [
        helper.make_function("local", name, ["p"], ["r"], relu, [helper.make_opsetid("", opset)])
        for name, opset in (("Old", 16), ("Same", 17))
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Same", ["h"], ["i"], "one", domain="local"),
        helper.make_node("Old", ["i"], ["y"], "two", domain="local"),
    ]
    path = saved(tmp_path / "m.onnx", nodes, functions, {"w": numbers(16, 16)}, [2, 16])
    report = nm2trt.fuse(path, tmp_path / "f.onnx")
    assert report.notes == ("1 call of local functions inlined; 1 of other opsets than the model's stay",)
    assert operators(tmp_path / "f.onnx") == ["MatMul", "Relu", "Old"]


def test_functions_that_unfold_to_gigabytes_are_refused(tmp_path):
    big = [constant("k", np.zeros((256, 1024), np.float32)), helper.make_node("Add", ["p", "k"], ["r"])]
    functions = [helper.make_function("local", "F0", ["p"], ["r"], big, opsets())]
    for level in range(1, 13):
        inner = [
            helper.make_node(f"F{level - 1}", ["p"], ["q"], domain="local"),
            helper.make_node(f"F{level - 1}", ["q"], ["r"], domain="local"),
        ]
        functions.append(helper.make_function("local", f"F{level}", ["p"], ["r"], inner, opsets(local=1)))
    nodes = [helper.make_node("F12", ["x"], ["y"], domain="local")]
    path = saved(tmp_path / "m.onnx", nodes, functions, {}, [256, 1024])
    with pytest.raises(ModelError, match=r"unfold to 4,295,\d{3},\d{3} bytes, more than"):
        nm2trt.fuse(path, tmp_path / "f.onnx")
    assert not (tmp_path / "f.onnx").exists()


def test_a_function_that_nothing_calls_changes_nothing(tmp_path):
    function = helper.make_function(
        "local", "F", ["p"], ["r"], [helper.make_node("Relu", ["p"], ["r"])], opsets()
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = saved(tmp_path / "m.onnx", nodes, [function], {"w": numbers(16, 16)}, [2, 16])
    assert nm2trt.fuse(path, tmp_path / "f.onnx").notes == ()
    assert load(tmp_path / "f.onnx").proto == load(path).proto


def test_calls_that_share_a_name_stay_apart(tmp_path):
    inner = [helper.make_node("MatMul", ["p", "w"], ["t"], "product"), helper.make_node("Relu", ["t"], ["r"])]
    layer = helper.make_function("local", "Layer", ["p", "w"], ["r"], inner, opsets())
    calls = [
        helper.make_node("Layer", ["p", "v"], ["q"], "same", domain="local"),
        helper.make_node("Layer", ["q", "w"], ["r"], "same", domain="local"),
    ]
    pair = helper.make_function("local", "Pair", ["p", "v", "w"], ["r"], calls, opsets(local=1))
    nodes = [helper.make_node("Pair", ["x", "v", "w"], ["y"], "pair", domain="local")]
    stored = {name: numbers(16, 16) for name in ("v", "w")}
    source = saved(tmp_path / "m.onnx", nodes, [layer, pair], stored, [2, 16])
    nm2trt.fuse(source, tmp_path / "f.onnx")
    products = [node for node in onnx.load(tmp_path / "f.onnx").graph.node if node.op_type == "MatMul"]
    assert len({node.name for node in products}) == len(products) == 2
    x = numbers(2, 16)
    wanted = np.maximum(np.maximum(x @ stored["v"], 0) @ stored["w"], 0)
    session = ort.InferenceSession(tmp_path / "f.onnx", providers=["CPUExecutionProvider"])
    assert np.allclose(session.run(None, {"x": x})[0], wanted, rtol=1e-4, atol=1e-4)
