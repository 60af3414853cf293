"""Hash and size of a model cover its external data; of one without, the hash is that of its file."""

import hashlib

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import nm2trt
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.model_hash import model_bytes, model_sha256
from nm2trt.manifest import read_manifest


def write(folder, factor, *, external=True):
    folder.mkdir()
    weight = (np.random.default_rng(0).standard_normal((64, 64)) * factor).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 64])],
        [numpy_helper.from_array(weight, "w")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "net.onnx"
    onnx.save(proto, path, save_as_external_data=external, location="net.data", size_threshold=0)
    return path


def test_a_factor_in_the_data_changes_the_hash_that_a_build_records(tmp_path):
    pytest.importorskip("onnxruntime")
    paths = [write(tmp_path / name, factor) for name, factor in (("a", 1), ("b", 2), ("c", 1))]
    assert len({path.read_bytes() for path in paths}) == 1
    recorded = []
    for path in paths:
        nm2trt.build(path, path.with_suffix(".ort"), backend="ort")
        recorded.append(read_manifest(path.with_suffix(".ort")).manifest.model_sha256)
    assert recorded[0] == recorded[2] != recorded[1]
    assert recorded[0] == model_sha256(paths[0])


def test_a_zero_in_the_data_changes_the_mask_hash(tmp_path):
    path = write(tmp_path / "a", 1)
    before = nm2trt.verify(path).mask_sha256
    data = bytearray((tmp_path / "a" / "net.data").read_bytes())
    data[:4] = bytes(4)
    (tmp_path / "a" / "net.data").write_bytes(data)
    assert nm2trt.verify(path).mask_sha256 != before


def test_size_counts_the_data(tmp_path):
    path = write(tmp_path / "a", 1)
    both = sum(file.stat().st_size for file in (tmp_path / "a").iterdir())
    assert nm2trt.info(path).file_bytes == model_bytes(load(path)) == both > 64 * 64 * 4


def test_without_external_data_the_hash_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "a", 1, external=False)
    assert model_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert nm2trt.info(path).file_bytes == path.stat().st_size
