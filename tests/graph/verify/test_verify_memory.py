"""A model larger than memory should hold is verified in a small, constant one."""

import json
import subprocess
import sys

import onnx
import pytest
from onnx import TensorProto, helper

PROBE = """
import json, sys, threading, time
from pathlib import Path
from nm2trt.graph.verify.verify_model import verify_model

def resident():
    # Anonymous memory and file pages that are mapped, in bytes.
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

peak = resident()
stop = threading.Event()
def watch():
    global peak
    while not stop.wait(0.005):
        peak = max(peak, resident())
thread = threading.Thread(target=watch); thread.start()
report = verify_model(sys.argv[1])
stop.set(); thread.join()
print(json.dumps({"peak": peak, "patterns": [v.pattern for v in report.weights], "size": report.summary.parameters}))
"""


def write_model(folder, layers, width):
    """Write `layers` MatMuls of width x width whose data file is one hole: it takes no space on disk."""
    nodes, tensors, offset = [], [], 0
    for layer in range(layers):
        tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w.data"), ("offset", offset), ("length", width * width * 4)):
            tensor.external_data.add(key=key, value=str(value))
        offset += width * width * 4
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{layer}", f"w{layer}"], [f"x{layer + 1}"]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info(f"x{layers}", TensorProto.FLOAT, [1, width])],
        tensors,
    )
    path = folder / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    with (folder / "w.data").open("wb") as data:
        data.truncate(offset)
    return path, offset


def probe(path):
    done = subprocess.run(
        [sys.executable, "-c", PROBE, str(path)], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_memory_does_not_grow_with_the_model(tmp_path):
    small, _ = write_model(tmp_path, 1, 1024)
    base = probe(small)["peak"]
    large, size = write_model(tmp_path, 12, 2048)  # 200 MB
    found = probe(large)
    assert found["patterns"] == ["holds"] * 12
    assert found["peak"] - base < size / 4


@pytest.mark.slow
def test_three_gigabytes_in_less_than_600_megabytes(tmp_path):
    path, size = write_model(tmp_path, 48, 4096)
    assert size > 3e9
    found = probe(path)
    assert found["peak"] < 600e6
    assert found["size"] * 4 == size
