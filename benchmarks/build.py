"""`nm2trt build` beside the bare builder and Polygraphy: wall time and peak memory, interleaved, in one run.

    python benchmarks/build.py [--runs 9] [--net resnet50 minilm] [--model FILE] [--json FILE]
                               [--int8 [IMAGES]] [--against TREE [--large]]

Each measurement is a process of its own, from its start to its exit, so imports count. The bare builder
is the least that makes the same plan: import, parse, build with the same flags and profile, write.
The nets are made up, in fp16 with 2:4 weights and a dynamic batch: a ResNet-50, and a BERT of MiniLM's sizes.
The aim is at most 10 % and 0.5 s over the bare builder, and 1.2 times its memory.

`--int8` times `build --precision int8` of a ResNet-50 in fp32 beside the least that makes its engine: ONNX
Runtime's own MinMax calibrator over the same images (a pass of ONNX Runtime alone is shown too), and the bare
builder on the INT8 model that our command keeps. The aim is at most 0.5 s over their sum.

`--against TREE` runs stages of this tree and of another one in turn, on a ResNet-50 in fp32: `build` as
it is, to fp16, and to int8 from 8 images; with `--large`, also verify, prune and quantize on a model of 3 GB.
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
from bytecode import compile_package

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

# Each reads one image at a time, as `nm2trt build` does by default.
PASS = """
import sys
import numpy as np, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for image in np.load(sys.argv[2])["x"]:
    session.run(None, {"x": image[None]})
"""
CALIBRATE = """
import sys
import numpy as np
from onnxruntime.quantization import CalibrationMethod, create_calibrator
class Reader:
    def __init__(self):
        self.images = iter(np.load(sys.argv[2])["x"])
    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"x": image[None]}
method = CalibrationMethod.MinMax
calibrator = create_calibrator(sys.argv[1], augmented_model_path=sys.argv[3], calibrate_method=method)
calibrator.set_execution_providers(["CPUExecutionProvider"])
calibrator.collect_data(Reader())
calibrator.compute_data()
"""


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--net", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--model", type=Path, help="an ONNX file with a dynamic batch instead")
    parser.add_argument("--int8", type=int, nargs="?", const=32, metavar="IMAGES", help="only build to INT8")
    parser.add_argument("--against", type=Path, metavar="TREE", help="run stages of this tree and that one")
    parser.add_argument("--large", action="store_true", help="and stages on a model of 3 GB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    arguments = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.against:
            compare_trees(arguments.against.resolve(), folder, arguments.runs, results, large=arguments.large)
        if arguments.int8:
            results["resnet50 to int8"] = build_to_int8(folder, arguments.int8, arguments.runs)
        given = arguments.model and arguments.model.resolve()
        models = [given] if given else [make(net, folder) for net in arguments.net]
        for model in () if arguments.against or arguments.int8 else models:
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


LARGE = (
    "import sys, onnx, nets, numpy as np; net = nets.matmuls(layers=12, width=8192); "
    "onnx.save(net, sys.argv[1], save_as_external_data=True); "
    "np.savez(sys.argv[2], x=np.random.default_rng(0).standard_normal((1, 128, 8192)).astype(np.float32))"
)
FP32 = (
    "import sys, onnx, nets, numpy as np; onnx.save(nets.sparse(nets.resnet50()), sys.argv[1]); "
    "images = np.random.default_rng(0).standard_normal((int(sys.argv[3]), 3, 224, 224)).astype('f4'); "
    "np.savez(sys.argv[2], x=images)"
)


def made_fp32(folder: Path, images: int) -> tuple[Path, Path]:
    """Write a sparse ResNet-50 in fp32 and images for it; return both paths."""
    model, samples = folder / "m.onnx", folder / "x.npz"
    code = [sys.executable, "-c", FP32, str(model), str(samples), str(images)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(code, cwd=Path(__file__).parent, env=environment, check=True)
    return model, samples


def build_to_int8(folder: Path, images: int, runs: int) -> dict[str, dict[str, float]]:
    """Time our build to INT8, its parts made bare, and the difference."""
    model, samples = made_fp32(folder, images)
    python, engine = sys.executable, folder / "ours.rtx"
    ours = [python, "-m", "nm2trt", "build", str(model), "--sparsity", "--precision", "int8"]
    ours += ["--calib", str(samples), "--batch", "1", "--keep", "-o", str(engine)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(ours, env=environment, check=True, capture_output=True)
    (kept,) = folder.glob("*int8*.onnx")
    found = measure(
        {
            "nm2trt build": ours,
            "bare calibration": [python, "-c", CALIBRATE, str(model), str(samples), str(folder / "a.onnx")],
            "bare builder": [python, "-c", BARE, str(kept), str(folder / "bare.rtx")],
            "bare pass": [python, "-c", PASS, str(model), str(samples)],
        },
        runs,
        folder,
    )
    for label, one in found.items():
        print(f"{label:16} {one['seconds']:6.2f} s, cpu {one['cpu']:.2f} s, {one['peak_mb']:5.0f} MB")
    for peer in ("bare calibration", "bare pass"):
        over = {
            key: found["nm2trt build"][key] - found[peer][key] - found["bare builder"][key]
            for key in ("seconds", "cpu")
        }
        found[f"over {peer} and builder"] = over
        print(
            f"over {peer} and builder: {over['seconds']:+.2f} s, cpu {over['cpu']:+.2f} s ({images} images)"
        )
    return found


def compare_trees(
    tree: Path, folder: Path, runs: int, results: dict[str, dict[str, dict[str, float]]], *, large: bool
) -> None:
    """Run the same stages of two trees in turn; a stage's results go under its name."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    model, calib = made_fp32(folder, 8)
    samples = ["--calib", str(calib)]
    stages = {
        "build": ["build", str(model), "--sparsity", "-o", str(folder / "e.rtx")],
        "build to fp16": ["build", str(model), "--precision", "fp16", "-o", str(folder / "e.rtx")],
        "build to int8": ["build", str(model), "--precision", "int8", *samples, "-o", str(folder / "e.rtx")],
    }
    if large:
        big, few = folder / "big.onnx", folder / "few.npz"
        code = [sys.executable, "-c", LARGE, str(big), str(few)]
        subprocess.run(code, cwd=Path(__file__).parent, env=environment, check=True)
        out = str(folder / "out.onnx")
        stages |= {
            "verify 3 GB": ["verify", str(big), "--fail-on", "none"],
            "prune 3 GB": ["prune", str(big), "-o", out],
            "quantize 3 GB": ["quantize", str(big), "--calib", str(few), "--no-compare", "-o", out],
        }
    for stage, words in stages.items():
        command = [sys.executable, "-m", "nm2trt", *words]
        trees = {"other tree": tree, "this tree": ROOT}
        chosen = {label: ["env", f"PYTHONPATH={root}", *command] for label, root in trees.items()}
        results[stage] = measure(chosen, runs, folder)
        for label, found in results[stage].items():
            print(
                f"{stage:14} {label:11} {found['seconds']:6.2f} s ({found['min']:.2f}-{found['max']:.2f}), "
                f"cpu {found['cpu']:.2f} s, {found['peak_mb']:5.0f} MB"
            )


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
            # In a folder without a package: `python -m` puts the current folder before PYTHONPATH.
            child = subprocess.Popen(
                command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
            with child.stderr as said:
                error = said.read()
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
