"""Structure-aware mutants of small models: `verify` answers or refuses, and never fails in another way.

Seeded and bounded; `make fuzz` runs 10,000.
"""

import contextlib
import os
import random
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt import bounds
from nm2trt.errors import Nm2trtError
from nm2trt.graph.verify.verify_model import verify_model

RUNS = int(os.environ.get("NM2TRT_FUZZ_RUNS", "500"))
OPERATORS = """Cast Constant Transpose Reshape Slice Pad Split Gather Conv Gemm MatMul Einsum ConstantOfShape Loop Scan LSTM
GRU DequantizeLinear QuantizeLinear ConvTranspose MatMulInteger Concat Expand Tile Range Squeeze Where Identity If""".split()
ATTRIBUTES = """to axis perm value group transB kernel_shape equation direction hidden_size axes block_size
num_scan_inputs value_ints""".split()
VALUES = (3, -5, 2**40, 1.5, "ab,bc->ac", b"\xff", [1, 0], [9], [1.0])
SIZES = (0, 1, -1, 3, 16, 2**40, 2**62)
RECORDS = ("", "{}", "[]", "[1]", "null", '{"version": 1}', '{"version": 1, "weights": [{}]}', "[" * 5000)


def model(draw):
    """Return a sound model of one of a few forms."""
    weight = np.random.default_rng(draw.randrange(9)).standard_normal((16, 16)).astype("f4")
    nodes, stored, sparse, source = [], [numpy_helper.from_array(weight, "w")], [], "w"
    form = draw.choice(["plain", "constant", "cast", "moved", "quantised", "sparse"])
    if form == "constant":
        stored, nodes = [], [helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weight))]
    elif form == "cast":
        nodes, source = [helper.make_node("Cast", ["w"], ["v"], to=TensorProto.FLOAT)], "v"
    elif form == "moved":
        stored.append(numpy_helper.from_array(np.array([16, 16]), "s"))
        nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("Reshape", ["t", "s"], ["v"])]
        source = "v"
    elif form == "quantised":
        stored = [
            numpy_helper.from_array((weight * 20).astype("i1"), "w"),
            numpy_helper.from_array(np.float32(0.1), "c"),
        ]
        nodes, source = [helper.make_node("DequantizeLinear", ["w", "c"], ["v"])], "v"
    elif form == "sparse":
        values, places = np.arange(1, 5, dtype="f4"), np.array([0, 5, 9, 100])
        stored = []
        sparse = [
            helper.make_sparse_tensor(
                numpy_helper.from_array(values, "w"), numpy_helper.from_array(places), [16, 16]
            )
        ]
    nodes.append(helper.make_node(draw.choice(["MatMul", "Gemm"]), ["x", source], ["y"]))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], stored, sparse_initializer=sparse)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", draw.choice([13, 18, 21]))], ir_version=9
    )


def tensors(proto):
    yield from proto.graph.initializer
    for item in proto.graph.sparse_initializer:
        yield from (item.values, item.indices)
    for node in proto.graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))


def spoil(proto, draw):
    """Change one thing; what protobuf itself refuses leaves the model as it was."""
    node, tensor = draw.choice(proto.graph.node), draw.choice([*tensors(proto), TensorProto()])
    names = ["x", "w", "v", "", "y", "nope"]
    sizes = [draw.choice(SIZES) for _ in range(draw.choice([0, 1, 2, 3, 72]))]
    change = draw.randrange(12)
    if change == 0 and node.attribute:
        del node.attribute[draw.randrange(len(node.attribute))]
    elif change == 1 and node.attribute:
        draw.choice(node.attribute).type = draw.randrange(15)
    elif change == 2:
        tensor.dims[:] = sizes
    elif change == 3:
        tensor.data_type = draw.randrange(-1, 25)
    elif change == 4:
        tensor.raw_data = tensor.raw_data[: draw.randrange(len(tensor.raw_data) + 1)]
    elif change == 5:
        node.input[:] = [draw.choice(names) for _ in range(draw.randrange(4))]
    elif change == 6:
        node.op_type = draw.choice(OPERATORS)
    elif change == 7:
        node.attribute.append(helper.make_attribute(draw.choice(ATTRIBUTES), draw.choice(VALUES)))
    elif change == 8:
        node.output[:] = [draw.choice(names) for _ in range(draw.randrange(3))]
    elif change == 9:
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(
            key="location", value=draw.choice(["none", "../x", "/etc/passwd", "", "a" * 5000])
        )
        tensor.external_data.add(key="offset", value=draw.choice(["0", "-1", "x", "9" * 5000]))
    elif change == 10:
        for item in proto.graph.sparse_initializer:
            item.dims[:] = sizes
    else:
        helper.set_model_props(proto, {draw.choice(["nm2trt.plan", "nm2trt.lineage"]): draw.choice(RECORDS)})


@pytest.mark.parametrize("part", range(5))
def test_verify_answers_or_refuses_any_model(part):
    bounds.use(constant_gb=0.25, constant_seconds=5)
    try:
        for number in range(part, RUNS, 5):
            draw = random.Random(number)
            proto = model(draw)
            for _ in range(draw.randrange(1, 4)):
                with contextlib.suppress(ValueError, TypeError):
                    spoil(proto, draw)
            with warnings.catch_warnings(), contextlib.suppress(Nm2trtError):
                warnings.simplefilter("ignore")
                verify_model(proto)
    except Exception as error:
        raise AssertionError(f"mutant {number}: {type(error).__name__}: {error}") from error
    finally:
        bounds.use()


def test_a_large_constant_without_an_output_is_no_internal_error():
    proto = model(random.Random(0))
    value = numpy_helper.from_array(np.ones((64, 64), np.float32))
    proto.graph.node.insert(0, helper.make_node("Constant", [], [], value=value))
    with warnings.catch_warnings(), contextlib.suppress(Nm2trtError):
        warnings.simplefilter("ignore")
        verify_model(proto)
