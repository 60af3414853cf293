"""Position tables: read up to the length of an input, they bound the sizes that are guessed of it."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.graph.storage.model import load
from nm2trt.pipeline.next_step import next_step
from nm2trt.pipeline.position_tables import longest_positions

node, stored = helper.make_node, numpy_helper.from_array
ROWS = 24


def table(name, *shape):
    return stored(np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32), name)


def ints(name, *values):
    return stored(np.array(values, np.int64).reshape(-1 if len(values) > 1 or name != "zero" else ()), name)


LENGTH = [node("Shape", ["ids"], ["sizes"]), node("Slice", ["sizes", "k1", "k2"], ["length"])]
CUT = [
    *LENGTH,
    node("Slice", ["numbers", "k0", "length", "k1"], ["at"]),
    node("Gather", ["table", "at"], ["p"]),
]
RANGE = [
    *LENGTH,
    node("Squeeze", ["length"], ["end"]),
    node("Range", ["zero", "end", "one"], ["at"]),
    node("Gather", ["table", "at"], ["p"]),
]
ROWS_CUT = [*LENGTH, node("Slice", ["table", "k0", "length", "k0"], ["p"])]
FIRST_CUT = [*LENGTH, node("Slice", ["table", "k0", "length"], ["p"])]
ENDS = [*LENGTH, node("Concat", ["length", "width"], ["ends"], axis=0)]
BOTH_CUT = [*ENDS, node("Slice", ["table", "k00", "ends", "both"], ["p"])]


def model(path, positions, rows=ROWS):
    nodes = [node("Gather", ["tokens", "ids"], ["e"]), *positions]
    nodes += [node("Add", ["e", "p"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    weights = [table("tokens", 50, 16), table("table", rows, 16), table("w", 16, 16)]
    weights += [ints(f"k{value}", value) for value in range(3)]
    weights += [
        stored(np.arange(rows)[None], "numbers"),
        stored(np.array(0), "zero"),
        stored(np.array(1), "one"),
        stored(np.array(rows - 1), "last"),
        stored(np.array([16]), "width"),
        stored(np.array([0, 0]), "k00"),
        stored(np.array([0, 1]), "both"),
    ]
    value = helper.make_tensor_value_info
    inputs, outputs = (
        [value("ids", TensorProto.INT64, ["n", "s"])],
        [value("y", TensorProto.FLOAT, ["n", "s", 16])],
    )
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.mark.parametrize(
    "positions",
    [CUT, RANGE, ROWS_CUT, FIRST_CUT, BOTH_CUT],
    ids=["cut", "range", "rows-cut", "without-axes", "both-axes"],
)
def test_a_table_of_positions_bounds_the_length(tmp_path, positions):
    assert longest_positions(load(model(tmp_path / "a.onnx", positions))) == ROWS


@pytest.mark.parametrize(
    "cut",
    [
        [node("Clip", ["far", "zero", "last"], ["at"])],
        [node("Min", ["far", "last"], ["at"])],
        [node("Mod", ["far", "last"], ["at"])],
    ],
    ids=["clip", "min", "mod"],
)
def test_a_table_of_distances_that_are_cut_off_bounds_nothing(tmp_path, cut):
    far = [*LENGTH, node("Squeeze", ["length"], ["end"]), node("Range", ["zero", "end", "one"], ["far"])]
    source = model(tmp_path / "a.onnx", [*far, *cut, node("Gather", ["table", "at"], ["p"])])
    with open_onnx(source) as session:
        longer = session.run({"ids": np.zeros((1, 4 * ROWS), np.int64)})
    assert longer["y"].shape == (1, 4 * ROWS, 16)
    assert longest_positions(load(source)) is None


def test_a_table_of_tokens_and_a_table_that_is_read_whole_bound_nothing(tmp_path):
    whole = [node("Slice", ["table", "k0", "k1", "k0"], ["p"])]
    assert longest_positions(load(model(tmp_path / "a.onnx", whole))) is None


def test_a_table_of_few_rows_holds_no_positions(tmp_path):
    assert longest_positions(load(model(tmp_path / "a.onnx", ROWS_CUT, rows=7))) is None


@pytest.mark.parametrize(("rows", "profile"), [(24, "ids:1x6,8x12,32x24"), (2048, "ids:1x64,8x128,32x256")])
def test_the_next_command_builds(tmp_path, rows, profile):
    pytest.importorskip("tensorrt_rtx")
    source = model(tmp_path / "a.onnx", CUT, rows)
    nm2trt.prune(source, tmp_path / "p.onnx")
    assert f"--profile {profile}" in next_step(tmp_path / "p.onnx", backend="trt-rtx", targets="sm86").command
    nm2trt.build(source, tmp_path / "a.rtx", backend="trt-rtx", targets="sm86", profiles=[profile])
