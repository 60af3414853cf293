"""Which backend: by name, by what is here, by a file's first bytes."""

import pytest

from nm2trt.backends import choice, cuda
from nm2trt.errors import InputError
from tests.engine.nets import conv_net

GPU = cuda.Gpu("Ampere GPU", "sm86", True)


@pytest.mark.parametrize(
    ("installed", "gpus", "chosen"),
    [
        pytest.param(True, (GPU,), "trt", id="library-and-gpu"),
        pytest.param(True, (), "trt-rtx", id="no-gpu"),
        pytest.param(False, (GPU,), "trt-rtx", id="no-library"),
    ],
)
def test_tensorrt_is_the_default_where_it_and_a_gpu_are(monkeypatch, installed, gpus, chosen):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr(cuda, "probe_gpus", lambda: (gpus, ""))
    monkeypatch.setattr(choice, "load_backend", lambda name: name)
    assert choice.choose_backend() == chosen


def test_a_named_backend_is_taken():
    pytest.importorskip("onnxruntime")
    assert choice.choose_backend("ort").name == "ort"


def test_an_unknown_backend_is_refused():
    with pytest.raises(InputError, match="backend 'tvm' is unknown; choose trt, trt-rtx, ort"):
        choice.load_backend("tvm")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"ftrt" + bytes(60), "trt"),
        (b"vtrt" + bytes(60), "trt-rtx"),
        (b"\x18\0\0\0ORTM", "ort"),
        (b"vt", None),
    ],
    ids=["trt", "trt-rtx", "ort", "short"],
)
def test_a_file_is_known_by_its_first_bytes(tmp_path, data, name):
    path = tmp_path / "engine"
    path.write_bytes(data)
    assert choice.identify(path) == name


def test_an_onnx_model_is_no_engine(tmp_path):
    assert choice.identify(conv_net(tmp_path / "net.onnx")) is None
