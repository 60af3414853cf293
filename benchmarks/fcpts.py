"""How long FCPTS takes on MobileNetV2, and in how much memory, against a limit of 10 minutes.

    python benchmarks/fcpts.py [--images 128] [--steps 100] [--size 224] [--batch 16]

The network has random weights and inputs: the time does not depend on them. Each form runs in a process of
its own, which also gives its peak memory. `per step` is what a longer run costs more; `load` is the machine's
load average before. Printed, and written to `benchmarks/results/fcpts.json`; the exit status is 1 where a
form takes longer than the limit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import nm2trt
from nm2trt.measure import peak_resident_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "samples" / "03_pretrained"))
from mobilenet import mobilenet_v2

LIMIT_SECONDS = 600
RESULTS = Path(__file__).parent / "results" / "fcpts.json"
FORMS: dict[str, dict[str, Any]] = {
    "uniform 2:4": {"pattern": "2:4"},
    "uniform 2:4, fitted": {"pattern": "2:4", "layer_fit": True, "fit_samples": 64},
    "unstructured 0.7": {"pattern": None, "rate": 0.7},
}


def run(form: str, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model = mobilenet_v2().eval()
    images = torch.randn(options.images, 3, options.size, options.size).split(options.batch)
    seconds = {}
    for steps in (0, options.steps):
        start = time.perf_counter()
        pruned = mobilenet_v2()
        pruned.load_state_dict(model.state_dict())
        sparse = nm2trt.sparsify(pruned, method="fcpts", calibration=images, steps=steps, **FORMS[form])
        sparse.finalize()
        seconds[steps] = time.perf_counter() - start
    return {
        "seconds": seconds[options.steps],
        "seconds_without_steps": seconds[0],
        "seconds_per_step": (seconds[options.steps] - seconds[0]) / options.steps,
        "peak_memory_mb": peak_resident_bytes() / 2**20,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("images", 128), ("steps", 100), ("size", 224), ("batch", 16), ("threads", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--form", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.form:
        print(json.dumps(run(options.form, options)))
        return 0
    settings = {name: getattr(options, name) for name in ("images", "steps", "size", "batch", "threads")}
    results: dict[str, Any] = {**settings, "torch": torch.__version__, "load": os.getloadavg()[0]}
    for form in FORMS:
        command = [sys.executable, __file__, "--form", form]
        command += [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        results[form] = row = json.loads(done.stdout)
        print(
            f"{form:20s} {options.images} images of {options.size} pixels, {options.steps} steps of "
            f"{options.batch}: {row['seconds']:.0f} s ({row['seconds_per_step']:.2f} s a step), "
            f"{row['peak_memory_mb']:.0f} MB",
            flush=True,
        )
    slowest = max(results[form]["seconds"] for form in FORMS)
    print(f"slowest {slowest:.0f} s of {LIMIT_SECONDS} s; load average before {results['load']:.1f}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    return int(slowest > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main())
