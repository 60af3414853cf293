"""`nm2trt bench --processes`: who runs what, what is merged, and how a process fails."""

import json

import numpy as np
import onnx
import pytest
from onnx import parser

from nm2trt.cli import main
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
        name: {"name": name, "batch": 1, "samples_ms": list(times)}
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


def test_a_process_that_fails_ends_the_benchmark_with_its_sentence(model, capsys):
    assert main(["bench", model, "absent.onnx", "--processes", "2", "--runs", "2"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("nm2trt: absent.onnx does not exist")


def test_no_module_of_the_current_folder_is_imported(model, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(99)")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", model, "--processes", "2", "--runs", "2", "--warmup", "0"]) == 0
