"""cast: positions, angles and indices keep the digits that tell them apart; activations under a sine are cast.

The oracle is onnx.reference, which rounds every tensor to its type.
"""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import nm2trt
from nm2trt.graph.cast import positions as positions_module
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.storage.model import load

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
NODE = helper.make_node
SIZE = 32
FREQUENCIES = (1e4 ** (-np.arange(SIZE) / SIZE)).astype(np.float32)


def to_float(name):
    return NODE("Cast", [name], ["p"], to=FLOAT)


# What an integer or float input "i" of shape (n, 1) becomes, up to "e", which is added to "x".
WAYS = {
    "rotary": (INT64, [to_float("i"), NODE("MatMul", ["p", "row"], ["a"]), NODE("Cos", ["a"], ["e"])]),
    "outer": (
        INT64,
        [
            NODE("Squeeze", ["i", "one"], ["s"]),
            to_float("s"),
            NODE("Einsum", ["p", "f"], ["a"], equation="i,j->ij"),
            NODE("Concat", ["a", "a"], ["aa"], axis=1),
            NODE("Slice", ["aa", "zero", "size", "one"], ["b"]),
            NODE("Sin", ["b"], ["e"]),
        ],
    ),
    "time step": (FLOAT, [NODE("Mul", ["i", "f"], ["a"]), NODE("Sin", ["a"], ["e"])]),
    "remainder": (INT64, [to_float("i"), NODE("Mod", ["p", "seven"], ["e"], fmod=1)]),
    "row of a table": (
        FLOAT,
        [
            NODE("Floor", ["i"], ["fl"]),
            NODE("Cast", ["fl"], ["j"], to=INT64),
            NODE("Gather", ["table", "j"], ["g"]),
            NODE("Squeeze", ["g", "one"], ["e"]),
        ],
    ),
    "length": (
        INT64,
        [
            to_float("i"),
            NODE("Less", ["p", "limit"], ["l"]),
            NODE("Where", ["l", "f", "zeros"], ["e"]),
        ],
    ),
}


def embedded(way):
    """Return a network of which a product is cast, and whose embedding is made of large numbers."""
    kind, nodes = WAYS[way]
    random = np.random.default_rng(0)
    constants = {
        "w": random.standard_normal((SIZE, 16)).astype(np.float32),
        "f": FREQUENCIES,
        "row": FREQUENCIES[None],
        "one": np.array([1]),
        "zero": np.array([0]),
        "size": np.array([SIZE]),
        "seven": np.float32(7),
        "limit": np.float32(4099),
        "zeros": np.zeros(SIZE, np.float32),
        "table": random.standard_normal((4200, SIZE)).astype(np.float32),
    }
    nodes = [*nodes, NODE("Add", ["x", "e"], ["h"]), NODE("MatMul", ["h", "w"], ["y"])]
    used = {name for node in nodes for name in node.input}
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, ["n", SIZE]), value("i", kind, ["n", 1])],
        [value("y", FLOAT, ["n", 16])],
        [numpy_helper.from_array(array, name) for name, array in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    numbers = np.array([[4097], [3333], [4099], [2049]])
    x = random.standard_normal((4, SIZE)).astype(np.float32)
    return model, {"x": x, "i": numbers if kind == INT64 else numbers.astype(np.float32)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("calibrated", [False, True])
def test_large_positions_stay_apart(tmp_path, way, calibrated):
    model, feeds = embedded(way)
    onnx.save(model, tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", **feeds)
    report = nm2trt.cast(
        tmp_path / "m.onnx", tmp_path / "c.onnx", calib=tmp_path / "x.npz" if calibrated else None
    )
    (wanted,) = ReferenceEvaluator(model).run(None, feeds)
    (found,) = ReferenceEvaluator(str(tmp_path / "c.onnx")).run(None, feeds)
    assert np.abs(found - wanted).max() < 0.005 * np.abs(wanted).max()
    assert report.cast_nodes >= 2
    assert {item.reason for item in report.kept} == {"a position, angle or index loses its digits in fp16"}


@pytest.mark.parametrize("operator", ["Sin", "Floor"])
def test_activations_are_cast(tmp_path, operator):
    random = np.random.default_rng(0)
    nodes = [
        NODE("MatMul", ["x", "w"], ["h"]),
        NODE("Mul", ["h", "k"], ["a"]),
        NODE(operator, ["a"], ["s"]),
        NODE("Add", ["h", "s"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", FLOAT, ["n", 64])],
        [value("y", FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(random.standard_normal((64, 64)).astype(np.float32), "w"),
            numpy_helper.from_array(np.float32(2), "k"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    report = nm2trt.cast(tmp_path / "m.onnx", tmp_path / "c.onnx", compare=False)
    assert (report.cast_nodes, report.kept) == (4, ())


def test_a_long_chain_of_angles_is_followed_once(monkeypatch):
    count, asked = 200, []
    angles = [NODE("Sin", [f"v{k - 1}" if k else "p"], [f"v{k}"]) for k in range(count)]
    graph = helper.make_graph(
        [to_float("i"), *angles],
        "g",
        [helper.make_tensor_value_info("i", INT64, [1])],
        [helper.make_tensor_value_info(f"v{count - 1}", FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    editor = Editor(load(model))
    types = {"i": INT64, "p": FLOAT, **{f"v{k}": FLOAT for k in range(count)}}
    operands = positions_module._operands
    monkeypatch.setattr(positions_module, "_operands", lambda node: asked.append(node) or operands(node))
    assert set(positions_module.positions(editor, types)) == set(range(count + 1))
    assert len(asked) <= 4 * count
