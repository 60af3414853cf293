"""Accuracy, time and memory of `prune --calib` on four published networks, beside one-shot magnitude.

    python benchmarks/reconstruct.py --archives ARCHIVES [--only orientation,minilm] [--draws 3]

Each draw is another set of calibration samples; the evaluation data is always the same. The command runs in
a process of its own, on one core: seconds are its processor time, memory is its peak resident size. Printed,
and written to `benchmarks/results/reconstruct.json`. See `reconstruct_tasks.py` for networks and data.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from reconstruct_tasks import TASKS, Run, Task

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.graph.verify.verify_model import verify_model

RESULTS = Path(__file__).parent / "results" / "reconstruct.json"
BATCH = 25
LAUNCHER = """
import resource, subprocess, sys
failed = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
sys.stdout.write(f"\\n{used.ru_utime + used.ru_stime} {used.ru_maxrss}")
sys.exit(failed)
"""


def runner(path: Path) -> Run:
    """Return what runs a network's first output over any number of samples."""
    session = open_onnx(path)

    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        count = len(next(iter(feeds.values())))
        parts = [{k: v[at : at + BATCH] for k, v in feeds.items()} for at in range(0, count, BATCH)]
        return np.concatenate([session.run(part)[session.outputs[0].name] for part in parts])

    return run


def timed(command: Sequence[str], more: Mapping[str, str] = {}) -> tuple[str, float, float]:
    """Run a command on one core; return its output, processor seconds and peak memory in GiB."""
    # The peak of a process starts at what its parent held when it was forked: a small one stands between.
    command = [sys.executable, "-c", LAUNCHER, *command]
    core = random.choice(sorted(os.sched_getaffinity(0)))
    single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    process = subprocess.Popen(
        ["taskset", "-c", str(core), *command], stdout=subprocess.PIPE, env={**os.environ, **single, **more}
    )
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    printed, _, used = output.decode().rpartition("\n")
    seconds, kib = map(float, used.split())
    return printed, seconds, kib / 2**20


def pruned(task: Task, target: Path, samples: Path | None) -> dict[str, Any]:
    """Prune in a process of its own; return its report, processor seconds and peak memory."""
    command = [sys.executable, "-m", "nm2trt", "prune", str(task.dense), "-o", str(target), "--json"]
    if samples is not None:
        command += ["--calib", str(samples), *task.options]
    report, seconds, gib = timed(command)
    return {"report": json.loads(report), "seconds": seconds, "gib": gib}


def measured(task: Task, folder: Path, draws: int) -> dict[str, Any]:
    """Return scores of the dense network, of one-shot magnitude and of each draw."""
    dense = runner(task.dense)
    target = folder / f"{task.dense.stem}.pruned.onnx"
    pruned(task, target, None)
    row: dict[str, Any] = {
        "network": task.name,
        "samples": task.samples,
        "dense": task.score(dense, dense),
        "magnitude": task.score(runner(target), dense),
        "draws": [],
    }
    for draw in range(draws):
        samples = folder / "samples.npz"
        np.savez(samples, **task.calibration(task.samples, draw))
        done = pruned(task, target, samples)
        report = done["report"]
        layers = [w for w in report["weights"] if w["status"] == "pruned"]
        excess = [
            (w["error"] - w["dense_error"]) / (w["magnitude_error"] - w["dense_error"])
            for w in layers
            if w["chosen"] == "admm" and w["magnitude_error"] > w["dense_error"] < w["error"]
        ]
        checked = verify_model(target)
        row["draws"].append(
            {
                "scores": task.score(runner(target), dense),
                "seconds": round(done["seconds"], 1),
                "gib": round(done["gib"], 2),
                "pruned": len(layers),
                "verified": checked.passed() and checked.any_holds,
                "held_out_excess": statistics.geometric_mean(excess) if excess else None,
                "magnitude_kept": sum(w["chosen"] == "magnitude" for w in layers),
                "outputs": report["outputs"],
            }
        )
        print(task.name, draw, row["draws"][-1]["scores"], row["draws"][-1]["seconds"], "s", flush=True)
    row["mean"] = {
        name: statistics.fmean(draw["scores"][name] for draw in row["draws"]) for name in row["dense"]
    }
    row["bars"] = dict(task.bars)
    row["holds"] = all(row["mean"][name] >= least for name, least in task.bars.items())
    row["most_seconds"], row["most_gib"] = task.seconds, task.gib
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True)
    parser.add_argument("--only", default=",".join(TASKS))
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["networks"] if arguments.output.exists() else {}
    for name in arguments.only.split(","):
        with tempfile.TemporaryDirectory() as folder:
            task = TASKS[name](arguments.archives, Path(folder))
            known[name] = measured(task, Path(folder), arguments.draws)
        row = known[name]
        print(f"{row['network']}: dense {row['dense']}, magnitude {row['magnitude']}, mean {row['mean']}")
        record = {"version": nm2trt.__version__, "machine": platform.processor() or platform.machine()}
        arguments.output.write_text(json.dumps({**record, "networks": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
