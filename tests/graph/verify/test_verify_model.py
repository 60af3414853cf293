"""verify_model: every layout, storage form and consumer, and what is refused."""

import json

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.errors import InputError, ModelError, PatternError
from nm2trt.graph.verify import stored_readers
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.advice import is_prunable
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry

TWO_FOUR = NMPattern(2, 4)


def sparse(shape, axis, pattern="2:4", seed=0, dtype=np.float32):
    """Return a weight that holds `pattern` along `axis` and, being random, nothing else."""
    weight = np.random.default_rng(seed).standard_normal(shape) + 3.0
    return (
        weight * nm_mask(np.random.default_rng(seed + 1).random(shape), NMPattern.parse(pattern), axis=axis)
    ).astype(dtype)


def model(
    nodes, inputs, initializers=(), *, opset=18, functions=(), sparse_initializers=(), domains=(), metadata=()
):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [t if isinstance(t, onnx.TensorProto) else numpy_helper.from_array(t[1], t[0]) for t in initializers],
        sparse_initializer=list(sparse_initializers),
    )
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    proto = helper.make_model(graph, opset_imports=opsets, functions=list(functions))
    for key, value in metadata:
        proto.metadata_props.add(key=key, value=value)
    return proto


def only(proto, **options):
    """Verify a model with one weight and return its verdict."""
    (verdict,) = verify_model(proto, **options).weights
    return verdict


NODE = helper.make_node

CONSUMERS = [
    pytest.param("Conv", (8, 16, 3), 1, {}, {"x": [1, 16, 9]}, id="conv1d"),
    pytest.param("Conv", (8, 16, 3, 2), 1, {}, {"x": [1, 16, 9, 9]}, id="conv2d"),
    pytest.param("Conv", (8, 16, 1, 2, 3), 1, {}, {"x": [1, 16, 5, 5, 5]}, id="conv3d"),
    pytest.param("Conv", (8, 8, 3, 3), 1, {"group": 2}, {"x": [1, 16, 9, 9]}, id="conv-grouped"),
    pytest.param("ConvTranspose", (16, 8, 3, 3), 0, {}, {"x": [1, 16, 9, 9]}, id="conv-transpose"),
    pytest.param(
        "ConvTranspose", (16, 8, 3, 3), 0, {"group": 2}, {"x": [1, 16, 9, 9]}, id="conv-transpose-grouped"
    ),
    pytest.param("Gemm", (16, 12), 0, {}, {"x": [5, 16]}, id="gemm"),
    pytest.param("Gemm", (12, 16), 1, {"transB": 1}, {"x": [5, 16]}, id="gemm-transB"),
    pytest.param("Gemm", (16, 12), 0, {"transA": 1}, {"x": [16, 5]}, id="gemm-transA-of-activation"),
    pytest.param("MatMul", (16, 12), 0, {}, {"x": [5, 16]}, id="matmul"),
    pytest.param("MatMul", (3, 16, 12), 1, {}, {"x": [3, 5, 16]}, id="matmul-batched"),
    pytest.param("MatMul", (1, 16, 12), 1, {}, {"x": [5, 16]}, id="matmul-batch-of-one"),
    pytest.param("MatMul", (16,), 0, {}, {"x": [5, 16]}, id="matmul-vector"),
    pytest.param("Einsum", (16, 12), 0, {"equation": "bk,kn->bn"}, {"x": [5, 16]}, id="einsum"),
    pytest.param(
        "Einsum", (12, 16), 1, {"equation": "...k, nk -> ...n"}, {"x": [2, 5, 16]}, id="einsum-ellipsis"
    ),
]


@pytest.mark.parametrize(("operator", "shape", "axis", "attributes", "inputs"), CONSUMERS)
def test_every_consumer_on_its_axis(operator, shape, axis, attributes, inputs):
    node = NODE(operator, ["x", "w"], ["y"], name="reader", **attributes)
    verdict = only(model([node], inputs, [("w", sparse(shape, axis))]))
    assert (verdict.weight, verdict.consumer, verdict.axis, verdict.pattern) == ("w", "reader", axis, "holds")
    for wrong in range(len(shape)):
        if wrong != axis and shape[wrong] % 4 == 0:
            turned = only(model([node], inputs, [("w", sparse(shape, wrong))]))
            assert turned.pattern == "broken", f"a pattern along axis {wrong} passed"
            assert f"along axis {wrong}, which {operator} does not reduce" in turned.sentence


@pytest.mark.parametrize(
    ("operator", "shape", "axis", "attributes", "inputs"),
    [
        pytest.param("MatMul", (12, 16), 1, {}, {"x": [16, 5]}, id="matmul-left"),
        pytest.param("MatMul", (16,), 0, {}, {"x": [16, 5]}, id="matmul-left-vector"),
        pytest.param("MatMul", (2, 12, 16), 2, {}, {"x": [2, 16, 5]}, id="matmul-left-batched"),
        pytest.param("Gemm", (12, 16), 1, {}, {"x": [16, 5]}, id="gemm-A"),
        pytest.param("Gemm", (16, 12), 0, {"transA": 1}, {"x": [16, 5]}, id="gemm-A-transA"),
    ],
)
def test_constant_on_the_left(operator, shape, axis, attributes, inputs):
    node = NODE(operator, ["w", "x"], ["y"], **attributes)
    verdict = only(model([node], inputs, [("w", sparse(shape, axis))]))
    assert (verdict.axis, verdict.pattern, verdict.eligible) == (axis, "holds", "no")  # fp32


def test_depthwise_and_rows_of_six_are_not_groupable():
    depthwise = NODE("Conv", ["x", "w"], ["y"], group=16)
    verdict = only(model([depthwise], {"x": [1, 16, 9, 9]}, [("w", np.ones((16, 1, 3, 3), np.float32))]))
    assert (verdict.pattern, verdict.reason) == ("not-groupable", "not-a-multiple")
    assert "axis 1 has 1 element, not a multiple of 4" in verdict.sentence
    # 4 x 6 holds a multiple of 4 elements in all, but not on the row.
    six = NODE("Gemm", ["x", "w"], ["y"], transB=1)
    verdict = only(model([six], {"x": [1, 6]}, [("w", np.zeros((4, 6), np.float32))]))
    assert "axis 1 has 6 elements, not a multiple of 4" in verdict.sentence


def test_groups_of_a_transposed_convolution_do_not_cross():
    # Axis 0 has 12 elements in 2 runs of 6: a multiple of 4 in all, but not in each.
    node = NODE("ConvTranspose", ["x", "w"], ["y"], group=2)
    verdict = only(model([node], {"x": [1, 12, 5, 5]}, [("w", np.zeros((12, 4, 3, 3), np.float32))]))
    assert "axis 0 has 6 elements a group, not a multiple of 4" in verdict.sentence


def test_broken_group_is_named_in_the_stored_tensor():
    weight = sparse((16, 12), 0)
    weight[4:8, 7] = 1.0
    node = NODE("MatMul", ["x", "w"], ["y"])
    verdict = only(model([node], {"x": [5, 16]}, [("w", weight)]))
    assert (verdict.groups, verdict.broken_groups, verdict.first_broken) == (48, 1, (4, 7))
    # Behind Transpose and Reshape the place is still that of the stored tensor.
    stored = np.ascontiguousarray(weight.T).reshape(3, 4, 16)
    chain = [
        NODE("Reshape", ["w", "shape"], ["flat"]),
        NODE("Transpose", ["flat"], ["turned"]),
        NODE("MatMul", ["x", "turned"], ["y"]),
    ]
    verdict = only(model(chain, {"x": [5, 16]}, [("w", stored), ("shape", np.array([12, 16], np.int64))]))
    place = verdict.first_broken
    assert place == tuple(np.unravel_index(7 * 16 + 4, stored.shape))


def int8_weight(zero_point):
    kept = nm_mask(np.random.default_rng(1).random((8, 16, 3, 3)), TWO_FOUR, axis=1)
    values = np.random.default_rng(2).integers(1, 90, (8, 16, 3, 3))
    return np.where(kept, zero_point + values, zero_point)


CHAINS = {
    "identity": ([NODE("Identity", ["w"], ["v"])], []),
    "double-transpose": (
        [
            NODE("Transpose", ["w"], ["t"], perm=[3, 2, 0, 1]),
            NODE("Transpose", ["t"], ["v"], perm=[2, 3, 1, 0]),
        ],
        [],
    ),
    "reshape": ([NODE("Reshape", ["w", "s"], ["v"])], [("s", np.array([8, 16, 3, -1], np.int64))]),
    "cast": (
        [
            NODE("Cast", ["w"], ["h"], to=TensorProto.FLOAT16),
            NODE("Cast", ["h"], ["v"], to=TensorProto.FLOAT),
        ],
        [],
    ),
    "slice": (
        [NODE("Slice", ["w", "b", "e", "a"], ["v"])],
        [("b", np.array([0], np.int64)), ("e", np.array([2**40], np.int64)), ("a", np.array([2], np.int64))],
    ),
    "split-concat": (
        [NODE("Split", ["w"], ["p", "q"], axis=1, num_outputs=2), NODE("Concat", ["p", "q"], ["v"], axis=1)],
        [],
    ),
    "pad": ([NODE("Pad", ["w", "p"], ["v"])], [("p", np.array([0, 0, 0, 0, 0, 0, 2, 2], np.int64))]),
    "squeeze": (
        [NODE("Unsqueeze", ["w", "a"], ["u"]), NODE("Squeeze", ["u", "a"], ["v"])],
        [("a", np.array([0], np.int64))],
    ),
    "scale": ([NODE("Mul", ["w", "s"], ["v"])], [("s", np.full((8, 1, 1, 1), 0.5, np.float32))]),
    "quantise-dequantise": (
        [
            NODE("QuantizeLinear", ["w", "s", "z"], ["q"], axis=0),
            NODE("DequantizeLinear", ["q", "s", "z"], ["v"], axis=0),
        ],
        [("s", np.full(8, 0.05, np.float32)), ("z", np.zeros(8, np.int8))],
    ),
}


@pytest.mark.parametrize("chain", CHAINS)
def test_constant_chain_in_front(chain):
    nodes, extra = CHAINS[chain]
    conv = NODE("Conv", ["x", "v"], ["y"])
    weight = sparse((8, 16, 3, 3), 1)
    proto = model([*nodes, conv], {"x": [1, 16, 9, 9]}, [("w", weight), *extra])
    verdict = only(proto)
    assert (verdict.weight, verdict.pattern, verdict.zero_share >= 0.5) == ("w", "holds", True)
    weight[1, 4:8, 2, 2] = 1.0
    proto = model([*nodes, conv], {"x": [1, 16, 9, 9]}, [("w", weight), *extra])
    verdict = only(proto)
    assert (verdict.pattern, verdict.broken_groups, verdict.first_broken) == ("broken", 1, (1, 4, 2, 2))


def test_masks_left_in_the_graph_as_exporters_leave_them():
    weight = np.ones((8, 16, 3, 3), np.float32)
    a = nm_mask(np.random.default_rng(0).random(weight.shape), TWO_FOUR, axis=1)
    b = np.random.default_rng(1).random((3, 3)) > 0.5
    nodes = [
        NODE("And", ["a", "b"], ["m"]),
        NODE("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        NODE("Mul", ["w", "f"], ["v"]),
        NODE("Conv", ["x", "v"], ["y"]),
    ]
    verdict = only(model(nodes, {"x": [1, 16, 9, 9]}, [("w", weight), ("a", a), ("b", b)]))
    assert (verdict.weight, verdict.dtype, verdict.pattern) == ("w", "float32", "holds")
    verdict = only(
        model(nodes, {"x": [1, 16, 9, 9]}, [("w", weight), ("a", np.ones_like(a)), ("b", np.ones_like(b))])
    )
    assert verdict.pattern == "broken"


@pytest.mark.parametrize("form", ["value", "sparse_value", "value_floats", "function attribute"])
def test_constant_nodes(form):
    weight = sparse((16,), 0)
    tensor = numpy_helper.from_array(weight, "c")
    if form == "value":
        constant = NODE("Constant", [], ["w"], value=tensor)
    elif form == "sparse_value":
        places = np.flatnonzero(weight)
        values = numpy_helper.from_array(weight[places], "c")
        constant = NODE(
            "Constant",
            [],
            ["w"],
            sparse_value=helper.make_sparse_tensor(values, numpy_helper.from_array(places), [16]),
        )
    elif form == "value_floats":
        constant = NODE("Constant", [], ["w"], value_floats=weight.tolist())
    else:
        inner = NODE("Constant", [], ["w"])
        inner.attribute.add(name="value", ref_attr_name="given", type=onnx.AttributeProto.TENSOR)
        function = helper.make_function(
            "local",
            "Product",
            ["a"],
            ["b"],
            [inner, NODE("MatMul", ["a", "w"], ["b"])],
            [helper.make_opsetid("", 18)],
            attributes=["given"],
        )
        call = NODE("Product", ["x"], ["y"], domain="local", name="call", given=tensor)
        verdict = only(model([call], {"x": [5, 16]}, functions=[function], domains=["local"]))
        assert (verdict.consumer, verdict.pattern) == ("call/MatMul#1", "holds")
        return
    verdict = only(model([constant, NODE("MatMul", ["x", "w"], ["y"])], {"x": [5, 16]}))
    assert (verdict.weight, verdict.pattern) == ("w", "holds")


@pytest.mark.parametrize("indices", ["flat", "coordinates"])
def test_sparse_initializer(indices):
    weight = sparse((12, 16), 1)
    places = np.flatnonzero(weight) if indices == "flat" else np.argwhere(weight)
    tensor = helper.make_sparse_tensor(
        numpy_helper.from_array(weight[weight != 0], "w"),
        numpy_helper.from_array(places.astype(np.int64)),
        [12, 16],
    )
    node = NODE("Gemm", ["x", "w"], ["y"], transB=1)
    verdict = only(model([node], {"x": [5, 16]}, sparse_initializers=[tensor]))
    assert (verdict.shape, verdict.pattern, verdict.zero_share) == ((12, 16), "holds", 0.5)


def stored(weight, storage):
    """Store a weight in one of ONNX's ways, built from its bits."""
    types = {
        "fp16": (np.float16, TensorProto.FLOAT16),
        "bf16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
        "fp64": (np.float64, TensorProto.DOUBLE),
        "fp32": (np.float32, TensorProto.FLOAT),
        "fp8": (ml_dtypes.float8_e4m3fn, TensorProto.FLOAT8E4M3FN),
        "fp8-e5m2": (ml_dtypes.float8_e5m2, TensorProto.FLOAT8E5M2),
    }
    kind, _, how = storage.partition("/")
    dtype, number = types[kind]
    array = weight.astype(dtype)
    tensor = TensorProto(name="w", data_type=number, dims=weight.shape)
    if how == "raw":
        tensor.raw_data = array.tobytes()
    elif how == "int32":
        unsigned = np.uint16 if array.itemsize == 2 else np.uint8
        tensor.int32_data.extend(array.view(unsigned).astype(np.int32).reshape(-1).tolist())
    else:
        getattr(tensor, how).extend(array.reshape(-1).tolist())
    return tensor


@pytest.mark.parametrize(
    "storage",
    ["fp32/raw", "fp32/float_data", "fp64/raw", "fp64/double_data", "fp16/raw", "fp16/int32", "bf16/raw", "bf16/int32",
     "fp8/raw", "fp8/int32", "fp8-e5m2/raw"],
)  # fmt: skip
def test_every_float_storage(storage):
    weight = sparse((12, 16), 1)
    weight[weight == 0] = -0.0  # minus zero is zero, in every type
    node = NODE("Gemm", ["x", "w"], ["y"], transB=1)
    verdict = only(model([node], {"x": [5, 16]}, [stored(weight, storage)]))
    assert (verdict.pattern, verdict.zero_share, verdict.nonfinite) == ("holds", 0.5, 0)
    weight[3, 4:8] = [1.0, np.nan, 2.0, 3.0]
    verdict = only(model([node], {"x": [5, 16]}, [stored(weight, storage)]))
    assert (verdict.pattern, verdict.broken_groups, verdict.nonfinite) == ("broken", 1, 1)
    assert "1 element is NaN or infinite" in verdict.sentence


@pytest.mark.parametrize("storage", ["raw", "int32"])
@pytest.mark.parametrize("kind", ["INT4", "UINT4"])
def test_four_bit_weights_behind_dequantise(kind, storage):
    kept = nm_mask(np.random.default_rng(0).random((12, 16)), TWO_FOUR, axis=1)
    zero = 8 if kind == "UINT4" else 0
    values = np.where(kept, zero + 5, zero).reshape(-1)
    packed = (values[0::2] & 0xF) | ((values[1::2] & 0xF) << 4)
    tensor = TensorProto(name="w", data_type=getattr(TensorProto, kind), dims=[12, 16])
    if storage == "raw":
        tensor.raw_data = packed.astype(np.uint8).tobytes()
    else:
        tensor.int32_data.extend(packed.tolist())
    zero_point = TensorProto(name="z", data_type=getattr(TensorProto, kind), dims=[], raw_data=bytes([zero]))
    nodes = [NODE("DequantizeLinear", ["w", "s", "z"], ["v"]), NODE("Gemm", ["x", "v"], ["y"], transB=1)]
    proto = model(nodes, {"x": [5, 16]}, [tensor, zero_point, ("s", np.array(0.1, np.float32))], opset=21)
    verdict = only(proto)
    assert (verdict.dtype, verdict.pattern, verdict.zero_share) == (kind.lower(), "holds", 0.5)


@pytest.mark.parametrize(("dtype", "zero"), [(np.int8, 0), (np.uint8, 128), (np.int8, -3)])
def test_dequantised_weights_equal_to_their_zero_point_are_zeros(dtype, zero):
    weight = int8_weight(zero).astype(dtype)
    nodes = [NODE("DequantizeLinear", ["w", "s", "z"], ["v"], axis=0), NODE("Conv", ["x", "v"], ["y"])]
    extra = [("s", np.full(8, 0.1, np.float32)), ("z", np.full(8, zero, dtype))]
    verdict = only(model(nodes, {"x": [1, 16, 9, 9]}, [("w", weight), *extra]))
    assert (verdict.dtype, verdict.pattern) == (np.dtype(dtype).name, "holds")
    extra[1] = ("z", np.full(8, zero + 1, dtype))
    assert only(model(nodes, {"x": [1, 16, 9, 9]}, [("w", weight), *extra])).pattern == "broken"


@pytest.mark.parametrize("zero", [0, 7])
def test_integer_operators_read_their_zero_point(zero):
    weight = int8_weight(zero)
    conv = NODE("ConvInteger", ["x", "w", "", "z"], ["y"])
    args = {"x": [1, 16, 9, 9]}
    point = ("z", np.array(zero, np.uint8))
    assert only(model([conv], args, [("w", weight.astype(np.uint8)), point])).pattern == "holds"
    one = ("s", np.array(1.0, np.float32))
    qlinear = NODE("QLinearConv", ["x", "s", "xz", "w", "s", "z", "s", "xz"], ["y"])
    extra = [one, ("xz", np.array(0, np.uint8)), ("z", np.full(8, zero, np.uint8))]
    assert only(model([qlinear], args, [("w", weight.astype(np.uint8)), *extra])).pattern == "holds"
    matrix = np.ascontiguousarray(weight[:, :, 0, 0].T)
    product = NODE("MatMulInteger", ["x", "w", "", "z"], ["y"])
    per_column = ("z", np.full(8, zero, np.uint8))
    assert (
        only(model([product], {"x": [5, 16]}, [("w", matrix.astype(np.uint8)), per_column])).pattern
        == "holds"
    )
    qmatmul = NODE("QLinearMatMul", ["x", "s", "xz", "w", "s", "z", "s", "xz"], ["y"])
    assert only(model([qmatmul], {"x": [5, 16]}, [("w", matrix.astype(np.uint8)), *extra])).pattern == "holds"


@pytest.mark.parametrize(
    ("operator", "shape", "axis", "attributes"),
    [
        ("FusedConv", (8, 16, 3, 3), 1, {}),
        ("FusedMatMul", (12, 16), 1, {"transB": 1}),
        ("FusedGemm", (16, 12), 0, {}),
    ],
)
def test_fused_forms_of_onnx_runtime(operator, shape, axis, attributes):
    node = NODE(operator, ["x", "w"], ["y"], domain="com.microsoft", **attributes)
    proto = model([node], {"x": [1, 16, 9, 9]}, [("w", sparse(shape, axis))], domains=["com.microsoft"])
    verdict = only(proto)
    assert (verdict.axis, verdict.pattern) == (axis, "holds")


def test_one_row_for_every_consumer():
    weight = sparse((16, 16), 0)
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], name="columns"),
        NODE("Gemm", ["a", "w"], ["y"], name="rows", transB=1),
    ]
    verdicts = verify_model(model(nodes, {"x": [5, 16]}, [("w", weight)])).weights
    assert [(v.consumer, v.axis, v.pattern) for v in verdicts] == [
        ("columns", 0, "holds"),
        ("rows", 1, "broken"),
    ]


def test_weights_in_bodies_and_functions():
    weight = sparse((16, 16), 0)
    then = helper.make_graph(
        [NODE("MatMul", ["x", "outer"], ["t"], name="then_product")],
        "then",
        [],
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, None)],
    )
    otherwise = helper.make_graph(
        [NODE("MatMul", ["x", "inner"], ["e"])],
        "else",
        [],
        [helper.make_tensor_value_info("e", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "inner")],
    )
    function = helper.make_function(
        "local",
        "Layer",
        ["a", "b"],
        ["c"],
        [NODE("MatMul", ["a", "b"], ["c"])],
        [helper.make_opsetid("", 18)],
    )
    nodes = [
        NODE("If", ["condition"], ["i"], name="choice", then_branch=then, else_branch=otherwise),
        NODE("Layer", ["i", "outer"], ["f"], domain="local", name="first"),
        NODE("Layer", ["f", "outer"], ["y"], domain="local", name="second"),
    ]
    proto = model(
        nodes, {"x": [16, 16]}, [("outer", weight), ("condition", np.array(True))],
        functions=[function], domains=["local"],
    )  # fmt: skip
    found = {v.consumer: (v.weight, v.pattern) for v in verify_model(proto).weights}
    assert found == {
        "choice/then_branch/then_product": ("outer", "holds"),
        "choice/else_branch/MatMul#0": ("choice/else_branch/inner", "holds"),
        "first/MatMul#0": ("outer", "holds"),
        "second/MatMul#0": ("outer", "holds"),
    }


@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_weights_in_loops(operator):
    weight = sparse((16, 16), 0)
    info = helper.make_tensor_value_info
    product = NODE("MatMul", ["state", "outer"], ["next"], name="step")
    state, after = info("state", TensorProto.FLOAT, None), info("next", TensorProto.FLOAT, None)
    if operator == "Loop":
        inputs = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), state]
        body = helper.make_graph(
            [product, NODE("Identity", ["go"], ["on"])],
            "b",
            inputs,
            [info("on", TensorProto.BOOL, []), after],
        )
        node = NODE("Loop", ["count", "", "x"], ["y"], name="loop", body=body)
    else:
        body = helper.make_graph([product], "b", [state], [after])
        node = NODE("Scan", ["x"], ["y"], name="loop", body=body, num_scan_inputs=0)
    verdict = only(model([node], {"x": [5, 16]}, [("outer", weight), ("count", np.array(3))]))
    assert (verdict.consumer, verdict.weight, verdict.pattern) == ("loop/body/step", "outer", "holds")


@pytest.mark.parametrize("moved", [0, 1, 2])
@pytest.mark.parametrize("operator", ["Loop", "Scan"])
def test_a_weight_that_a_loop_carries_unchanged_is_judged(operator, moved):
    info = helper.make_tensor_value_info
    last = f"w{moved}" if moved else "w"
    nodes = [NODE("MatMul", ["h", "w"], ["next"], name="step"), NODE("Identity", ["go"], ["on"])]
    nodes += [NODE("Identity", ["w" if i == 0 else f"w{i}"], [f"w{i + 1}"]) for i in range(moved)]
    given = [info("h", TensorProto.FLOAT, None), info("w", TensorProto.FLOAT, [16, 16])]
    taken = [info("next", TensorProto.FLOAT, None), info(last, TensorProto.FLOAT, [16, 16])]
    if operator == "Loop":
        given = [info("i", TensorProto.INT64, []), info("go", TensorProto.BOOL, []), *given]
        body = helper.make_graph(nodes, "b", given, [info("on", TensorProto.BOOL, []), *taken])
        node = NODE("Loop", ["count", "", "x", "outer"], ["y", "same"], name="loop", body=body)
    else:
        nodes[1] = NODE("Identity", ["part"], ["each"])
        given, taken = [*given, info("part", TensorProto.FLOAT, None)], [*taken, info("each", 1, None)]
        body = helper.make_graph(nodes, "b", given, taken)
        node = NODE(
            "Scan", ["x", "outer", "x"], ["y", "same", "z"], name="loop", body=body, num_scan_inputs=1
        )
    for weight, pattern in ((sparse((16, 16), 0), "holds"), (np.ones((16, 16), np.float32), "broken")):
        verdict = only(model([node], {"x": [5, 16]}, [("outer", weight), ("count", np.array(3))]))
        assert (verdict.consumer, verdict.weight, verdict.pattern) == ("loop/body/step", "outer", pattern)


def test_a_state_that_a_loop_changes_is_no_weight():
    info = helper.make_tensor_value_info
    state, after = info("h", TensorProto.FLOAT, None), info("n", TensorProto.FLOAT, None)
    body = helper.make_graph([NODE("MatMul", ["x", "h"], ["n"])], "b", [state], [after])
    scan = NODE("Scan", ["h0"], ["y"], body=body, num_scan_inputs=0)
    start = ("h0", np.zeros((16, 16), np.float32))
    assert verify_model(model([scan], {"x": [16, 16]}, [start])).weights == ()


def test_an_identity_of_another_domain_may_change_what_a_loop_carries():
    info = helper.make_tensor_value_info
    nodes = [NODE("MatMul", ["h", "w"], ["n"]), NODE("Identity", ["w"], ["v"], domain="other")]
    given, taken = ([info(name, TensorProto.FLOAT, None) for name in names] for names in ("hw", "nv"))
    body = helper.make_graph(nodes, "b", given, taken)
    scan = NODE("Scan", ["x", "outer"], ["y", "z"], body=body, num_scan_inputs=0)
    found = verify_model(model([scan], {"x": [5, 16]}, [("outer", sparse((16, 16), 0))])).weights
    assert {(verdict.weight, verdict.pattern) for verdict in found} == {("outer", "untraceable")}
    assert found[0].sentence == "Scan#0 changes it at each iteration"


@pytest.mark.parametrize("start", ["zeros", "weight"])
def test_a_weight_that_a_loop_changes_is_told_from_a_state_that_starts_empty(start):
    info = helper.make_tensor_value_info
    nodes = [
        NODE("MatMul", ["h", "w"], ["n"]),
        NODE("Mul", ["w", "half"], ["v"]),
    ]
    given, taken = ([info(name, TensorProto.FLOAT, None) for name in names] for names in ("hw", "nv"))
    body = helper.make_graph(nodes, "b", given, taken)
    scan = NODE("Scan", ["x", "outer"], ["y", "z"], name="scan", body=body, num_scan_inputs=0)
    outer = np.zeros((16, 16), np.float32) if start == "zeros" else sparse((16, 16), 0)
    found = verify_model(
        model([scan], {"x": [16, 16]}, [("outer", outer), ("half", np.float32(0.5))])
    ).weights
    assert [verdict.sentence for verdict in found] == (
        [] if start == "zeros" else ["scan changes it at each iteration"]
    )


def test_an_if_whose_outputs_have_the_names_of_its_branches_is_no_cycle():
    """As optimum merges two decoders."""
    info = helper.make_tensor_value_info
    branches = [
        helper.make_graph([NODE("MatMul", ["x", w], ["y"])], w, [], [info("y", TensorProto.FLOAT, None)])
        for w in ("w", "u")
    ]
    choice = NODE("If", ["c"], ["y"], name="if", then_branch=branches[0], else_branch=branches[1])
    weights = [("w", sparse((16, 12), 0)), ("u", np.ones((16, 12), np.float32)), ("c", np.array(True))]
    found = verify_model(model([choice], {"x": [5, 16]}, weights)).weights
    assert {(verdict.weight, verdict.pattern) for verdict in found} == {("w", "holds"), ("u", "broken")}


@pytest.mark.parametrize("outputs", [["v"], ["v", "mask"]])
@pytest.mark.parametrize("inputs", [["w"], ["w", "p"], ["w", "p", "t"], ["w", "p", "c"]])
@pytest.mark.parametrize("training", [False, True])
def test_a_dropout_that_does_not_train_moves_a_weight(training, inputs, outputs):
    flag = np.array(training)
    constants = [("w", sparse((16, 12), 0)), ("p", np.float32(0.5)), ("t", flag)]
    nodes = [
        NODE("Constant", [], ["c"], value=numpy_helper.from_array(flag)),
        NODE("Dropout", inputs, outputs),
        NODE("MatMul", ["x", "v"], ["y"]),
    ]
    verdict = only(model(nodes, {"x": [5, 16]}, constants))
    assert verdict.pattern == ("untraceable" if training and len(inputs) == 3 else "holds")
    assert ("draws random numbers" in verdict.sentence) == (verdict.pattern == "untraceable")


@pytest.mark.parametrize(("told", "pattern"), [({}, "untraceable"), ({"is_test": 1}, "holds")])
def test_a_dropout_of_opset_6_trains_unless_it_says_otherwise(told, pattern):
    nodes = [NODE("Dropout", ["w"], ["v"], **told), NODE("MatMul", ["x", "v"], ["y"])]
    assert only(model(nodes, {"x": [5, 16]}, [("w", sparse((16, 12), 0))], opset=6)).pattern == pattern


def test_a_scan_of_opset_8_has_lengths_before_its_inputs():
    info = helper.make_tensor_value_info
    nodes = [NODE("MatMul", ["h", "w"], ["n"]), NODE("Identity", ["n"], ["o"])]
    given, taken = ([info(name, TensorProto.FLOAT, None) for name in names] for names in ("hw", "no"))
    body = helper.make_graph(nodes, "b", given, taken)
    scan = NODE("Scan", ["", "x", "ws"], ["y", "z"], name="scan", body=body, num_scan_inputs=1)
    stack = ("ws", np.ones((1, 3, 16, 16), np.float32))
    verdict = only(model([scan], {"x": [1, 1, 16]}, [stack], opset=8))
    assert "scan cuts 'ws' into one part per iteration" in verdict.sentence


def test_a_state_of_a_batched_scan_is_not_taken_for_another_input():
    info = helper.make_tensor_value_info
    nodes = [NODE("MatMul", ["h", "w"], ["n"]), NODE("Identity", ["w"], ["v"])]
    given, taken = ([info(name, TensorProto.FLOAT, None) for name in names] for names in ("hw", "nv"))
    body = helper.make_graph(nodes, "b", given, taken)
    scan = NODE("Scan", ["", "x", "ws"], ["y", "z"], name="scan", body=body, num_scan_inputs=0)
    stack = ("ws", np.ones((1, 16, 16), np.float32))
    assert verify_model(model([scan], {"x": [1, 1, 16]}, [stack], opset=8)).weights == ()


def test_what_cannot_be_evaluated_names_its_node():
    random = NODE("RandomNormal", [], ["r"], name="dice", shape=[16, 12])
    verdict = only(model([random, NODE("MatMul", ["x", "r"], ["y"])], {"x": [5, 16]}))
    assert (verdict.pattern, verdict.reason) == ("untraceable", "untraceable")
    assert "RandomNormal at dice draws random numbers" in verdict.sentence
    custom = NODE("Magic", ["w"], ["v"], name="box", domain="acme")
    proto = model(
        [custom, NODE("MatMul", ["x", "v"], ["y"])],
        {"x": [5, 16]},
        [("w", sparse((16, 12), 0))],
        domains=["acme"],
    )
    assert "Magic at box is of domain acme" in only(proto).sentence
    dynamic = model([NODE("Conv", ["x", "k"], ["y"])], {"x": [1, 16, 9, 9], "k": [8, 16, 3, 3]})
    assert "it depends on the graph input 'k'" in only(dynamic).sentence


def test_a_constant_that_comes_in_slices_is_untraceable_not_silent():
    info = helper.make_tensor_value_info
    stack = ("ws", np.ones((3, 16, 16), np.float32))
    state, after = info("h", TensorProto.FLOAT, None), info("n", TensorProto.FLOAT, None)
    cut = helper.make_graph(
        [NODE("MatMul", ["h", "w"], ["n"]), NODE("Identity", ["n"], ["o"])],
        "b", [state, info("w", TensorProto.FLOAT, None)], [after, info("o", TensorProto.FLOAT, None)],
    )  # fmt: skip
    scan = NODE("Scan", ["x", "ws"], ["y", "z"], name="scan", body=cut, num_scan_inputs=1)
    assert (
        "scan cuts 'ws' into one part per iteration" in only(model([scan], {"x": [1, 16]}, [stack])).sentence
    )
    picked = helper.make_graph(
        [NODE("Gather", ["ws", "i"], ["w"]), NODE("MatMul", ["h", "w"], ["n"]), NODE("Identity", ["c"], ["d"])],
        "b", [info("i", TensorProto.INT64, []), info("c", TensorProto.BOOL, []), state],
        [info("d", TensorProto.BOOL, []), after],
    )  # fmt: skip
    loop = NODE("Loop", ["count", "", "x"], ["y"], name="loop", body=picked)
    verdict = only(model([loop], {"x": [1, 16]}, [stack, ("count", np.array(3))]))
    assert (verdict.pattern, verdict.sentence) == (
        "untraceable",
        "loop picks another part of it at each iteration",
    )


@pytest.mark.parametrize("operator", ["RNN", "GRU", "LSTM"])
def test_both_weights_of_a_recurrent_layer_have_a_row(operator):
    gates = {"RNN": 1, "GRU": 3, "LSTM": 4}[operator]
    node = NODE(operator, ["x", "w", "r"], ["y"], name="reader", hidden_size=8)
    weights = [("w", sparse((1, 8 * gates, 16), 2)), ("r", sparse((1, 8 * gates, 8), 1))]
    report = verify_model(model([node], {"x": [3, 1, 16]}, weights))
    assert [(v.weight, v.axis, v.pattern) for v in report.weights] == [("w", 2, "holds"), ("r", 2, "broken")]


def test_a_deformable_convolution_reads_its_second_input():
    node = NODE("DeformConv", ["x", "w", "offset"], ["y"], name="reader")
    inputs = {"x": [1, 16, 9, 9], "offset": [1, 18, 7, 7]}
    verdict = only(model([node], inputs, [("w", sparse((8, 16, 3, 3), 1))], opset=19))
    assert (verdict.weight, verdict.axis, verdict.pattern) == ("w", 1, "holds")


def test_packed_weights_are_untraceable():
    packed = ("b", np.ones((16, 2, 8), np.uint8))
    node = NODE(
        "MatMulNBits", ["x", "b", "s"], ["y"], domain="com.microsoft", K=32, N=16, bits=4, block_size=16
    )
    proto = model([node], {"x": [1, 32]}, [packed, ("s", np.ones(32, np.float32))], domains=["com.microsoft"])
    assert only(proto).pattern == "untraceable"
    (line,) = [line for line in verify_model(proto).remarks() if line.startswith("parameters")]
    assert line.endswith("MACs not known")


def test_a_mask_of_floats_leaves_the_weight_its_name():
    weight, mask = np.ones((16, 16), np.float32), (sparse((16, 16), 1) != 0).astype(np.float32)
    nodes = [NODE("Mul", ["w", "k"], ["v"]), NODE("Gemm", ["x", "v"], ["y"], transB=1)]
    verdict = only(model(nodes, {"x": [5, 16]}, [("w", weight), ("k", mask)]))
    assert (verdict.weight, verdict.pattern) == ("w", "holds")


def test_an_identity_of_another_domain_is_not_looked_through():
    nodes = [NODE("Identity", ["w"], ["v"], domain="acme"), NODE("Gemm", ["x", "v"], ["y"], transB=1)]
    proto = model(nodes, {"x": [5, 16]}, [("w", sparse((16, 16), 1))], domains=["acme"])
    assert only(proto).pattern == "untraceable"


def test_split_in_equal_parts_without_a_number():
    nodes = [NODE("Split", ["w"], ["v", "u"], axis=0), NODE("Gemm", ["x", "v"], ["y"], transB=1)]
    assert only(model(nodes, {"x": [5, 16]}, [("w", sparse((16, 16), 1))], opset=13)).pattern == "holds"


def test_an_element_type_that_is_not_read_costs_one_row():
    strange = TensorProto(name="w", data_type=99, dims=[16, 16], raw_data=bytes(64))
    nodes = [NODE("Gemm", ["x", "w"], ["t"], transB=1), NODE("Gemm", ["t", "good"], ["y"], transB=1)]
    report = verify_model(model(nodes, {"x": [5, 16]}, [strange, ("good", sparse((16, 16), 1))]))
    assert [v.pattern for v in report.weights] == ["untraceable", "holds"]


def test_products_of_activations_are_no_weights():
    assert verify_model(model([NODE("MatMul", ["x", "x"], ["y"])], {"x": [16, 16]})).weights == ()


def test_pattern_argument_explains_relatives():
    node = NODE("Gemm", ["x", "w"], ["y"], transB=1)
    args = {"x": [5, 16]}
    assert only(model([node], args, [("w", sparse((12, 16), 1, "1:4"))]), pattern="2:4").pattern == "holds"
    assert only(model([node], args, [("w", sparse((12, 16), 1, "2:8"))]), pattern="2:4").pattern == "holds"
    verdict = only(model([node], args, [("w", sparse((12, 16), 1, "4:8"))]), pattern="2:4")
    assert verdict.pattern == "broken"
    assert "it holds 4:8, which is not 2:4" in verdict.sentence
    assert only(model([node], args, [("w", sparse((12, 16), 1, "4:8"))]), pattern="4:8").reason == "not-2:4"
    with pytest.raises(PatternError, match="'2-4' is not an N:M pattern"):
        verify_model(model([node], args), pattern="2-4")


def test_as_judges_what_rounding_leaves():
    weight = sparse((12, 16), 1)
    weight[0, :4] = [1.0, 2.0, 1e-9, 0.0]  # 1e-9 is zero in fp16, not in bf16
    proto = model([NODE("Gemm", ["x", "w"], ["y"], transB=1)], {"x": [5, 16]}, [("w", weight)])
    assert only(proto).pattern == "broken"
    verdict = only(proto, as_dtype="fp16")
    assert verdict.pattern == "holds"
    assert "after rounding to float16" in verdict.sentence
    assert only(proto, as_dtype="bf16").pattern == "broken"
    with pytest.raises(InputError, match="takes fp16 or bf16, not 'fp4'"):
        verify_model(proto, as_dtype="fp4")


def plan_of(*entries):
    return ((METADATA_KEY, Plan(tuple(entries), "sr-ste").to_json()),)


def test_a_plan_is_what_the_file_is_held_to():
    nodes = [
        NODE("Gemm", ["x", "a"], ["t"], transB=1),
        NODE("Gemm", ["t", "b"], ["u"], transB=1),
        NODE("Gemm", ["u", "c"], ["y"], transB=1),
    ]
    weights = [
        ("a", sparse((16, 16), 1)),
        ("b", np.ones((16, 16), np.float32)),
        ("c", np.ones((16, 16), np.float32)),
    ]
    kept = PlanEntry("a", TWO_FOUR, "sparse")
    dense = PlanEntry("b", None, "excluded by name")
    args = {"x": [5, 16]}
    report = verify_model(model(nodes, args, weights, metadata=plan_of(kept, dense)))
    assert [v.pattern for v in report.weights] == ["holds", "dense-by-plan", "dense-by-plan"]
    assert report.passed()
    assert "excluded by name" in report.weights[1].sentence
    # A mask that got lost, and a weight that was renamed, both fail.
    lost = [("a", np.ones((16, 16), np.float32)), *weights[1:]]
    assert not verify_model(model(nodes, args, lost, metadata=plan_of(kept, dense))).passed()
    gone = verify_model(
        model(nodes, args, weights, metadata=plan_of(kept, dense, PlanEntry("z", TWO_FOUR, "")))
    )
    assert gone.missing == ("z",)
    assert [v.pattern for v in gone.weights] == ["holds", "dense-by-plan", "broken"]
    assert not gone.passed()
    assert gone.passed("none")


def test_damaged_plan():
    proto = model([NODE("Relu", ["x"], ["y"])], {"x": [1]}, metadata=((METADATA_KEY, '{"version": 1}'),))
    with pytest.raises(ModelError, match=r"plan in the ONNX metadata .* is damaged"):
        verify_model(proto)


@pytest.mark.parametrize(
    ("fail_on", "passed"), [("broken", True), ("ineligible", False), ("any", False), ("none", True)]
)
def test_gates(fail_on, passed):
    proto = model([NODE("Gemm", ["x", "w"], ["y"], transB=1)], {"x": [5, 16]}, [("w", sparse((12, 16), 1))])
    report = verify_model(proto)  # holds, but fp32 has no sparse kernel
    assert report.passed(fail_on) is passed


def test_eligibility_is_another_question():
    def verdict(dtype, **attributes):
        shape, group = ((8, 8, 3, 3), 2) if attributes else ((8, 16, 3, 3), 1)
        tensor = numpy_helper.from_array(sparse(shape, 1, dtype=dtype), "w")
        return only(model([NODE("Conv", ["x", "w"], ["y"], group=group)], {"x": [1, 16, 9, 9]}, [tensor]))

    assert (verdict(np.float16).eligible, verdict(np.float16).reason) == ("yes", "eligible")
    assert (verdict(np.float32).eligible, verdict(np.float32).reason) == ("no", "fp32")
    grouped = verdict(np.float16, group=2)
    assert (grouped.pattern, grouped.eligible, grouped.reason) == ("holds", "no", "group-conv")
    assert "4054" in grouped.source


def test_mask_hash_follows_zeros_not_names_or_scale():
    weight = sparse((12, 16), 1)

    def digest(array, name="w"):
        node = NODE("Gemm", ["x", name], ["y"], transB=1)
        return verify_model(model([node], {"x": [5, 16]}, [(name, array)])).mask_sha256

    assert digest(weight) == digest(weight * 3, "other") == digest(weight.astype(np.float16))
    changed = weight.copy()
    changed[0, 0] = 0.0 if changed[0, 0] else 1.0
    assert digest(changed) != digest(weight)


def resnet50_shapes():
    yield 64, 3, 7
    channels = 64
    for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)):
        for block in range(blocks):
            yield width, channels, 1
            yield width, width, 3
            yield 4 * width, width, 1
            if block == 0:
                yield 4 * width, channels, 1
            channels = 4 * width


@pytest.mark.parametrize(("pattern", "left"), [("2:4", 13.8), ("1:4", 7.93)])
def test_summary_of_a_resnet50_matches_the_published_counts(pattern, left):
    n, m = map(int, pattern.split(":"))
    nodes, weights = [], []
    for position, (out, into, size) in enumerate(resnet50_shapes()):
        mask = np.zeros((out, into, size, size), np.float16)
        mask[:, np.arange(into) % m < n] = 1
        nodes.append(NODE("Conv", [f"x{position}", f"w{position}"], [f"y{position}"]))
        weights.append((f"w{position}", mask))
    nodes.append(NODE("Gemm", ["xf", "fc"], ["y"], transB=1))
    weights += [("fc", np.ones((1000, 2048), np.float16)), ("norms", np.ones(53_120 + 1000, np.float32))]
    inputs = {f"x{i}": None for i in range(len(nodes) - 1)} | {"xf": None}
    summary = verify_model(model(nodes, inputs, weights)).summary
    assert summary.parameters == 25_557_032
    # The papers' tables round, and differ in whether BatchNorm's 0.05 M count.
    assert summary.parameters_left / 1e6 == pytest.approx(left, abs=0.05)


def test_macs_of_known_shapes():
    nodes = [
        NODE("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        NODE("ConvTranspose", ["c", "t"], ["d"]),
        NODE("GlobalAveragePool", ["d"], ["p"]),
        NODE("Flatten", ["p"], ["f"]),
        NODE("Gemm", ["f", "g"], ["y"], transB=1),
    ]
    weights = [
        ("w", sparse((8, 16, 3, 3), 1)),
        ("t", sparse((8, 4, 3, 3), 0)),
        ("g", np.ones((10, 4), np.float32)),
    ]
    found = verify_model(model(nodes, {"x": ["N", 16, 8, 8]}, weights)).weights
    assert [v.macs for v in found] == [8 * 4 * 4 * 16 * 9, 4 * 4 * 8 * 4 * 9, 40]


def test_macs_take_minus_one_for_a_free_size():
    node = NODE("Gemm", ["x", "g"], ["y"], transB=1)
    (verdict,) = verify_model(model([node], {"x": [-1, 8]}, [("g", np.ones((10, 8), np.float32))])).weights
    assert verdict.macs == 80


def test_report_is_json(tmp_path):
    path = tmp_path / "m.onnx"
    onnx.save(
        model([NODE("Gemm", ["x", "w"], ["y"], transB=1)], {"x": [5, 16]}, [("w", sparse((12, 16), 1))]), path
    )
    data = json.loads(json.dumps(verify_model(path).to_json()))
    assert {"weight", "consumer", "axis", "pattern", "eligible", "reason"} <= set(data["weights"][0])


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (["n", "t", 16], "MACs not known"),
        (["n", 4, 16], "MACs 1.02 k, left 1.02 k"),
    ],
)
def test_work_that_no_shape_tells_is_not_called_zero(shape, said):
    weight = numpy_helper.from_array(np.ones((16, 16), np.float32), "w")
    infos = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", infos, outs, [weight])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (line,) = [line for line in verify_model(model).remarks() if line.startswith("parameters")]
    assert line.partition("; ")[2] == said


@pytest.mark.parametrize(
    ("inputs", "asked", "held", "prunable"),
    [
        (20, "2:4", None, True),
        (20, "2:4", "2:4", False),
        (20, "2:4", "1:4", False),
        (20, "1:4", "1:4", False),
        (24, "3:6", "3:6", True),
        (18, "3:6", None, False),
        (18, "3:6", "3:6", False),
        (12, "2:4", None, False),
    ],
)
def test_a_weight_is_prunable_if_prune_makes_it_two_of_four(inputs, asked, held, prunable):
    """Rows of 18 have no groups of four; fewer than 16 inputs have to be named; what holds 1:4 holds 2:4."""
    weight = np.ones((inputs, 8), np.float32) if held is None else sparse((inputs, 8), 0, held)
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, inputs]}, [("w", weight)])
    assert is_prunable(only(proto, pattern=asked)) is prunable


def test_the_way_to_a_weight_that_many_nodes_read_is_followed_once(monkeypatch):
    followed = []
    real = stored_readers.way

    def way(scope, value, source):
        followed.append(value)
        return real(scope, value, source)

    monkeypatch.setattr(stored_readers, "way", way)
    nodes = [helper.make_node("Transpose", ["w"], ["t"])]
    nodes += [helper.make_node("MatMul", ["x" if i == 0 else f"y{i - 1}", "t"], [f"y{i}"]) for i in range(9)]
    nodes.append(helper.make_node("MatMul", ["y8", "w"], ["y"]))
    found = verify_model(model(nodes, {"x": [1, 16]}, [("w", np.ones((16, 16), np.float32))]))
    assert followed == ["t", "w"]
    assert {w.facts.fixed for w in found.weights} == {"its readers group its elements along different axes"}
