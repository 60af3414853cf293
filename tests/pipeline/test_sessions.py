"""open_session: one door for everything that runs, and a sentence for what does not."""

import numpy as np
import pytest

from nm2trt.backends.protocol import Session
from nm2trt.errors import BackendError, InputError, ModelError
from nm2trt.pipeline.sessions import is_url, open_session

onnx = pytest.importorskip("onnx")


def doubling(path):
    graph = onnx.parser.parse_graph("g (float[n, 2] x) => (float[n, 2] y) { y = Add(x, x) }")
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


def test_an_onnx_model_runs(tmp_path):
    with open_session(doubling(tmp_path / "m.onnx"), threads=1) as session:
        assert isinstance(session, Session)
        found = session.run({"x": np.ones((3, 2), np.float32)})
    np.testing.assert_array_equal(found["y"], np.full((3, 2), 2, np.float32))


@pytest.mark.parametrize(
    ("content", "error", "match"),
    [
        pytest.param(None, InputError, "does not exist", id="missing"),
        pytest.param(b"", InputError, "is empty", id="empty"),
        pytest.param(b"no model", ModelError, "cannot load", id="garbage"),
    ],
)
def test_refuses_files(content, error, match, tmp_path):
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=match):
        open_session(path)


@pytest.mark.parametrize("magic", [b"vtrt", b"ftrt"])
def test_an_engine_is_not_taken_for_a_model(magic, tmp_path):
    path = tmp_path / "m.bin"
    path.write_bytes(magic + bytes(60))
    with pytest.raises((BackendError, InputError), match=r"m\.bin"):
        open_session(path)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h:8000/m", True),
        ("grpc://h:8001/m", True),
        ("HTTPS://h/m", True),
        ("models/http/m.onnx", False),
    ],
)
def test_urls_are_told_from_paths(text, url):
    assert is_url(text) is url
