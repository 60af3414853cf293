"""A served model against its ONNX file, and a real server killed in the middle of the samples."""

import json

import numpy as np
import onnx
import pytest

from nm2trt.cli import main

pytest.importorskip("tritonclient")

SERVED = """
import numpy as np
import triton_python_backend_utils as pb


class TritonPythonModel:
    def execute(self, requests):
        answers = []
        for request in requests:
            x = pb.get_input_tensor_by_name(request, "x").as_numpy()
            answers.append(pb.InferenceResponse([pb.Tensor("y", x + x)]))
        return answers
"""
CONFIG = """
name: "double"
backend: "python"
max_batch_size: 8
instance_group { kind: KIND_CPU }
input { name: "x" data_type: TYPE_FP32 dims: [ 3 ] }
output { name: "y" data_type: TYPE_FP32 dims: [ 3 ] }
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server of its own, since a test kills it, with a model that doubles; (server, ONNX file, samples)."""
    from nm2trt.errors import BackendMissingError
    from nm2trt.serving.options import ServerOptions
    from nm2trt.serving.server.start import start_server

    folder = tmp_path_factory.mktemp("served")
    version = folder / "models" / "double" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SERVED)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    graph = onnx.parser.parse_graph("g (float[n, 3] x) => (float[n, 3] y) { y = Add(x, x) }")
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, folder / "double.onnx")
    labels = np.random.default_rng(0).integers(0, 3, 100)
    np.savez(folder / "d.npz", x=np.eye(3, dtype=np.float32)[labels], labels=labels)
    try:
        server = start_server(folder / "models", ServerOptions(load=("double",), log=folder / "log.txt"))
    except BackendMissingError as error:
        pytest.skip(f"no real server: {error}")
    yield server, str(folder / "double.onnx"), str(folder / "d.npz")
    server.kill()


SERVER = []


def kills_the_server(outputs, truth):
    """Score as top-1 does, and kill the server once four batches of both sides have been scored."""
    calls = SERVER[1]
    calls.append(len(truth["labels"]))
    if len(calls) == 8:
        SERVER[0].kill()
    return outputs["y"].argmax(1) == truth["labels"]


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_served_model_answers_as_its_file_does(served, protocol, capsys):
    server, model, data = served
    url = f"{protocol}://{getattr(server, protocol)}/double"
    words = ["validate", url, "--against", model, "--data", data, "--runs", "3", "--warmup", "0", "--json"]
    assert main([*words, "--max-drop", "10pt"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["n"], report["batch"], report["differences"][0]["max_abs"]) == (100, 8, 0.0)
    assert report["metrics"][0]["candidate"]["right"] == 100
    assert report["benchmark"]["conditions"]["backend of candidate"] == f"a server, over {protocol.upper()}"


def test_infer_asks_a_server(served, tmp_path, capsys):
    server, _, data = served
    assert (
        main(
            [
                "infer",
                f"http://{server.http}/double",
                "--data",
                data,
                "--batch",
                "8",
                "-o",
                str(tmp_path / "o.npz"),
            ]
        )
        == 0
    )
    np.testing.assert_array_equal(np.load(tmp_path / "o.npz")["y"], 2 * np.load(data)["x"])


def test_what_a_server_answered_before_it_was_killed_is_kept(served, capsys, tmp_path):
    server, model, data = served
    SERVER[:] = [server, []]
    kept = tmp_path / "r.json"
    words = ["validate", f"http://{server.http}/double", "--against", model, "--data", data]
    assert main([*words, "--metric", f"{__name__}:kills_the_server", "--runs", "0", "-o", str(kept)]) == 7
    out, err = capsys.readouterr()
    assert f"32 of 100 samples were compared before; what was found so far is in {kept}" in err
    assert err.count("\n") == 1
    report = json.loads(kept.read_text())
    assert (report["n"], report["metrics"][0]["paired"]["n"]) == (32, 32)
    assert "32 samples" in out
