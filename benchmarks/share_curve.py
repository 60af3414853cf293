"""Accuracy against the share of the work that is made 2:4, by magnitude and rebuilt from samples.

    python benchmarks/share_curve.py --archives ARCHIVES [--only orientation] [--shares 25,50,75,100]
    python benchmarks/share_curve.py --draw     # the picture again, from the results

Each share is `nm2trt prune --calib --share`, on one draw of samples. The layers that it keeps dense stay
dense in `nm2trt prune` by magnitude too (`--exclude`), so both prune the same work. Printed, written to
`benchmarks/results/share_curve.json`, and drawn as `docs/images/share.png`. No figure here is a speed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from reconstruct import runner, timed
from reconstruct_tasks import TASKS, Task

import nm2trt

RESULTS = Path(__file__).parent / "results" / "share_curve.json"
PICTURE = Path(__file__).parents[1] / "docs" / "images" / "share.png"


def point(task: Task, folder: Path, share: int) -> dict[str, Any]:
    """Return the scores of one share, rebuilt and by magnitude."""
    dense = runner(task.dense)
    rebuilt, magnitude = folder / "rebuilt.onnx", folder / "magnitude.onnx"
    words = [sys.executable, "-m", "nm2trt", "prune", str(task.dense), "--json"]
    samples = ["--calib", str(folder / "samples.npz"), "--cache", str(folder / "cache"), *task.options]
    told, seconds, _ = timed([*words, "-o", str(rebuilt), *samples, "--share", f"{share}%"])
    report = json.loads(told)
    kept = [weight["weight"] for weight in report["weights"] if weight["status"] in ("dense", "refitted")]
    timed([*words, "-o", str(magnitude), *(word for name in kept for word in ("--exclude", name))])
    found = {
        "share": report["pruned_share"] if share < 100 else 1.0,
        "pruned": sum(weight["status"] == "pruned" for weight in report["weights"]),
        "rebuilt": task.score(runner(rebuilt), dense),
        "magnitude": task.score(runner(magnitude), dense),
        "seconds": round(seconds, 1),
    }
    print(task.name, share, found, flush=True)
    return found


def measured(task: Task, folder: Path, shares: Sequence[int]) -> dict[str, Any]:
    """Return a network's curve: dense, then each share."""
    np.savez(folder / "samples.npz", **task.calibration(task.samples, 0))
    dense = runner(task.dense)
    return {
        "network": task.name,
        "samples": task.samples,
        "dense": task.score(dense, dense),
        "points": [point(task, folder, share) for share in shares],
    }


def draw(networks: dict[str, Any], target: Path) -> None:
    """Draw each network's first score, dense at 0 %."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2 * len(networks), 3.4), layout="constrained")
    for axes, row in zip(np.atleast_1d(figure.subplots(1, len(networks))), networks.values(), strict=True):
        score = next(iter(row["dense"]))
        points = sorted(row["points"], key=lambda one: float(one["share"]))
        shares = [0.0, *(100 * one["share"] for one in points)]
        for kind, colour, label in (
            ("rebuilt", "tab:green", f"prune --calib, {row['samples']:,} samples"),
            ("magnitude", "tab:orange", "prune, by magnitude"),
        ):
            values = [row["dense"][score], *(one[kind][score] for one in points)]
            axes.plot(shares, values, marker="o", color=colour, label=label)
        axes.axhline(row["dense"][score], color="tab:gray", linestyle="--", label="dense")
        axes.set(xlabel="% of the work that is 2:4", ylabel=score, title=row["network"], ylim=(0, 104))
        axes.legend(loc="lower left", fontsize=8)
    figure.savefig(target, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--archives", type=Path)
    parser.add_argument("--only", default="orientation,mobilenet")
    parser.add_argument("--shares", default="25,50,75,100")
    parser.add_argument("--draw", action="store_true", help="draw the picture from the results only")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    arguments = parser.parse_args()
    known = json.loads(arguments.output.read_text())["networks"] if arguments.output.exists() else {}
    if not arguments.draw:
        if arguments.archives is None:
            parser.error("--archives is needed to measure")
        for name in arguments.only.split(","):
            with tempfile.TemporaryDirectory() as folder:
                task = TASKS[name](arguments.archives, Path(folder))
                known[name] = measured(task, Path(folder), [int(one) for one in arguments.shares.split(",")])
            record = {"version": nm2trt.__version__, "networks": known}
            arguments.output.write_text(json.dumps(record, indent=1) + "\n")
    draw(known, arguments.picture)


if __name__ == "__main__":
    main()
