"""open_session: one door for everything that runs, and a sentence for what does not."""

import numpy as np
import pytest

from nm2trt.backends.protocol import Session
from nm2trt.errors import BackendError, InputError, ModelError, ServerError
from nm2trt.pipeline.sessions import backend_of, is_url, open_session, parse_shapes

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
    with pytest.raises((BackendError, InputError), match=r"m\.bin|is not installed"):
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


@pytest.mark.parametrize("scheme", ["http", "grpc"])
def test_a_server_that_is_not_there_is_said_so(scheme):
    pytest.importorskip("tritonclient")
    with pytest.raises(ServerError, match=r"127\.0\.0\.1:9"):
        open_session(f"{scheme}://127.0.0.1:9/model")


def test_an_exported_program_runs(tmp_path):
    torch = pytest.importorskip("torch")
    torch.export.save(torch.export.export(torch.nn.Linear(4, 3), (torch.randn(2, 4),)), tmp_path / "l.pt2")
    with open_session(tmp_path / "l.pt2") as session:
        assert session.run({session.inputs[0].name: np.ones((2, 4), np.float32)})["output"].shape == (2, 3)
    assert backend_of(tmp_path / "l.pt2").startswith("PyTorch 2.")


def test_what_runs_it_is_named(tmp_path):
    assert backend_of(doubling(tmp_path / "m.onnx")).startswith("ONNX Runtime 1.")
    assert backend_of("grpc://h:8001/m") == "a server, over GRPC"


def test_shapes_are_read():
    assert parse_shapes(["x:1x3x8", "a:0:7"]) == {"x": (1, 3, 8), "a:0": (7,)}
    for text in ("x", ":1x2", "x:", "x:0x2", "x:1x-1", "x:1,2"):
        with pytest.raises(InputError, match="is not a shape; write NAME:SIZES"):
            parse_shapes([text])


def test_an_engine_without_a_gpu_is_one_sentence(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    from nm2trt.backends.cuda import probe_gpus
    from nm2trt.cli import main

    if probe_gpus()[0]:
        pytest.skip("a GPU is here")
    model = str(doubling(tmp_path / "m.onnx"))
    assert main(["build", model]) == 0
    capsys.readouterr()
    for words in (["infer"], ["bench"]):
        assert main([*words, str(tmp_path / "m.rtx")]) == 4
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "m.rtx" in err
        assert "GPU" in err


def test_bisecting_an_engine_names_the_model_that_it_was_made_from(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx")
    from nm2trt.cli import main

    model = str(doubling(tmp_path / "m.onnx"))
    assert main(["build", model]) == 0
    np.savez(tmp_path / "d.npz", x=np.ones((2, 2), np.float32))
    capsys.readouterr()
    words = [
        "validate",
        str(tmp_path / "m.rtx"),
        "--against",
        model,
        "--data",
        str(tmp_path / "d.npz"),
        "--bisect",
    ]
    assert main(words) == 2
    assert f"POLYGRAPHY_USE_TENSORRT_RTX=1 polygraphy run {model} --onnxrt --trt" in capsys.readouterr().err
