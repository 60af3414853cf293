"""`nm2trt build` beside the bare builder and Polygraphy: wall time and peak memory, interleaved, in one run.

    python benchmarks/build.py [--runs 9] [--net resnet50 minilm] [--model FILE] [--json FILE]

Each measurement is a process of its own, from its start to its exit, so imports count. The bare builder
is the least that makes the same plan: import, parse, build with the same flags and profile, write.
The nets are made up, in fp16 with 2:4 weights and a dynamic batch: a ResNet-50, and a BERT of MiniLM's sizes.
The aim is at most 10 % and 0.5 s over the bare builder, and 1.2 times its memory.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx

NETS = ("resnet50", "minilm")
PACKAGES = ("tensorrt-rtx-cu12", "polygraphy", "onnx", "numpy")
ROOT = Path(__file__).resolve().parents[1]

MAKE = "import sys, onnx, nets; onnx.save(nets.half(nets.sparse(getattr(nets, sys.argv[1])())), sys.argv[2])"

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
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--model", type=Path, help="an ONNX file with a dynamic batch instead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = [arguments.model] if arguments.model else [make(net, folder) for net in arguments.net]
        for model in models:
            results[model.stem] = measure(commands(model, folder), arguments.runs, folder)
            show(model.stem, results[model.stem], arguments.runs)
    if arguments.json:
        record = {
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}",
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "runs": arguments.runs,
            "results": results,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


def make(net: str, folder: Path) -> Path:
    # In a process of its own: a child's peak memory starts at its parent's.
    path = folder / f"{net}.onnx"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MAKE, net, str(path)]
    subprocess.run(command, cwd=Path(__file__).parent, env=environment, check=True)
    return path


def show(name: str, results: dict[str, dict[str, float]], runs: int) -> None:
    bare = results["bare builder"]
    print(f"{name}, median of {runs} interleaved runs, whole process")
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


def measure(chosen: dict[str, list[str]], runs: int, folder: Path) -> dict[str, dict[str, float]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "POLYGRAPHY_USE_TENSORRT_RTX": "1"}
    # As installed packages have it: the first round compiles, all later ones read the bytecode.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
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


if __name__ == "__main__":
    main()
