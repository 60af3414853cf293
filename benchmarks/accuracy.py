"""Accuracy of fp32, fp16, INT8, INT8 + 2:4 and FP8 on real networks, each on its own metric, paired.

    python benchmarks/accuracy.py --archives ARCHIVES [--only digits,minilm] [--folder WORK]

See `accuracy_tasks.py` for the archives, the data, and what counts as right. Quantised models run in ONNX
Runtime as they stand, node by node; fp16 models in float32 arithmetic with every value rounded. Every file is
built with TensorRT for RTX, where it is installed: for sm80, FP8 for sm89. Differences to fp32 are paired,
sample by sample, with the 95 % score interval. Written to `benchmarks/results/accuracy.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from accuracy_tasks import TASKS, Task
from onnx import TensorProto

import nm2trt
from nm2trt.backends.ort import open_onnx
from nm2trt.errors import BackendError, BackendMissingError
from nm2trt.graph.analysis.shapes import infer_types
from nm2trt.graph.execute.half_precision_emulation import rounded_in_float32
from nm2trt.graph.storage.model import load
from nm2trt.pipeline.keyword_options import build_options
from nm2trt.progress import track
from nm2trt.validation.statistics.paired import PairedDifference, wilson_interval

RESULTS = Path(__file__).parent / "results" / "accuracy.json"
BATCH = 32


def outputs_of(path: Path, task: Task, *, rounded: bool) -> list[np.ndarray]:
    source: Any = path
    if rounded:
        model = load(path)
        low = frozenset(n for n, kind in infer_types(model).items() if kind == TensorProto.FLOAT16)
        source = rounded_in_float32(model, low, TensorProto.FLOAT16).proto.SerializeToString()
    count = len(next(iter(task.inputs.values())))
    found: list[list[np.ndarray]] = []
    with open_onnx(source, optimize=not (rounded or "int8" in path.name or "fp8" in path.name)) as session:
        for start in track(range(0, count, BATCH), f"{task.name}: {path.stem}", -(-count // BATCH)):
            batch = {name: array[start : start + BATCH] for name, array in task.inputs.items()}
            found.append(list(session.run(batch).values()))
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def variants(task: Task, folder: Path) -> Iterator[tuple[str, Path, str, dict[str, Any]]]:
    """Yield name, file, target and what is to be said of each precision."""
    stem = folder / task.dense.stem
    samples = stem.with_suffix(".calibration.npz")
    np.savez(samples, **task.calibration[0])
    base = Path(f"{stem}.fused.onnx")
    nm2trt.fuse(task.dense, base)
    sparse = Path(f"{stem}.sparse.onnx")
    if task.sparse is None:
        nm2trt.prune(base, sparse)
    else:
        nm2trt.fuse(task.sparse, sparse)
    yield "fp32", base, "sm80", {}
    cast = nm2trt.cast(base, Path(f"{stem}.fp16.onnx"), calib=samples)
    yield (
        "fp16",
        Path(cast.output),
        "sm80",
        {"kept_in_fp32": len(cast.kept), "overflowing": len(cast.overflowing)},
    )
    for name, source, method in (
        ("int8", base, "minmax"),
        ("int8 percentile", base, "percentile"),
        ("int8 + 2:4", sparse, "minmax"),
        ("fp8", base, "minmax"),
    ):
        to = "fp8" if name == "fp8" else "int8"
        out = Path(f"{stem}.{name.replace(' ', '_').replace('+_2:4', 'sparse')}.onnx")
        report = nm2trt.quantize(source, out, calib=samples, to=to, method=method, compare=False)
        more: dict[str, Any] = {
            "layers": len(report.layers),
            "in_and_out": len(report.layers) - len(report.islands),
            "islands": {i.consumer: i.code for i in report.islands},
        }
        if name == "int8 + 2:4":
            rows = nm2trt.verify(out).weights
            more |= {"sparse_by": task.sparse_by, "hold_2:4": sum(row.pattern == "holds" for row in rows)}
        yield name, out, "sm89" if to == "fp8" else "sm80", more


def built(path: Path, task: Task, target: str) -> dict[str, Any]:
    """Build with TensorRT for RTX, and return what came of it."""
    profiles = () if task.profile is None else (task.profile,)
    sparsity = "enable" if "sparse" in path.name else "disable"
    options = build_options(None, sparsity, targets=target, profiles=profiles)
    try:
        result = nm2trt.build(path, path.with_suffix(".rtx"), options)
    except BackendMissingError as error:
        return {"target": target, "built": None, "reason": str(error)}
    except BackendError as error:
        return {"target": target, "built": False, "reason": str(error)}
    return {"target": target, "built": True, "bytes": result.engine_bytes}


def measure(task: Task, folder: Path) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    reference = None
    for name, path, target, more in variants(task, folder):
        start = time.perf_counter()
        right = task.right(outputs_of(path, task, rounded=name == "fp16"))
        reference = right if reference is None else reference
        paired = PairedDifference.of(
            n=len(right),
            gained=int((right & ~reference).sum()),
            lost=int((reference & ~right).sum()),
        )
        rows[name] = {
            "right": int(right.sum()),
            "n": len(right),
            "top1": float(right.mean()),
            "interval": wilson_interval(int(right.sum()), len(right)),
            "against_fp32": asdict(paired),
            "file_bytes": path.stat().st_size,
            "engine": built(path, task, target),
            **more,
        }
        say(task, name, rows[name], time.perf_counter() - start)
    return {
        "network": task.name,
        "metric": task.metric,
        "calibration": task.calibration[1],
        "precisions": rows,
    }


def say(task: Task, name: str, row: dict[str, Any], seconds: float) -> None:
    paired, engine = row["against_fp32"], row["engine"]
    print(
        f"{task.name:22} {name:16} {100 * row['top1']:6.2f} %  {100 * paired['difference']:+7.2f} points "
        f"[{100 * paired['low']:+.2f}, {100 * paired['high']:+.2f}]  n = {row['n']:5}  "
        f"{engine['target']} built: {engine['built']}  {seconds:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archives", type=Path, required=True, help="folder of the downloaded packages")
    parser.add_argument("--only", default=",".join(TASKS), help="tasks, separated by commas")
    parser.add_argument("--folder", type=Path, help="where models go; default: a temporary folder")
    arguments = parser.parse_args()
    result = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.only.split(","):
            result[name] = measure(TASKS[name](arguments.archives, folder), folder)
            result[name]["command"] = f"python benchmarks/accuracy.py --archives ARCHIVES --only {name}"
            RESULTS.parent.mkdir(exist_ok=True)
            RESULTS.write_text(json.dumps(result, indent=2) + "\n")
    print(f"wrote {RESULTS}", file=sys.stderr)


if __name__ == "__main__":
    main()
