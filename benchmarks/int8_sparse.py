"""INT8 and 2:4 on four published networks: plain ranges, ranges and placement searched, and the joint solve.

    python benchmarks/int8_sparse.py --archives ARCHIVES [--only orientation,minilm] [--folder FOLDER]

Each network is pruned with `prune --calib` and quantised on the same samples (`minmax`, `searched`), or
pruned with `--to int8` (`joint`). Scores are those of `reconstruct_tasks.py`, on data that no sample is of.
KL (the share of the variance lost where there are no classes) is against the dense network on 64 samples of
another draw. Work is counted for TensorRT for RTX, which builds the files ahead of time for sm80 and sm86; no
engine is run. Pruned and joint files that lie in FOLDER are taken as they are. Written to
`benchmarks/results/int8_sparse.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from reconstruct_tasks import TASKS, Run, Task

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.errors import BackendError, BackendMissingError
from nm2trt.graph.execute.output_verdict import VerdictSum
from nm2trt.graph.quantize.report import QuantizeReport
from nm2trt.pipeline.keyword_options import build_options

RESULTS = Path(__file__).parent / "results" / "int8_sparse.json"
BATCH = 20
# Largest share of held-out answers that may change; of MiniLM, which has no classes, of the variance lost.
LIMITS = {"orientation": "2%", "recognition": "10%", "minilm": "10%", "mobilenet": "20%"}
PROFILES = {"recognition": ("x:1x3x48x320,1x3x48x320,8x3x48x320",)}


def runner(path: Path) -> Run:
    """Return what runs a network's first output; node by node, as fused INT8 saturates on some CPUs."""
    session = open_onnx(path, optimize="int8" not in path.name)

    def run(feeds: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[Any]:
        count = len(next(iter(feeds.values())))
        parts = [{k: v[at : at + BATCH] for k, v in feeds.items()} for at in range(0, count, BATCH)]
        return np.concatenate([session.run(part)[session.outputs[0].name] for part in parts])

    return run


def built(path: Path, profiles: tuple[str, ...]) -> dict[str, Any]:
    """Build ahead of time for sm80 and sm86."""
    found: dict[str, Any] = {}
    for target in ("sm80", "sm86"):
        options = build_options(None, "enable", targets=target, profiles=profiles)
        try:
            result = nm2trt.build(path, path.with_suffix(f".{target}.rtx"), options, backend="trt-rtx")
            found[target] = {"built": True, "bytes": result.engine_bytes}
        except BackendMissingError as error:
            found[target] = {"built": None, "reason": str(error)}
        except BackendError as error:
            found[target] = {"built": False, "reason": str(error)}
    return found


def described(report: QuantizeReport) -> dict[str, Any]:
    """Return what of a report belongs into the record."""
    work = report.work
    share = None if not work.total else {"int8": work.low / work.total, "sparse": work.sparse / work.total}
    return {
        "layers": len(report.layers),
        "float_layers": sum(not layer.quantised for layer in report.layers),
        "work": share,
        "search": None if report.search is None else report.search.to_json(),
        "notes": list(report.notes),
    }


def divergence(path: Path, task: Task, dense: Run) -> float | None:
    """Return how far a network is from the dense one on samples of another draw."""
    fresh = task.calibration(64, 7)
    total = VerdictSum("output")
    total.add(dense(fresh), runner(path)(fresh))
    return total.verdict().divergence


def joint(task: Task, samples: Path, target: Path, dense: Run) -> dict[str, Any]:
    """Prune to INT8 in one pass."""
    if not target.is_file():
        valid = task.options[1] if "--valid" in task.options else None
        nm2trt.prune(task.dense, target, calib=samples, valid=valid, to="int8")
    return {"scores": task.score(runner(target), dense), "kl": divergence(target, task, dense)}


def measured(name: str, task: Task, folder: Path) -> dict[str, Any]:
    samples, pruned = folder / "samples.npz", folder / "pruned.onnx"
    if not (pruned.is_file() and samples.is_file()):
        np.savez(samples, **task.calibration(task.samples, 0))
        valid = task.options[1] if "--valid" in task.options else None
        nm2trt.prune(task.dense, pruned, calib=samples, valid=valid)
    dense, sparse = runner(task.dense), runner(pruned)
    row: dict[str, Any] = {
        "network": task.name,
        "samples": task.samples,
        "dense": task.score(dense, dense),
        "2:4": task.score(sparse, dense),
        "2:4 kl": divergence(pruned, task, dense),
        "int8 2:4": {},
    }
    for kind, more in (("minmax", {}), ("searched", {"max_loss": LIMITS[name]})):
        start, target = time.process_time(), folder / f"{kind}.int8.onnx"
        report = nm2trt.quantize(pruned, target, calib=samples, compare=False, **more)
        seconds = time.process_time() - start
        run = runner(target)
        row["int8 2:4"][kind] = {
            "scores": task.score(run, dense),
            "kl": divergence(target, task, dense),
            "seconds": round(seconds, 1),
            **more,
            **described(report),
        }
        print(task.name, kind, row["int8 2:4"][kind]["scores"], row["int8 2:4"][kind]["work"], flush=True)
    row["int8 2:4"]["joint"] = joint(task, samples, folder / "joint.int8.onnx", dense)
    print(task.name, "joint", row["int8 2:4"]["joint"], flush=True)
    row["engines"] = built(folder / "searched.int8.onnx", PROFILES.get(name, ()))
    print(task.name, row["engines"], flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archives", type=Path, required=True)
    parser.add_argument("--only", default=",".join(TASKS))
    parser.add_argument("--folder", type=Path, help="where models go, and are found again")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["networks"] if arguments.output.exists() else {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only.split(","):
            folder = (arguments.folder or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            known[name] = measured(name, TASKS[name](arguments.archives, folder), folder)
            command = f"python benchmarks/int8_sparse.py --archives ARCHIVES --only {name}"
            known[name]["command"] = command
            record = {"version": nm2trt.__version__, "networks": known}
            arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
