"""Twin builds: on a GPU with TensorRT proper; the same script, smaller, ahead of time with TensorRT for RTX."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import trt_twin
from nm2trt.backends.protocol import TensorSpec


@pytest.mark.trt
@pytest.mark.gpu
@pytest.mark.parametrize("precision", trt_twin.PRECISIONS)
@pytest.mark.parametrize("net", trt_twin.NETS)
def test_twins_on_a_gpu(tmp_path, net, precision):
    pytest.importorskip("tensorrt")
    pytest.importorskip("onnxruntime")
    result = trt_twin.twin("trt", net, precision, tmp_path, batch=8, runs=20, out=tmp_path / "logs")
    # Seen on an H200: 0.061 for ResNet-50 in FP16 with 17 sparse kernels, 0.011 in INT8; wrong weights give about 1.
    assert result["max_relative_difference"] < 0.2, "the flag changed what the engine computes"
    assert result["flag_on"]["sparsity_lines"] > 0, "the builder does not speak of sparsity"
    assert result["flag_off"]["sparse_tactics"] == result["dense"]["sparse_tactics"] == 0
    for case in ("dense", "flag_off", "flag_on"):
        assert result[case]["time"]["device"]["p50_ms"] > 0


def test_twins_are_skipped_where_tensorrt_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(pytest.skip.Exception, match="tensorrt"):
        test_twins_on_a_gpu(tmp_path, "conv", "fp16")


@pytest.mark.parametrize(
    ("net", "precision", "sizes"),
    [
        pytest.param("conv", "fp16", {"channels": 16, "size": 8, "layers": 2}, id="conv-fp16"),
        pytest.param("conv", "int8", {"channels": 16, "size": 8, "layers": 2}, id="conv-int8"),
        pytest.param("minilm", "fp16", {"layers": 1, "tokens": 8, "width": 48, "heads": 4}, id="minilm-fp16"),
    ],
)
def test_the_twins_build_ahead_of_time(tmp_path, net, precision, sizes):
    pytest.importorskip("tensorrt_rtx")
    pytest.importorskip("onnxruntime")
    out = tmp_path / "logs"
    result = trt_twin.twin("trt-rtx", net, precision, tmp_path, batch=2, runs=1, out=out, **sizes)
    for case in ("dense", "flag_off", "flag_on"):
        assert result[case]["engine_bytes"] > 0
    assert len(list(out.glob("*.log"))) == 3
    json.dumps(result)


def test_inputs_are_fed_in_the_engine_s_types():
    """TensorRT 8 makes an int64 input int32."""
    session = SimpleNamespace(inputs=(TensorSpec("ids", "int32", (1, 2)), TensorSpec("x", "float16", (1,))))
    fed = trt_twin.fitted({"ids": np.array([[1, 29999]]), "x": np.ones(1, np.float32)}, session)
    assert {name: str(array.dtype) for name, array in fed.items()} == {"ids": "int32", "x": "float16"}
    assert fed["ids"].tolist() == [[1, 29999]]
