"""`nm2trt bench --processes`: who runs what, what is merged, and how a process fails."""

import json

import numpy as np
import onnx
import pytest
from onnx import parser

from nm2trt.backends._triton_server import TritonServer
from nm2trt.cli import main
from nm2trt.measure import ServerTime
from nm2trt.pipeline.deploy import deploy
from nm2trt.serving.options import DeployOptions
from nm2trt.validation.latency.bench_files import merged


@pytest.fixture
def model(tmp_path):
    graph = parser.parse_graph("g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, x) }")
    path = tmp_path / "m.onnx"
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path
    )
    return str(path)


def test_the_ratio_has_an_interval_over_processes(model, capsys):
    words = ["bench", model, model, "--processes", "2", "--runs", "7", "--warmup", "1", "--json"]
    assert main(words) == 0
    found = json.loads(capsys.readouterr().out)
    (ratio,) = found["ratios"]
    assert (ratio["name"], ratio["base"], len(ratio["processes"])) == (f"{model} #2", model, 2)
    assert ratio["low"] <= ratio["p50"] <= ratio["high"]
    assert ratio["p50"] == pytest.approx(np.exp(np.log(ratio["processes"]).mean()))
    assert {one["runs"] for one in found["latencies"].values()} == {8}  # 7 runs, rounded up to 4 in each
    assert "2 processes" in found["conditions"]["order"]


def test_one_process_gives_no_interval_and_says_so(model, capsys):
    assert main(["bench", model, model, "--runs", "3", "--warmup", "1"]) == 0
    out = capsys.readouterr().out
    assert "interval" in out
    assert "95 % interval" not in out


def part(first, second):
    """Return what a process prints that opened `first` with its times before `second`."""
    names = ("a.onnx", "a.onnx #2")
    latencies = {
        name: {"name": name, "batch": 1, "samples_ms": list(times), "server": None}
        for name, times in zip(names, (first, second), strict=True)
    }
    return {
        "latencies": latencies,
        "warmup": {"runs": 3, "stable": True},
        "conditions": {},
        "state": {"before": {}, "after": {}},
    }


def test_processes_that_opened_the_models_in_another_order_are_turned_back():
    straight = {"a.onnx": "a.onnx", "a.onnx #2": "a.onnx #2"}
    turned = {"a.onnx": "a.onnx #2", "a.onnx #2": "a.onnx"}
    found = merged([(part([2, 2], [1, 1]), straight), (part([1, 1], [2, 2]), turned)], list(straight))
    (ratio,) = found.ratios
    assert (ratio.p50, ratio.processes) == (0.5, (0.5, 0.5))
    assert {t.name: t.samples_ms for t in found.timings} == {
        "a.onnx": (2, 2, 2, 2),
        "a.onnx #2": (1, 1, 1, 1),
    }


def test_server_times_of_several_processes_are_means_over_all_their_requests():
    parts = []
    for requests, mean in ((1, 4.0), (3, 8.0)):
        served = ServerTime(requests, mean, 0.0, 1.0, mean - 2, 1.0)
        entry = {"name": "http://h:1/m", "batch": 1, "samples_ms": [9.0], "server": served.to_json()}
        parts.append(({**part([1], [1]), "latencies": {"only": entry}}, {"http://h:1/m": "http://h:1/m"}))
    (timing,) = merged(parts, ["http://h:1/m"]).timings
    assert timing.server == ServerTime(4, 7.0, 0.0, 1.0, 5.0, 1.0)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_served_model_over_every_transport_beside_its_file(
    model, tritonserver, tmp_path, capsys, processes
):
    name = f"timed{processes}"
    deploy(model, tritonserver.repository, name, DeployOptions(backend="python"))
    with TritonServer(f"http://{tritonserver.http}") as client:
        client.load(name)
    urls = [
        f"{protocol}://{getattr(tritonserver, protocol.removesuffix('+shm'))}/{name}"
        for protocol in ("http", "grpc", "http+shm", "grpc+shm")
    ]
    command = ["bench", model, *urls, "--runs", "4", "--warmup", "1", "--processes", str(processes)]
    assert main([*command, "-o", str(tmp_path / "bench.json")]) == 0
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["latencies"][model]["server"] is None
    for url in urls:
        own = found["latencies"][url]["server"]
        assert own["requests"] >= 4  # one that was answered just before may be counted late
        assert 0 < own["infer_ms"] < own["mean_ms"]
    assert found["conditions"][f"backend of {urls[3]}"] == "a server, over GRPC, tensors in shared memory"
    printed = capsys.readouterr().out
    assert "server ms: the server's own mean time per request" in printed


def test_a_process_that_fails_ends_the_benchmark_with_its_sentence(model, capsys):
    assert main(["bench", model, "absent.onnx", "--processes", "2", "--runs", "2"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("nm2trt: absent.onnx does not exist")


def test_no_module_of_the_current_folder_is_imported(model, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", model, "--processes", "2", "--runs", "2", "--warmup", "0"]) == 0
