"""`prune --calib` beside one-shot magnitude and NVIDIA ModelOpt, on the same samples and the same evaluation.

    python -m venv MODELOPT
    MODELOPT/bin/pip install torch==2.13.0 nvidia-modelopt==0.47.0 requests huggingface_hub onnx onnxruntime
    python benchmarks/peers.py --archives ARCHIVES --modelopt MODELOPT/bin/python [--only orientation,magika]

ModelOpt takes torch modules: it is given the ONNX file as a module of `nn.Conv2d` and `nn.Linear` that
computes the same (`onnx_module.py`), with the calibration samples in batches of 8, and its export's weights
are put back into the file. Each tool runs in a process of its own, on one core: seconds are its processor
time, memory is its peak resident size. How many weights are 2:4 on the axis that their consumer reduces is
counted by `nm2trt verify`, of those that have a multiple of four elements there. One draw of calibration
samples, the first of `reconstruct.py`, whose results of `prune` on that draw are taken if they are there and
`--again` is not given. Printed, and written to `benchmarks/results/peers.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fresh_tasks import FRESH
from reconstruct import pruned, runner, timed
from reconstruct_tasks import TASKS, Task

import nm2trt
from nm2trt.graph.verify.verify_model import verify_model

RESULTS = Path(__file__).parent / "results" / "peers.json"
RECONSTRUCTED = RESULTS.with_name("reconstruct.json")
WORKER = Path(__file__).parent / "modelopt_prune.py"
ALL = TASKS | FRESH


def two_four(path: Path) -> int:
    """Return how many weights hold 2:4."""
    return len({verdict.weight for verdict in verify_model(path).weights if verdict.pattern == "holds"})


def groupable(path: Path) -> int:
    judged = verify_model(path).weights
    return len({verdict.weight for verdict in judged if verdict.pattern in {"holds", "broken"}})


def earlier(name: str) -> dict[str, Any]:
    """Return what `reconstruct.py` kept of the first draw, or nothing."""
    if not RECONSTRUCTED.exists():
        return {}
    row = json.loads(RECONSTRUCTED.read_text())["networks"].get(name, {})
    first = row.get("draws", [{}])[0]
    return {"first": first, "magnitude": row["magnitude"]} if first.get("verified") else {}


def measured(name: str, task: Task, folder: Path, modelopt: Path, *, again: bool) -> dict[str, Any]:
    """Return the scores of the dense network and of each tool's."""
    dense, samples = runner(task.dense), folder / "samples.npz"
    np.savez(samples, **task.calibration(task.samples, 0))
    kept = {} if again else earlier(name)
    row: dict[str, Any] = {
        "network": task.name,
        "samples": task.samples,
        "weights": groupable(task.dense),
        "dense": task.score(dense, dense),
        "tools": {},
    }
    for tool in ("magnitude", "sparse_magnitude", "sparsegpt", "prune --calib"):
        target = folder / f"{tool.replace(' ', '')}.onnx"
        if tool == "prune --calib" and kept:
            first = kept["first"]
            found = {"scores": first["scores"], "two_four": first["pruned"]}
            seconds, gib = first["seconds"], first["gib"]
        else:
            if tool in {"magnitude", "prune --calib"}:
                done = pruned(task, target, samples if tool == "prune --calib" else None)
                seconds, gib = done["seconds"], done["gib"]
            else:
                command = [str(modelopt), str(WORKER), str(task.dense), str(samples), str(target), tool]
                _, seconds, gib = timed(command, {"PYTHONPATH": ""})
            known = kept.get("magnitude") if tool == "magnitude" else None
            found = {"scores": known or task.score(runner(target), dense), "two_four": two_four(target)}
        row["tools"][tool] = {**found, "seconds": round(seconds, 1), "gib": round(gib, 2)}
        print(task.name, tool, row["tools"][tool], flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True)
    parser.add_argument("--modelopt", type=Path, required=True, help="a Python that has nvidia-modelopt")
    parser.add_argument("--only", default=",".join(ALL))
    parser.add_argument("--again", action="store_true", help="run every tool, whatever reconstruct.json has")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["networks"] if arguments.output.exists() else {}
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            task = ALL[name](arguments.archives, Path(folder))
            known[name] = measured(name, task, Path(folder), arguments.modelopt, again=arguments.again)
        record = {"version": nm2trt.__version__, "modelopt": "0.47.0", "onnxruntime": version("onnxruntime")}
        arguments.output.write_text(json.dumps({**record, "networks": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
