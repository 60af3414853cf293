"""INT8 and 2:4 on four published networks: plain ranges, ranges and placement searched, and the joint solve.

    python benchmarks/int8_sparse.py --archives ARCHIVES [--only orientation,minilm] [--folder FOLDER]

Each network is pruned with `prune --calib` and quantised on the same samples (`minmax`, `searched`), or
pruned with `--to int8` (`joint`). Scores are those of `reconstruct_tasks.py`, on data that no sample is of.
KL (the share of the variance lost where there are no classes) is against the dense network on 64 samples of
another draw. Work is counted for TensorRT for RTX, which builds the files ahead of time for sm80 and sm86; no
engine is run. Pruned files that lie in FOLDER are taken as they are. Written to
`benchmarks/results/int8_sparse.json`, a network at a time; `points lost` is the score of the float32 2:4
network minus that of the INT8 one.
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
from nm2trt.pipeline.joint_int8 import JointReport
from nm2trt.pipeline.keyword_options import build_options

RESULTS = Path(__file__).parent / "results" / "int8_sparse.json"
BATCH = 20
# Largest share of held-out answers that may change; of MiniLM, which has no classes, of the variance lost.
LIMITS = {"orientation": "2%", "recognition": "10%", "minilm": "10%", "mobilenet": "20%"}
# Networks with scores that compare answers with those of another network.
COMPARED = ("minilm", "mobilenet")
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


def joint(name: str, task: Task, folder: Path, dense: Run, sparse: Run) -> dict[str, Any]:
    """Prune to INT8 in one pass, and round the float 2:4 network with the same method of ranges."""
    start, target = time.process_time(), folder / "joint.int8.onnx"
    samples = folder / "samples.npz"
    report = nm2trt.prune(task.dense, target, calib=samples, valid=valid_input(task), to="int8")
    assert isinstance(report, JointReport)
    seconds = time.process_time() - start
    row = judged(name, task, target, dense, sparse)
    options = report.quantized.options
    after = folder / "after.int8.onnx"
    nm2trt.quantize(
        folder / "pruned.onnx",
        after,
        calib=samples,
        compare=False,
        method=options.method,
        percentile=options.percentile,
    )
    return {
        **row,
        "seconds": round(seconds, 1),
        "method": options.method,
        "percentile": options.percentile,
        "kl of the same ranges, rounded afterwards": divergence(after, task, dense),
        **described(report.quantized),
    }


def valid_input(task: Task) -> str | None:
    """Return the name of the input that marks real tokens."""
    return task.options[1] if "--valid" in task.options else None


def judged(name: str, task: Task, path: Path, dense: Run, sparse: Run) -> dict[str, Any]:
    """Return scores of an INT8 network, what it lost to the float 2:4 one, and its divergence."""
    run = runner(path)
    found: dict[str, Any] = {"scores": task.score(run, dense)}
    if name in COMPARED:
        found["against 2:4"] = task.score(run, sparse)
    return {**found, "kl": divergence(path, task, dense)}


def measured(name: str, task: Task, folder: Path) -> dict[str, Any]:
    samples, pruned = folder / "samples.npz", folder / "pruned.onnx"
    if not (pruned.is_file() and samples.is_file()):
        np.savez(samples, **task.calibration(task.samples, 0))
        nm2trt.prune(task.dense, pruned, calib=samples, valid=valid_input(task))
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
        row["int8 2:4"][kind] = {
            **judged(name, task, target, dense, sparse),
            "seconds": round(seconds, 1),
            **more,
            **described(report),
        }
        print(task.name, kind, row["int8 2:4"][kind]["scores"], row["int8 2:4"][kind]["work"], flush=True)
    row["int8 2:4"]["joint"] = joint(name, task, folder, dense, sparse)
    print(task.name, "joint", row["int8 2:4"]["joint"]["scores"], row["int8 2:4"]["joint"]["kl"], flush=True)
    for found in row["int8 2:4"].values():
        found["points lost"] = {kind: row["2:4"][kind] - score for kind, score in found["scores"].items()}
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
    record = json.loads(arguments.output.read_text()) if arguments.output.exists() else {"networks": {}}
    known = record["networks"]
    with tempfile.TemporaryDirectory() as temporary:
        for name in arguments.only.split(","):
            folder = (arguments.folder or Path(temporary)) / name
            folder.mkdir(parents=True, exist_ok=True)
            known[name] = measured(name, TASKS[name](arguments.archives, folder), folder)
            command = f"python benchmarks/int8_sparse.py --archives ARCHIVES --only {name}"
            known[name]["command"] = command
            record["version"] = nm2trt.__version__
            arguments.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
