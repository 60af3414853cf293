"""Faults that the fuzzer found, each as small as it gets: exit status 2 and one sentence."""

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from nm2trt.backends.ort import open_onnx
from nm2trt.cli import main
from nm2trt.errors import ModelError
from nm2trt.recipe.hashes import FileIndex
from tests.hostile import forms

POLYGRAPHY = {"array": None, "polygraphy_class": "ndarray"}


def network(folder, nodes, stored, opset=18):
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy"]
    tensors = [numpy_helper.from_array(value, name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9),
        folder / "m.onnx",
    )
    np.savez(folder / "x.npz", x=np.random.default_rng(0).standard_normal((4, 16)).astype("f4"))


@pytest.fixture
def refused(tmp_path, monkeypatch, capfd):
    """Give a folder with a sound model, and a judge of a command that should be refused."""
    monkeypatch.chdir(tmp_path)
    network(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((16, 16), "f4")})

    def judge(words, sentence):
        assert main(words.split()) == 2
        err = capfd.readouterr().err
        assert err.startswith("nm2trt: ")
        assert err.count("\n") == 1
        assert sentence in err

    judge.folder = tmp_path
    return judge


def test_an_operator_at_which_the_converter_of_opsets_crashes(refused):
    nodes = [
        helper.make_node("EyeLike", ["s"], ["e"], dtype=1),
        helper.make_node("MatMul", ["x", "e"], ["h"]),
        helper.make_node("MatMul", ["h", "w"], ["y"]),
    ]
    eye = {"w": np.ones((16, 16), "f4"), "s": np.ones((16, 16), "f4")}
    network(refused.folder, nodes, eye, opset=12)
    refused("quantize m.onnx --calib x.npz -o out.onnx --no-compare", "EyeLike")
    assert not (refused.folder / "out.onnx").exists()


@pytest.mark.parametrize(
    ("node", "size", "status", "sentence"),
    [
        (
            helper.make_node("Constant", [], [], value=numpy_helper.from_array(np.ones(3))),
            16,
            2,
            "has 0 outputs",
        ),
        (helper.make_node("EyeLike", ["s"], ["e"], dtype=1), 1 << 14, 4, "EyeLike"),
    ],
    ids=["no output", "a constant of 1 GB"],
)
def test_a_model_that_the_builder_reads_before_it_is_verified(refused, node, size, status, sentence, capfd):
    """The parser of TensorRT for RTX ends in a segmentation fault, or takes the memory."""
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["s"]),
        node,
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    stored = {"w": np.ones((16, 16), "f4"), "n": np.array([size, size])}
    network(refused.folder, nodes, stored)
    assert main("--run-memory 0.2 build m.onnx --target sm86 -o out.rtx".split()) == status
    assert sentence in capfd.readouterr().err
    assert not (refused.folder / "out.rtx").exists()


RANKS = {
    "ConstantOfShape": (["s"], ["s"]),
    "Reshape": (["x", "s"], ["s"]),
    "Expand": (["x", "s"], ["s"]),
    "Tile": (["x", "s"], ["s"]),
    "Slice": (["x", "z", "s"], ["s", "z"]),
}


def test_a_node_without_outputs_of_any_domain(refused, capfd):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Gemm", ["x", "w"], [""], domain="ai.onnx.ml", name="last"),
    ]
    network(refused.folder, nodes, {"w": np.ones((16, 16), "f4")})
    assert main("build m.onnx --target sm86 --dry-run".split()) == 4
    assert "Gemm at last has no output with a name" in capfd.readouterr().err


@pytest.mark.parametrize("computed", [False, True], ids=["stored", "computed"])
@pytest.mark.parametrize("operator", RANKS)
def test_a_shape_at_which_the_builder_writes_beyond_its_memory(refused, operator, computed, capfd):
    inputs, stored = RANKS[operator]
    vectors = {name: np.full(31, name == "s", "i8") for name in stored}
    nodes = [
        helper.make_node(operator, inputs, ["a"], name="deep"),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    if computed:
        vectors["s"], vectors["t"] = vectors["s"][:16], vectors["s"][16:]
        nodes[0].input[:] = ["st" if name == "s" else name for name in nodes[0].input]
        nodes.insert(0, helper.make_node("Concat", ["s", "t"], ["st"], axis=0))
    network(refused.folder, nodes, {**vectors, "w": np.ones((16, 16), "f4")})
    assert main("build m.onnx --target sm86 --dry-run".split()) == 4
    assert f"{operator} at deep takes a shape of 31 dimensions" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("condition", "status"), [("g", 0), ("x", 4)], ids=["sound", "a condition of rank 2"]
)
def test_a_loop_is_tried_in_a_process_of_its_own(refused, condition, status, capfd):
    """The parser of TensorRT for RTX 1.7 ends in a segmentation fault at the second."""
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("MatMul", ["c", "w"], ["d"], name="inner"),
        helper.make_node("Identity", [condition], ["on"], name="on"),
    ]
    given = [value("i", 7, []), value("g", 9, []), value("c", 1, None)]
    body = helper.make_graph(nodes, "body", given, [value("on", 9, []), value("d", 1, None)])
    loop = helper.make_node("Loop", ["turns", "go", "x"], ["y"], name="loop", body=body)
    network(
        refused.folder, [loop], {"w": np.ones((16, 16), "f4"), "turns": np.array(2), "go": np.array(True)}
    )
    assert main("build m.onnx --target sm86 --dry-run".split()) == status
    assert ("crashes on m.onnx" in capfd.readouterr().err) is bool(status)


def test_indices_without_dimensions_at_which_the_builder_crashes(refused, capfd):
    nodes = [
        helper.make_node("GatherND", ["w", "c"], ["v"], name="there"),
        helper.make_node("MatMul", ["x", "v"], ["y"]),
    ]
    network(refused.folder, nodes, {"w": np.ones((16, 16), "f4"), "c": np.array(0)})
    assert main("build m.onnx --target sm86 --dry-run".split()) == 4
    assert "GatherND at there takes indices without dimensions" in capfd.readouterr().err


def test_an_operator_of_another_domain_whose_group_is_a_list(refused, capfd):
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["y"], domain="local", group=[2**62], name="far"),
    ]
    network(refused.folder, nodes, {"w": np.ones((16, 16), "f4"), "v": np.ones((16, 16), "f4")})
    assert main("quantize m.onnx --calib x.npz -o out.onnx --no-compare".split()) in (2, 4)
    assert "internal error" not in capfd.readouterr().err


@pytest.mark.parametrize("value", [POLYGRAPHY, {**POLYGRAPHY, "array": 1.5}, {**POLYGRAPHY, "array": {}}])
def test_an_array_of_polygraphy_that_is_no_text(refused, value):
    (refused.folder / "p.json").write_text(json.dumps([{"x": value}]))
    refused("infer m.onnx --data p.json -o out.npz", "not sound JSON of Polygraphy")


@pytest.mark.parametrize(
    "words", ["quantize m.onnx --calib x.npz --cache loop.npz -o o.onnx", "verify loop.npz"]
)
def test_a_loop_of_links(refused, words):
    (refused.folder / "loop.npz").symlink_to("loop.npz")
    refused(words, "loop.npz")


def test_a_tensor_with_fewer_dimensions_than_are_read(refused):
    proto, _ = forms.sound(random.Random(0), "conv")
    scale = next(tensor for tensor in proto.graph.initializer if tensor.name == "scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(1), "scale"))
    onnx.save(proto, refused.folder / "m.onnx")
    assert main("permute m.onnx -o out.onnx --no-compare".split()) in (0, 2, 3)


@pytest.mark.parametrize(
    "entry", [[1], None, {"sha256": 1}, {"sha256": "a", "size": "b", "time": 1}, {"sha256": "a", "size": 1, "time": 1, "data": 3}]
)  # fmt: skip
def test_an_index_of_hashes_that_was_changed_is_not_believed(refused, entry):
    folder = refused.folder
    (folder / "files.json").write_text(json.dumps({"m.onnx": entry}))
    (folder / "other").mkdir()
    found, own = (FileIndex(root).records(folder / "m.onnx") for root in (folder, folder / "other"))
    assert [record.sha256 for record in found] == [record.sha256 for record in own]


def test_onnx_runtime_writes_no_log_of_its_own(capfd):
    shape = numpy_helper.from_array(np.array([2**62, 1]), "s")
    shape.dims[:] = [2**62]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["x", "s"], ["y"])], "g", infos[:1], infos[1:], [shape]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    with pytest.raises(ModelError):
        open_onnx(model.SerializeToString())
    assert capfd.readouterr() == ("", "")


def test_an_opset_larger_than_the_number_that_the_library_of_schemas_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    network(tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((16, 16), "f4")}, 2**40)
    assert main(["verify", "m.onnx", "--fail-on", "none"]) == 0
    for words in ("cast m.onnx -o o.onnx --no-compare", "cast m.onnx --to bf16 -o o.onnx --no-compare"):
        assert main(words.split()) in (0, 2)


def test_an_equation_with_more_labels_than_the_weight_has_dimensions(tmp_path, capsys):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="ij,kj")
    network(tmp_path, [node], {"w": np.ones(16, "f4")})
    assert main(["verify", str(tmp_path / "m.onnx"), "--json"]) == 3
    (row,) = json.loads(capsys.readouterr().out)["weights"]
    assert row["pattern"] == "untraceable"


def test_an_equation_at_which_inference_never_ends(tmp_path, capsys):
    node = helper.make_node("Einsum", ["x", "w"], ["y"], equation="i 1,b")
    network(tmp_path, [node], {"w": np.ones((16, 16), "f4")})
    assert main(["verify", str(tmp_path / "m.onnx")]) == 2
    assert "has the equation 'i 1,b', which Einsum does not take" in capsys.readouterr().err


def test_a_call_that_gives_a_function_such_an_equation(tmp_path):
    inner = helper.make_node("Einsum", ["a", "b"], ["c"])
    inner.attribute.add(name="equation", ref_attr_name="e", type=onnx.AttributeProto.STRING)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "F", ["a", "b"], ["c"], [inner], opsets[:1], ["e"])
    network(
        tmp_path,
        [helper.make_node("F", ["x", "w"], ["y"], domain="local", e="i 1,b")],
        {"w": np.ones((16, 16), "f4")},
    )
    proto = onnx.load(tmp_path / "m.onnx")
    del proto.opset_import[:]
    proto.opset_import.extend(opsets)
    proto.functions.append(function)
    onnx.save(proto, tmp_path / "m.onnx")
    assert main(["verify", str(tmp_path / "m.onnx")]) == 3


@pytest.mark.parametrize(
    ("dims", "values", "indices"),
    [
        ([16, 16], np.ones((4, 1), "f4"), np.arange(4)),
        ([16, 16], np.ones((), "f4"), np.zeros(1, "i8")),
        ([], np.ones(1, "f4"), np.zeros((1, 0), "i8")),
        ([16, 16], np.ones(4, "f4"), np.zeros((4, 2, 1), "i8")),
        ([16, 16], np.ones(1, "f4"), np.array(3)),
        ([16, 16], np.ones(4, "f4"), np.zeros((4, 3), "i8")),
    ],
)
@pytest.mark.parametrize("inside", [False, True], ids=["initializer", "attribute"])
def test_sparse_tensors_of_strange_shapes(refused, dims, values, indices, inside):
    sparse = helper.make_sparse_tensor(
        numpy_helper.from_array(values, "" if inside else "w"), numpy_helper.from_array(indices), dims
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    if inside:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], sparse_value=sparse))
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:], sparse_initializer=[] if inside else [sparse])
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), refused.folder / "m.onnx")
    refused("verify m.onnx", "sparse tensor")


@pytest.mark.parametrize("shape", [(4, 0), (4, 1, 0, 5), (4, 3, 0, 0), (4, 0, 6)])
def test_calibration_samples_without_elements(refused, shape, capfd):
    np.save(refused.folder / "x.npy", np.zeros(shape, "f4"))
    (refused.folder / "c.yaml").write_text("source: {kind: npz, path: x.npy}\ncount: 4\ninput: x\n")
    assert main(["calib", "check", "c.yaml", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["inputs"][0]["max"] == 0
    refused("calib check c.yaml --sheet s.png", "sheet cannot be drawn")
    refused("quantize m.onnx --calib c.yaml -o o.onnx", "shape")


@pytest.mark.parametrize("words", ["infer", "bench", "validate --against other.onnx --data x.npz"])
def test_functions_that_unfold_to_a_million_nodes_are_not_given_to_onnx_runtime(refused, words):
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("l", 1)]
    bodies = [[helper.make_node("Identity", ["p"], ["r"])]]
    for level in range(1, 20):
        inner = f"F{level - 1}"
        bodies.append(
            [
                helper.make_node(inner, ["p"], ["q"], domain="l"),
                helper.make_node(inner, ["q"], ["r"], domain="l"),
            ]
        )
    functions = [
        helper.make_function("l", f"F{level}", ["p"], ["r"], body, opsets)
        for level, body in enumerate(bodies)
    ]
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("F19", ["x"], ["y"], domain="l")], "g", infos[:1], infos[1:])
    network(refused.folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones((16, 16), "f4")})
    (refused.folder / "m.onnx").rename(refused.folder / "other.onnx")
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9, functions=functions)
    onnx.save(model, refused.folder / "m.onnx")
    command, *rest = words.split()
    refused(" ".join([command, "m.onnx", *rest]), "unfold to")


@pytest.mark.parametrize("shape", [(16, 0), (0, 16), (0, 0)])
def test_a_gain_of_a_weight_without_elements(refused, shape, capfd):
    network(refused.folder, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": np.ones(shape, "f4")})
    table = Path(__file__).parents[2] / "benchmarks/results/gpu/h200/gain.json"
    assert main(["gain", "m.onnx", "--table", str(table), "--device", "sm90", "--json"]) == 0
    assert {row["pays"] for row in json.loads(capfd.readouterr().out)["layers"]} <= {"no"}


@pytest.mark.parametrize("group", [0, -1, -(2**40)])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize(
    "words",
    [
        "verify m.onnx",
        "prune m.onnx -o o.onnx --min-channels 4",
        "fuse m.onnx -o o.onnx",
        "infer m.onnx",
        "bench m.onnx --runs 1",
        "validate m.onnx --against m.onnx --data x.npz",
    ],
)
def test_groups_that_are_none(refused, operator, group, words):
    nodes = [
        helper.make_node("Reshape", ["x", "s"], ["h"]),
        helper.make_node(operator, ["h", "w"], ["c"], group=group),
        helper.make_node("Flatten", ["c"], ["y"]),
    ]
    network(refused.folder, nodes, {"w": np.ones((16, 16, 1, 1), "f4"), "s": np.array([0, 16, 1, 1])})
    refused(words, f"has the group {group}, and takes 1 or more")


def test_a_recipe_does_not_replace_the_model_that_it_is_for(refused):
    before = (refused.folder / "m.onnx").read_bytes()
    refused("init m.onnx -o m.onnx --force", "is an input, and would be replaced")
    assert (refused.folder / "m.onnx").read_bytes() == before


@pytest.mark.parametrize(
    "words", ["infer m.onnx --seed -1", "bench m.onnx --threads 2147483648", "infer m.onnx --threads 100000"]
)
def test_numbers_that_a_library_does_not_take(refused, words):
    refused(words, "is out of range")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("seed: -1", "seed"),
        ("preprocess: {std: [1.0e-320]}", "standard deviation must be positive"),
        ("preprocess: {divide: 1.0e-320}", "the divisor must be positive"),
        ("preprocess: {divide: 0}", "the divisor must be positive"),
        ("preprocess: {std: [1.0e+39]}", "too large for float32"),
        ("preprocess: {mean: [.nan]}", "should be a finite number"),
        ("preprocess: {mean: [-1.0e+39]}", "too large for float32"),
        ("preprocess: {divide: .inf}", "should be a finite number"),
        ("preprocess: {divide: '255'}", "should be a valid number"),
        ("preprocess: {mean: [true]}", "should be a valid number"),
    ],
)
def test_calibration_recipes_whose_numbers_no_float32_holds(refused, line, sentence):
    (refused.folder / "c.yaml").write_text(
        f"source: {{kind: npz, path: x.npz}}\ncount: 4\ninput: x\n{line}\n"
    )
    refused("calib check c.yaml", sentence)


def test_a_run_whose_server_is_not_there_says_so(refused, capfd):
    """A stage that ended early has no result; its record is not a damaged one, and no report replaces it."""
    (refused.folder / "r.yaml").write_text(
        "version: 1\nmodel: m.onnx\nstages:\n  validate: {data: x.npz, against: 'http://127.0.0.1:1/m'}\n"
    )
    assert main("run r.yaml -o run".split()) == 7
    assert "no Triton server answers" in capfd.readouterr().err
    for own in ("run/run.json", "run/stages/validate.json"):
        before = (refused.folder / own).read_bytes()
        refused(f"report run -o {own}", "is an input, and would be replaced")
        assert (refused.folder / own).read_bytes() == before
    assert main("report run -o run.md".split()) == 0
    assert "no Triton server answers" in (refused.folder / "run.md").read_text()


def test_a_pattern_that_matches_a_path_in_a_million_ways(refused):
    pattern = "**/" * 50 + "*"
    (refused.folder / "c.yaml").write_text(
        f"source: {{kind: images, path: ., pattern: '{pattern}'}}\ncount: 1\n"
    )
    refused("calib check c.yaml", "more than 3 parts")
