"""Shapes and types behind operators that only onnxruntime knows, as its transformer optimiser writes them."""

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.graph.analysis import shapes
from nm2trt.graph.analysis.shapes import infer_shapes, infer_types
from nm2trt.graph.storage.model import load

WIDTH, HIDDEN = 16, 32


def optimised_net():
    """Return a transformer block and an image branch in the operators of the optimiser."""
    rng = np.random.default_rng(0)
    sizes = {
        "word": (50, WIDTH), "place": (8, WIDTH), "gain": (WIDTH,), "shift": (WIDTH,),
        "qkv": (WIDTH, 3 * WIDTH), "qkv_bias": (3 * WIDTH,), "out": (WIDTH, WIDTH),
        "up": (WIDTH, HIDDEN), "up_bias": (HIDDEN,), "down": (HIDDEN, WIDTH),
        "kernel": (4, 3, 3, 3), "conv_bias": (4,), "conv_next": (4, 4, 1, 1),
    }  # fmt: skip
    stored = [
        numpy_helper.from_array((rng.standard_normal(size) / 8).astype(np.float32), name)
        for name, size in sizes.items()
    ]
    nodes = [
        ("EmbedLayerNormalization", "ids,,word,place,,gain,shift", "embedded,mask_index", {}),
        ("Attention", "embedded,qkv,qkv_bias", "attended", {"num_heads": 2}),
        ("MatMul", "attended,out", "projected", None),
        ("SkipLayerNormalization", "projected,embedded,gain,shift", "normed,,,sum", {}),
        ("MatMul", "normed,up", "wide", None),
        ("BiasGelu", "wide,up_bias", "active", {}),
        ("MatMul", "active,down", "narrow", None),
        ("FusedMatMul", "narrow,sum", "scores", {"transB": 1}),
        ("Relu", "scores", "y", None),
        ("FusedConv", "image,kernel,conv_bias", "seen", {"activation": "Relu", "strides": [2, 2]}),
        ("Conv", "seen,conv_next", "z", None),
    ]
    made = [
        helper.make_node(
            operator, read.split(","), made.split(","),
            domain="" if own is None else "com.microsoft", **(own or {}),
        )
        for operator, read, made, own in nodes
    ]  # fmt: skip
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT32, [2, 8]),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 9, 9]),
    ]
    outputs = [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
        helper.make_tensor_value_info("z", TensorProto.FLOAT, None),
    ]
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph(made, "optimised", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


FEEDS = {
    "ids": np.arange(16, dtype=np.int32).reshape(2, 8),
    "image": np.random.default_rng(1).standard_normal((1, 3, 9, 9)).astype(np.float32),
}


def ran(model):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, FEEDS), strict=True))


def test_shapes_and_types_are_those_that_onnxruntime_makes(tmp_path):
    onnx.save(optimised_net(), tmp_path / "m.onnx")
    found = load(tmp_path / "m.onnx")
    shapes, types = infer_shapes(found), infer_types(found)
    probed = optimised_net()
    floats = [name for node in probed.graph.node for name in node.output if name and name != "mask_index"]
    del probed.graph.output[:]
    probed.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in floats)
    for name, value in ran(probed).items():
        assert types[name] == helper.np_dtype_to_tensor_dtype(value.dtype), name
        if name in shapes:
            assert shapes[name] == value.shape, name
    assert {"embedded", "normed", "active", "sum", "seen", "z"} <= set(shapes)


CACHE = [[2, 2, 0, 8], [2, 2, 0, 8]]


@pytest.mark.parametrize(
    ("operator", "attributes", "read", "known"),
    [
        ("MultiHeadAttention", {"num_heads": 2}, [[2, 5, 16], [2, 7, 16], [2, 7, 32]], True),
        ("MultiHeadAttention", {"num_heads": 2}, [[2, 5, 16], [2, 2, 7, 8], [2, 2, 7, 8]], False),
        (
            "GroupQueryAttention",
            {"num_heads": 4, "kv_num_heads": 2},
            [[2, 3, 32], *[[2, 3, 16]] * 2, *CACHE],
            True,
        ),
        ("GroupQueryAttention", {"num_heads": 4, "kv_num_heads": 2}, [[2, 3, 64], None, None, *CACHE], False),
        ("FusedMatMul", {"alpha": 0.5}, [[2, 1, 5, 4], [3, 4, 6]], True),
        ("FusedMatMul", {"transA": 1}, [[2, 3, 4, 5], [2, 3, 4, 6]], True),
        ("FusedMatMul", {"transB": 1}, [[2, 1, 5, 4], [2, 3, 6, 4]], True),
        ("FusedMatMul", {"transA": 1, "transB": 1}, [[2, 3, 4, 5], [6, 4]], False),
        ("FusedMatMul", {"transBatchA": 1}, [[5, 2, 3, 4], [2, 3, 4, 6]], False),
    ],
)
def test_shapes_after_attention_and_products_are_those_that_onnxruntime_makes(
    operator, attributes, read, known
):
    names = ["" if shape is None else f"x{place}" for place, shape in enumerate(read)]
    stored = []
    if operator == "GroupQueryAttention":
        names += ["last", "total"]
        stored = [numpy_helper.from_array(np.array(*of), name) for of, name in (
            (([2, 2], np.int32), "last"), ((3, np.int32), "total"),
        )]  # fmt: skip
    outputs = ["y", "key", "value"] if operator == "GroupQueryAttention" else ["y"]
    nodes = [
        helper.make_node(operator, names, outputs, domain="com.microsoft", **attributes),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    sizes = {name: shape for name, shape in zip(names, read, strict=False) if name}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in sizes.items()],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, None)],
        stored,
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    feeds = {name: np.ones(shape, np.float32) for name, shape in sizes.items()}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (value,) = session.run(["z"], feeds)
    assert infer_shapes(load(model)).get("z") == (value.shape if known else None)
    assert infer_types(load(model))["z"] == TensorProto.FLOAT
    model.opset_import[0].version = 11  # it has no Einsum
    assert infer_types(load(model))["z"] == TensorProto.FLOAT


def test_a_model_that_the_optimiser_wrote_is_cast_around_its_operators(tmp_path):
    onnx.save(optimised_net(), tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx")
    assert report.kept == ()
    cast = onnx.load(tmp_path / "c.onnx")
    types = {tensor.name: tensor.data_type for tensor in cast.graph.initializer}
    assert {types[name] for name in ("out", "up", "down", "conv_next")} == {TensorProto.FLOAT16}
    assert {types[name] for name in ("word", "qkv", "kernel")} == {TensorProto.FLOAT}
    wanted = ran(optimised_net())
    for name, value in ran(cast).items():
        assert value == pytest.approx(wanted[name], abs=0.01)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions_at_which_an_old_onnx_crashes_are_kept_from_its_inference(monkeypatch, operator):
    """Up to 1.21 it ends the process where input and weight differ in rank and nothing says the kernel's shape."""
    nodes = [
        helper.make_node(operator, ["x", "w"], ["a"]),
        helper.make_node("Neg", ["w"], ["v"]),
        helper.make_node(operator, ["a", "v"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    weight = numpy_helper.from_array(np.ones((8, 8, 3, 3), "f4"), "w")
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [1, 8, 9, 9])], [value("y", 1, None)], initializer=[weight]
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    stored = made.SerializeToString()
    size = {"Conv": (7, 5), "ConvTranspose": (11, 13)}[operator]
    monkeypatch.setattr(shapes, "_onnx_is_before_1_22", lambda: False)
    found = infer_shapes(load(made))
    assert found["a"] == (1, 8, size[0], size[0])
    assert found["y"] == (1, 8, size[1], size[1])
    monkeypatch.setattr(shapes, "_onnx_is_before_1_22", lambda: True)
    inferred = []
    monkeypatch.setattr(
        shapes.light_onnx,
        "infer_shapes",
        lambda proto, **options: (
            inferred.append(proto) or onnx.shape_inference.infer_shapes(proto, **options)
        ),
    )
    found = infer_shapes(load(made))
    assert found["a"] == (1, 8, size[0], size[0])
    assert not any(found.get("y", ()))
    given = [node for proto in inferred for node in proto.graph.node if node.op_type == operator]
    assert given
    assert all(list(helper.get_node_attr_value(node, "kernel_shape")) == [3, 3] for node in given)
    assert made.SerializeToString() == stored
    assert shapes.crashes_inference(made)


def test_the_shape_of_a_stored_kernel_is_written_wherever_a_convolution_reads_it():
    model = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 19, "mine" : 1]>
        g (float[1,2,9,9] x, uint8[1,2,9,9] q, float[1,18,8,8] at, bool c, float s, uint8 z) => (float[a,b,e,f] y) {
            k = Constant <value = float[2,1,3] {1, 2, 3, 4, 5, 6}> ()
            y1 = Conv(x, w)
            y2 = ConvTranspose(x, w)
            y3 = ConvInteger(q, p)
            y4 = QLinearConv(q, s, z, p, s, z, s, z)
            y5 = DeformConv(x, w, at)
            y6 = Conv(x, k)
            y7 = Conv <kernel_shape = [2, 3]> (x, w)
            v = Neg(w)
            y8 = Conv(x, v)
            y9 = mine.Conv(x, w)
            y = If(c) <then_branch = t () => (float[a,b,e,f] i) { i = Conv(x, w) },
                       else_branch = n () => (float[a,b,e,f] j) { j = Conv(x, w) }>
        }""")
    other = model.graph.node[-1].attribute[1].g
    for graph, name, dims in ((model.graph, "w", (4, 2, 2, 3)), (model.graph, "p", (4, 2, 2, 3)), (other, "w", (1, 2, 7, 1))):  # fmt: skip
        graph.initializer.add(name=name, dims=dims)
    shapes.write_kernel_shapes(model.graph)
    bodies = [body.node[0] for body in shapes.graphs_of(model.graph.node[-1])]
    found = {
        node.output[0]: list(attribute.ints)
        for node in [*model.graph.node, *bodies]
        for attribute in node.attribute
        if attribute.name == "kernel_shape"
    }
    assert found == {**{f"y{n}": [2, 3] for n in (1, 2, 3, 4, 5, 7)}, "y6": [3], "i": [2, 3], "j": [7, 1]}


@pytest.mark.parametrize(
    ("version", "before"),
    [("1.19.0", True), ("1.21.1", True), ("1.22.0rc1", False), ("1.24.0.dev20261026", False), ("", True)],
)
def test_an_onnx_of_any_build_is_dated(monkeypatch, version, before):
    """A nightly build is of a name of its own, and one that was never installed has no version."""
    shapes._onnx_is_before_1_22.cache_clear()
    monkeypatch.setattr(shapes, "installed_version", lambda *names: version if "onnx-weekly" in names else "")
    assert shapes._onnx_is_before_1_22() is before
    shapes._onnx_is_before_1_22.cache_clear()


@pytest.mark.parametrize(("inputs", "sizes"), [("x", "32, 96"), ("x, w", "96"), ("x, w", "")])
def test_an_attention_without_projections_of_two_dimensions_has_no_known_shape(tmp_path, inputs, sizes):
    text = f"""<ir_version: 9, opset_import: ["": 18, "com.microsoft": 1]>
        g (float[1, 4, 32] x, float[{sizes}] w) => (float[a, b, c] y) {{ y = com.microsoft.Attention({inputs}) }}"""
    proto = onnx.parser.parse_model(text)
    proto.graph.input.pop()
    sizes = [int(size) for size in sizes.split(", ") if size]
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(sizes, np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    assert infer_shapes(load(tmp_path / "m.onnx")).get("y") == (None, None, None)
