"""Prune a ResNet-50-sized file beside `polygraphy surgeon prune`, and fuse a graph of 10,000 nodes.

    python benchmarks/graph.py [--skip-polygraphy]

The peer needs polygraphy and onnx_graphsurgeon. Every command is a whole process, started the way a user starts it. Ratios are of one run on one machine;
they are printed, and written to `benchmarks/results/graph.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

RESULTS = Path(__file__).parent / "results" / "graph.json"
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))


class Builder:
    """Collects nodes and weights of one graph."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def weight(self, name: str, *shape: int) -> str:
        data = self.rng.standard_normal(shape, dtype=np.float32) / np.sqrt(max(1, np.prod(shape[1:])))
        self.weights.append(numpy_helper.from_array(data.astype(np.float32), name))
        return name

    def conv(self, x: str, name: str, i: int, o: int, k: int, stride: int = 1) -> str:
        self.nodes.append(
            helper.make_node(
                "Conv",
                [x, self.weight(f"{name}.weight", o, i, k, k), self.weight(f"{name}.bias", o)],
                [name],
                name,
                strides=[stride] * 2,
                pads=[k // 2] * 4,
            )
        )
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def model(self, x: list[object], y: list[object], last: str) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "benchmark",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(last, TensorProto.FLOAT, y)],
            self.weights,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def resnet50() -> onnx.ModelProto:
    """Return a ResNet-50 with folded BatchNorms and random weights: 25.5 M of them."""
    b = Builder()
    x = b.node("Relu", b.conv("x", "conv1", 3, 64, 7, 2), name="relu1")
    x = b.node("MaxPool", x, name="pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 64
    for stage, (planes, blocks) in enumerate(STAGES):
        for block in range(blocks):
            name = f"layer{stage + 1}.{block}"
            stride = 2 if stage and not block else 1
            y = b.node("Relu", b.conv(x, f"{name}.conv1", width, planes, 1), name=f"{name}.relu1")
            y = b.node("Relu", b.conv(y, f"{name}.conv2", planes, planes, 3, stride), name=f"{name}.relu2")
            y = b.conv(y, f"{name}.conv3", planes, planes * 4, 1)
            skip = x if block else b.conv(x, f"{name}.downsample", width, planes * 4, 1, stride)
            x = b.node("Relu", b.node("Add", y, skip, name=f"{name}.add"), name=f"{name}.relu3")
            width = planes * 4
    x = b.node("Flatten", b.node("GlobalAveragePool", x, name="mean"), name="flat")
    last = b.node(
        "Gemm", x, b.weight("fc.weight", 1000, 2048), b.weight("fc.bias", 1000), name="y", transB=1
    )
    return b.model(["n", 3, 224, 224], ["n", 1000], last)


def many_nodes(count: int) -> onnx.ModelProto:
    """Return a chain of blocks of two parallel convolutions with BatchNorms: `count` nodes."""
    b = Builder()
    x = "x"
    for block in range(count // 6):
        parts = []
        for branch, kernel in enumerate((3, 1)):
            name = f"b{block}.{branch}"
            y = b.conv(x, name, 4, 4, kernel)
            stats = [f"{name}.{part}" for part in ("scale", "shift", "mean", "var")]
            for part, fill in zip(stats, (0.5, 0.0, 0.0, 1.0), strict=True):
                b.weights.append(numpy_helper.from_array(np.full(4, fill, np.float32), part))
            parts.append(b.node("BatchNormalization", y, *stats, name=f"{name}.bn"))
        x = b.node("Relu", b.node("Add", *parts, name=f"b{block}.add"), name=f"b{block}.relu")
    return b.model([1, 4, 8, 8], [1, 4, 8, 8], x)


def timed(command: list[str]) -> float:
    """Run a command and return its wall time in seconds."""
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--skip-polygraphy", action="store_true", help="time nm2trt alone")
    parser.add_argument("--runs", type=int, default=5, help="runs of nm2trt; the median is reported")
    arguments = parser.parse_args()
    result: dict[str, object] = {"cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as folder:
        dense, chain = Path(folder) / "resnet50.onnx", Path(folder) / "chain.onnx"
        onnx.save(resnet50(), dense)
        nodes = many_nodes(10_000)
        onnx.save(nodes, chain)
        ours = [sys.executable, "-m", "nm2trt"]
        prune = sorted(
            timed([*ours, "prune", str(dense), "-o", f"{folder}/ours.onnx"]) for _ in range(arguments.runs)
        )
        result["prune_seconds"] = round(prune[len(prune) // 2], 3)
        fuse = sorted(
            timed([*ours, "fuse", str(chain), "-o", f"{folder}/fused.onnx"]) for _ in range(arguments.runs)
        )
        result["fuse_nodes"] = len(nodes.graph.node)
        result["fuse_seconds"] = round(fuse[len(fuse) // 2], 3)
        if not arguments.skip_polygraphy:
            program = str(Path(sys.executable).with_name("polygraphy"))
            peer = timed([program, "surgeon", "prune", str(dense), "-o", f"{folder}/peer.onnx"])
            result["polygraphy_prune_seconds"] = round(peer, 3)
            result["prune_ratio"] = round(peer / prune[len(prune) // 2], 1)
    for name, value in result.items():
        print(f"{name:28} {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
