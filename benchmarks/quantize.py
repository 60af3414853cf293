"""Quantise a ResNet-50 to INT8 on 256 images, beside one pass of ONNX Runtime over them.

    python benchmarks/quantize.py [--images 256] [--runs 3] [--peer-python PYTHON]

`--peer-python` is the interpreter of an environment with NVIDIA Model-Optimizer, whose quantiser then runs
on the same file. Every figure is of a whole process, the model's opening and writing included; ours and the
pass take turns, and the median counts. Memory is the most that a process held resident. Ratios are of one run
on one machine; the processor time is that of all threads, which other load does not change much. Printed, and
written to `benchmarks/results/quantize.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bytecode import compile_package

RESULTS = Path(__file__).parent / "results" / "quantize.json"
# This process stays small: what a child is said to have held at most counts from its parent's size.
PREPARE = """
import sys
import numpy as np, onnx
from nets import resnet50
onnx.save(resnet50(), sys.argv[1])
images = np.random.default_rng(0).standard_normal((int(sys.argv[3]), 3, 224, 224), dtype=np.float32)
np.savez(sys.argv[2], x=images)
"""
PASS = """
import sys
import onnxruntime
from nm2trt.calibration.stream import open_sample_stream
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
for batch in open_sample_stream(sys.argv[2]).read(int(sys.argv[3])):
    session.run(None, batch)
"""
PEER = """
import sys
import numpy as np
from modelopt.onnx.quantization import quantize
with np.load(sys.argv[2]) as archive:
    data = {"x": archive["x"]}
quantize(sys.argv[1], quantize_mode="int8", calibration_method="max", calibration_data=data,
         calibration_eps=["cpu"], high_precision_dtype="fp32", output_path=sys.argv[3])
"""


@dataclass
class Figure:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def timed(command: list[str]) -> Figure:
    """Run a command to its end."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])}
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)[:300]} failed:\n{log.read().decode()[-3000:]}")
    return Figure(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1000)


def median(figures: list[Figure]) -> Figure:
    return Figure(
        *(statistics.median(getattr(f, name) for f in figures) for name in ("wall_s", "cpu_s", "peak_mb"))
    )


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--histogram-images", type=int, help="images of percentile and entropy; default: all")
    parser.add_argument("--peer-python", help="interpreter of an environment with nvidia-modelopt")
    parser.add_argument("--skip-histograms", action="store_true")
    arguments = parser.parse_args()
    python = sys.executable
    found: dict[str, list[Figure]] = {"pass": [], "minmax": []}
    with tempfile.TemporaryDirectory() as folder:
        model, samples, out = (f"{folder}/{name}" for name in ("resnet50.onnx", "x.npz", "int8.onnx"))
        timed([python, "-c", PREPARE, model, samples, str(arguments.images)])
        model_mb = Path(model).stat().st_size / 1e6

        def quantise(method: str) -> Figure:
            for stale in (out, out.replace(".onnx", ".ranges.npz")):
                Path(stale).unlink(missing_ok=True)
            words = ["quantize", model, "--calib", samples, "-o", out, "--method", method]
            return timed([python, "-m", "nm2trt", *words, "--batch", str(arguments.batch)])

        for _ in range(arguments.runs):
            found["pass"].append(timed([python, "-c", PASS, model, samples, str(arguments.batch)]))
            found["minmax"].append(quantise("minmax"))
        if arguments.peer_python:
            found["modelopt"] = [
                timed([arguments.peer_python, "-c", PEER, model, samples, f"{folder}/p.onnx"])
            ]
        if not arguments.skip_histograms:
            if arguments.histogram_images:
                timed([python, "-c", PREPARE, model, samples, str(arguments.histogram_images)])
            for method in ("percentile", "entropy"):
                found[method] = [quantise(method)]
    figures = {name: median(runs) for name, runs in found.items()}
    result: dict[str, object] = {
        "images": arguments.images,
        "histogram_images": arguments.histogram_images or arguments.images,
        "batch": arguments.batch,
        "runs": arguments.runs,
        "cores": os.cpu_count(),
        "model_mb": round(model_mb, 1),
        "command": "python benchmarks/quantize.py " + " ".join(sys.argv[1:]),
    }
    for name, figure in figures.items():
        result[name] = {key: round(value, 3) for key, value in vars(figure).items()}
        print(f"{name:10} {figure.wall_s:8.1f} s  {figure.cpu_s:8.1f} s of CPU  {figure.peak_mb:8.0f} MB")
    result["minmax_over_pass"] = round(figures["minmax"].wall_s / figures["pass"].wall_s, 3)
    result["minmax_over_pass_cpu"] = round(figures["minmax"].cpu_s / figures["pass"].cpu_s, 3)
    result["minmax_peak_over_model"] = round(figures["minmax"].peak_mb / model_mb, 2)
    for key in ("minmax_over_pass", "minmax_over_pass_cpu", "minmax_peak_over_model"):
        print(f"{key:26} {result[key]}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
