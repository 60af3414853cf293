"""`nm2trt build` beside the bare builder and Polygraphy: wall time and peak memory, interleaved, in one run.

    python benchmarks/build.py [--runs 5] [--model FILE]

Each measurement is a process of its own, from its start to its exit, so imports count. The bare builder
is the least that makes the same plan: import, parse, build with the same flags and profile, write.
Without --model, a ResNet-50 in fp16 with 2:4 weights and a dynamic batch is made up.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]

BARE = """
import sys
import tensorrt_rtx as trt
builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
assert parser.parse_from_file(sys.argv[1])
config = builder.create_builder_config()
config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
config.num_compute_capabilities = 2
config.set_compute_capability(trt.ComputeCapability.SM80, 0)
config.set_compute_capability(trt.ComputeCapability.SM86, 1)
profile = builder.create_optimization_profile()
for index in range(network.num_inputs):
    tensor = network.get_input(index)
    rest = tuple(tensor.shape)[1:]
    profile.set_shape(tensor.name, (1, *rest), (8, *rest), (32, *rest))
config.add_optimization_profile(profile)
plan = builder.build_serialized_network(network, config)
open(sys.argv[2], "wb").write(plan)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--model", type=Path, help="an ONNX file with a dynamic batch and 2:4 weights")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = arguments.model or resnet50(folder / "resnet50.onnx")
        results = measure(commands(model, folder), arguments.runs)
    if arguments.json:
        print(json.dumps(results, indent=2))
        return
    bare = results["bare builder"]
    print(f"{model.name}, median of {arguments.runs} interleaved runs, whole process")
    for label, result in results.items():
        seconds, peak = result["seconds"], result["peak_mb"]
        print(
            f"{label:16} {seconds:6.2f} s ({result['min']:.2f}-{result['max']:.2f}), "
            f"cpu {result['cpu']:.2f} s, {peak:5.0f} MB   {seconds / bare['seconds']:.2f}x time "
            f"({seconds - bare['seconds']:+.2f} s), {peak / bare['peak_mb']:.2f}x memory"
        )


def commands(model: Path, folder: Path) -> dict[str, list[str]]:
    python = sys.executable
    chosen = {
        "bare builder": [python, "-c", BARE, str(model), str(folder / "bare.rtx")],
        "nm2trt build": [
            python,
            "-m",
            "nm2trt",
            "build",
            str(model),
            "--sparsity",
            "-o",
            str(folder / "nm2trt.rtx"),
        ],
    }
    if importlib.util.find_spec("polygraphy"):
        shapes = []
        for value in onnx.load(model, load_external_data=False).graph.input:
            rest = [dimension.dim_value for dimension in value.type.tensor_type.shape.dim][1:]
            shapes.append((value.name, rest))
        ranges = [
            word
            for flag, batch in (("min", 1), ("opt", 8), ("max", 32))
            for word in (
                f"--trt-{flag}-shapes",
                *(f"{name}:{[batch, *rest]}".replace(" ", "") for name, rest in shapes),
            )
        ]
        target = str(folder / "polygraphy.rtx")
        chosen["polygraphy"] = [
            *(python, "-c", "from polygraphy.tools import main; main()", "convert", str(model), "-o", target),
            *("--convert-to", "trt", "--compute-capabilities", "8.0", "8.6", "--sparse-weights", *ranges),
        ]
    return chosen


def measure(chosen: dict[str, list[str]], runs: int) -> dict[str, dict[str, float]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    seconds: dict[str, list[float]] = {label: [] for label in chosen}
    peaks: dict[str, list[float]] = {label: [] for label in chosen}
    cpu: dict[str, list[float]] = {label: [] for label in chosen}
    for run in range(runs + 1):
        for label, command in chosen.items():
            start = time.perf_counter()
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            error = child.stderr.read()
            _, status, usage = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                raise SystemExit(f"{label} failed: {error.decode()[-2000:]}")
            if run:  # the first round warms the disk cache
                seconds[label].append(time.perf_counter() - start)
                peaks[label].append(usage.ru_maxrss / 1024)
                cpu[label].append(usage.ru_utime + usage.ru_stime)
    return {
        label: {
            "seconds": statistics.median(taken),
            "min": min(taken),
            "max": max(taken),
            "cpu": statistics.median(cpu[label]),
            "peak_mb": statistics.median(peaks[label]),
        }
        for label, taken in seconds.items()
    }


def resnet50(path: Path) -> Path:
    """Write a ResNet-50 with BatchNorms folded: fp16, random weights, 2:4 on all but the first conv."""
    net = _Net()
    value = net.conv("input", 3, 64, 7, stride=2)
    value = net.node(
        "MaxPool", [net.node("Relu", [value])], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4
    )
    channels = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = net.node("Relu", [net.conv(value, channels, width, 1)])
            inner = net.node("Relu", [net.conv(inner, width, width, 3, stride=stride)])
            inner = net.conv(inner, width, 4 * width, 1)
            if not block:
                value = net.conv(value, channels, 4 * width, 1, stride=stride)
            channels = 4 * width
            value = net.node("Relu", [net.node("Add", [inner, value])])
    value = net.node("Flatten", [net.node("GlobalAveragePool", [value])])
    net.node("Gemm", [value, net.weight((1000, 2048))], out="output", transB=1)
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        net.nodes,
        "resnet50",
        [helper.make_tensor_value_info("input", half, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("output", half, ["batch", 1000])],
        net.weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


class _Net:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(0)

    def weight(self, shape: tuple[int, ...]) -> str:
        weight = self.random.standard_normal(shape, dtype=np.float32) * np.sqrt(2 / np.prod(shape[1:]))
        if shape[1] % 4 == 0:
            weight[:, 2::4] = 0
            weight[:, 3::4] = 0
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(weight.astype(np.float16), name))
        return name

    def node(self, operator: str, inputs: list[str], out: str = "", **attributes: object) -> str:
        out = out or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [out], name=f"n{len(self.nodes)}", **attributes))
        return out

    def conv(self, value: str, channels: int, filters: int, kernel: int, stride: int = 1) -> str:
        weight = self.weight((filters, channels, kernel, kernel))
        return self.node("Conv", [value, weight], strides=[stride] * 2, pads=[kernel // 2] * 4)


if __name__ == "__main__":
    main()
