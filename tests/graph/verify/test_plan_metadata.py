"""annotate: metadata under the file's own names, and plan entries matched to renamed weights."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from nm2trt import __version__
from nm2trt.errors import ModelError
from nm2trt.graph.verify.plan_metadata import VERSION_KEY, annotate, match_plan
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.lineage import METADATA_KEY as MASK_KEY
from nm2trt.nm.mask import nm_mask
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY as PLAN_KEY
from nm2trt.nm.plan import Plan, PlanEntry

TWO_FOUR = NMPattern(2, 4)


def matmul_chain(path, weights, **metadata):
    """x @ w1 @ w2 ...; weights by name, each (in, out), reduced over axis 0."""
    nodes, last = [], "x"
    for index, name in enumerate(weights):
        nodes.append(helper.make_node("MatMul", [last, name], [f"h{index}"], name=f"product_{index}"))
        last = f"h{index}"
    first, final = (next(iter(weights.values())), list(weights.values())[-1])
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", first.shape[0]])],
        [helper.make_tensor_value_info(last, onnx.TensorProto.FLOAT, ["n", final.shape[1]])],
        [numpy_helper.from_array(weight, name) for name, weight in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def weight(rows, columns, *, sparse, seed=0):
    values = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return (
        np.where(nm_mask(np.abs(values), TWO_FOUR, axis=0), values, 0).astype(np.float32)
        if sparse
        else values
    )


def entry(name, shape, pattern=TWO_FOUR, axis=1):
    """A torch Linear: (out, in), reduced over axis 1."""
    return PlanEntry(name, pattern, "planned", shape, axis)


def metadata_of(path):
    return {prop.key: prop.value for prop in onnx.load(path).metadata_props}


def test_writes_version_hash_and_renamed_plan_and_keeps_the_rest(tmp_path):
    path = matmul_chain(tmp_path / "m.onnx", {"val_9": weight(8, 4, sparse=True)}, author="me")

    annotation = annotate(path, Plan((entry("fc.weight", (4, 8)),), "sr-ste"))

    found = metadata_of(path)
    assert [planned.weight for planned in annotation.plan] == ["val_9"]
    assert Plan.from_json(found.pop(PLAN_KEY)) == annotation.plan
    assert found == {"author": "me", VERSION_KEY: __version__, MASK_KEY: annotation.mask_sha256}
    report = verify_model(path)
    assert [verdict.pattern for verdict in report.weights] == ["holds"]
    assert report.recorded_mask_sha256 == report.mask_sha256


def test_a_second_call_replaces_what_the_first_wrote(tmp_path):
    path = matmul_chain(tmp_path / "m.onnx", {"val_9": weight(8, 4, sparse=True)})
    annotate(path, Plan((entry("fc.weight", (4, 8)),), "sr-ste"))
    annotate(path, None)

    assert sorted(metadata_of(path)) == sorted([VERSION_KEY, MASK_KEY])


def test_a_damaged_file_is_refused_and_left_alone(tmp_path):
    path = matmul_chain(tmp_path / "m.onnx", {"w": weight(8, 4, sparse=True)}, **{PLAN_KEY: "{}"})
    before = path.read_bytes()

    with pytest.raises(ModelError, match="plan in the ONNX metadata"):
        annotate(path, None)
    assert path.read_bytes() == before


def test_external_data_is_read_and_not_touched(tmp_path):
    embedded = matmul_chain(tmp_path / "m.onnx", {"w": weight(64, 64, sparse=True)})
    external = tmp_path / "external.onnx"
    onnx.save(onnx.load(embedded), external, save_as_external_data=True, location="w.data", size_threshold=0)
    data = (tmp_path / "w.data").read_bytes()

    assert annotate(external, None).mask_sha256 == annotate(embedded, None).mask_sha256
    assert (tmp_path / "w.data").read_bytes() == data
    assert external.stat().st_size < len(data)


def matched(tmp_path, weights, *entries):
    path = matmul_chain(tmp_path / "m.onnx", weights)
    return match_plan(Plan(entries), verify_model(path).weights)


def test_equal_names_go_before_the_order_of_the_graph(tmp_path):
    weights = {"b": weight(8, 8, sparse=True, seed=1), "a": weight(8, 8, sparse=True, seed=2)}
    assert matched(tmp_path, weights, entry("a", (8, 8)), entry("b", (8, 8))) == {"a": "a", "b": "b"}


def test_an_equal_name_of_another_shape_is_no_match(tmp_path):
    weights = {"fc": weight(8, 4, sparse=True), "val_1": weight(4, 16, sparse=True)}
    assert matched(tmp_path, weights, entry("fc", (16, 4)), entry("head", (4, 8))) == {
        "fc": "val_1",
        "head": "fc",
    }


def test_zeros_tell_a_sparse_weight_from_a_dense_one_of_its_shape(tmp_path):
    weights = {"val_1": weight(8, 8, sparse=False, seed=1), "val_2": weight(8, 8, sparse=True, seed=2)}
    names = matched(tmp_path, weights, entry("sparse", (8, 8)), entry("dense", (8, 8), pattern=None))
    assert names == {"sparse": "val_2", "dense": "val_1"}


def test_equal_candidates_go_in_the_order_of_the_graph(tmp_path):
    weights = {f"val_{i}": weight(8, 8, sparse=True, seed=i) for i in (3, 1, 2)}
    names = matched(tmp_path, weights, *(entry(name, (8, 8)) for name in ("first", "second", "third")))
    assert names == {"first": "val_3", "second": "val_1", "third": "val_2"}


def test_entries_that_nothing_fits_stay_unnamed(tmp_path):
    names = matched(
        tmp_path, {"val_1": weight(8, 4, sparse=True)}, entry("gone", (4, 12)), PlanEntry("bare", None, "")
    )
    assert names == {}
