"""The table and the plot of what `claims.py` has run."""

from __future__ import annotations

import base64
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["interval_over_images", "interval_over_seeds", "read", "summarise"]

PATTERNS = ("2:4", "4:8", "2:8", "1:16")
RATES = ("80%", "90%")
TRAINED = ("magnitude", "ste", "sr-ste", "sr-ste-2e-4", "lbc", "spre", "one-shot")
PRUNED = ("fcpts-magnitude", "fcpts-erk", "fcpts-erk-distilled", "fcpts-learned")
# (better, than, targets)
CLAIMS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("sr-ste", "ste", PATTERNS),
    ("sr-ste-2e-4", "ste", PATTERNS),
    ("lbc", "ste", PATTERNS),
    ("lbc", "sr-ste", PATTERNS),
    ("spre", "sr-ste", PATTERNS),
    ("sr-ste", "magnitude", PATTERNS),
    ("fcpts-learned", "fcpts-magnitude", RATES),
    ("fcpts-learned", "fcpts-erk", RATES),
    ("fcpts-learned", "fcpts-erk-distilled", RATES),
)
# Student's t, 97.5 %, by degrees of freedom from 1 on.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)

Runs = dict[tuple[str, str, int], dict[str, Any]]


def read(folder: Path) -> Runs:
    """Read the runs in a folder by method, target and seed.

    Raises:
        SystemExit: They are missing, or they were made with different settings.
    """
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*_seed*.json"))]
    if not records:
        raise SystemExit(f"{folder} holds no run; make some with claims.py --data FOLDER")
    if len({json.dumps(record["settings"]) for record in records}) > 1:
        raise SystemExit(f"{folder} holds runs of different settings; keep those of one")
    return {(r["method"], r["target"], r["seed"]): r for r in records}


def interval_over_seeds(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's 95 % interval of the mean over seeds; None for one seed."""
    count = len(differences)
    if count < 2:
        return None
    quantile = _T[count - 2] if count - 2 < len(_T) else 1.96 + 2.4 / (count - 1)
    half = quantile * statistics.stdev(differences) / math.sqrt(count)
    mean = statistics.mean(differences)
    return mean - half, mean + half


def interval_over_images(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the normal 95 % interval of the mean over test images, from (seeds, images)."""
    by_image = differences.mean(axis=0)
    half = 1.96 * float(by_image.std(ddof=1)) / math.sqrt(len(by_image))
    return float(by_image.mean()) - half, float(by_image.mean()) + half


def accuracies(runs: Runs) -> list[dict[str, Any]]:
    """Top-1 in % by method and target: mean, standard deviation and number of seeds."""
    rows = []
    wanted = [("dense", "")]
    wanted += [(method, target) for target in PATTERNS for method in TRAINED]
    wanted += [(method, target) for target in RATES for method in PRUNED]
    for method, target in wanted:
        found = [100 * r["top1"] for (m, t, _), r in runs.items() if (m, t) == (method, target)]
        if found:
            spread = statistics.stdev(found) if len(found) > 1 else None
            row = {"method": method, "target": target, "seeds": len(found)}
            rows.append({**row, "mean": statistics.mean(found), "deviation": spread})
    return rows


def differences(runs: Runs) -> list[dict[str, Any]]:
    """Paired differences in points of top-1, with their intervals."""
    rows = []
    for better, than, targets in CLAIMS:
        for target in targets:
            mine, theirs = _of(runs, better, target), _of(runs, than, target)
            seeds = sorted(mine.keys() & theirs.keys())
            if not seeds:
                continue
            images = np.array([_correct(mine[s]) - _correct(theirs[s]) for s in seeds]) * 100
            by_seed = [float(d) for d in images.mean(axis=1)]
            row = {"better": better, "than": than, "target": target, "by_seed": by_seed}
            row |= {"mean": statistics.mean(by_seed), "over_seeds": interval_over_seeds(by_seed)}
            rows.append({**row, "over_images": interval_over_images(images)})
    return rows


def divergence(runs: Runs) -> list[dict[str, Any]]:
    """SAD: share of mask entries that flip a step, by quarter of the run, mean over seeds; and the fall."""
    rows = []
    for target in PATTERNS:
        ste = _sad(runs, "ste", target)
        for method in ("ste", "sr-ste-2e-4", "sr-ste"):
            found = _sad(runs, method, target)
            common = sorted(found.keys() & ste.keys())
            if not common:
                continue
            late = [sum(found[s][2:]) / max(sum(ste[s][2:]), 1e-12) for s in common]
            quarters = [statistics.mean(found[s][q] for s in common) for q in range(4)]
            row = {"method": method, "target": target, "seeds": len(common), "by_quarter": quarters}
            rows.append({**row, "second_half_over_ste": late})
    return rows


def summarise(folder: Path) -> None:
    """Print the tables, and write claims.json, claims.md and claims.png into the folder."""
    runs = read(folder)
    any_run = next(iter(runs.values()))
    result = {
        "data": "Fashion-MNIST, 14 x 14 pixels",
        "test_images": any_run["test_images"],
        "settings": any_run["settings"],
        "versions": any_run["versions"],
        "core_minutes": round(sum(r["seconds"] for r in runs.values()) / 60, 1),
        "accuracies": accuracies(runs),
        "differences": differences(runs),
        "divergence": divergence(runs),
        "runs": [{k: v for k, v in r.items() if k not in _LEFT_OUT} for r in runs.values()],
    }
    text = markdown(result)
    (folder / "claims.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "claims.md").write_text(text)
    print(text)
    plot(result, folder / "claims.png")
    print(f"{folder}/claims.json, .md and .png hold the results of {len(runs)} runs.")


_LEFT_OUT = frozenset({"correct", "settings", "versions", "test_images"})


def markdown(result: dict[str, Any]) -> str:
    """Return the three tables as Markdown."""
    lines = ["| top-1, % | target | mean ± deviation | seeds |", "|---|---|---|---|"]
    for row in result["accuracies"]:
        spread = "" if row["deviation"] is None else f" ± {row['deviation']:.2f}"
        lines.append(f"| `{row['method']}` | {row['target']} | {row['mean']:.2f}{spread} | {row['seeds']} |")
    lines += ["", "| difference, points | target | mean | 95 % over seeds | 95 % over images | by seed |"]
    lines.append("|---|---|---|---|---|---|")
    for row in result["differences"]:
        seeds = "-" if row["over_seeds"] is None else _range(row["over_seeds"])
        by_seed = ", ".join(f"{d:+.2f}" for d in row["by_seed"])
        lines.append(
            f"| `{row['better']}` - `{row['than']}` | {row['target']} | {row['mean']:+.2f} | {seeds} "
            f"| {_range(row['over_images'])} | {by_seed} |"
        )
    lines += ["", "| flips a step, of 1,000 entries | target | quarters of the run | second half, of STE's |"]
    lines.append("|---|---|---|---|")
    for row in result["divergence"]:
        quarters = ", ".join(f"{1000 * q:.2f}" for q in row["by_quarter"])
        late = ", ".join(f"{share:.2f}" for share in row["second_half_over_ste"])
        lines.append(f"| `{row['method']}` | {row['target']} | {quarters} | {late} |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Draw the means of each method by pattern and by rate."""
    try:
        import matplotlib as mpl
    except ImportError:
        print("no plot: matplotlib is not installed")
        return
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, pair = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(3, 2), layout="constrained")
    dense = [row["mean"] for row in result["accuracies"] if row["method"] == "dense"]
    for axes, methods, targets in zip(pair, (TRAINED[:-1], PRUNED), (PATTERNS, RATES), strict=True):
        for index, method in enumerate(methods):
            rows = [r for r in result["accuracies"] if r["method"] == method and r["target"] in targets]
            shift = (index - (len(methods) - 1) / 2) * 0.11
            axes.errorbar(
                [targets.index(r["target"]) + shift for r in rows],
                [r["mean"] for r in rows],
                yerr=[r["deviation"] or 0 for r in rows],
                fmt="o",
                capsize=3,
                label=method,
            )
        if dense:
            axes.axhline(dense[0], color="tab:gray", linestyle="--", label="dense")
        axes.set_xticks(range(len(targets)), targets)
        axes.legend(fontsize=8, loc="lower left")
    pair[0].set(ylabel="test top-1, % (mean ± deviation over seeds)", title="trained sparse")
    pair[1].set(title="sparsified after training", xlabel="zeros")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _of(runs: Runs, method: str, target: str) -> dict[int, dict[str, Any]]:
    return {seed: r for (m, t, seed), r in runs.items() if (m, t) == (method, target)}


def _correct(record: dict[str, Any]) -> NDArray[np.float64]:
    bits = np.frombuffer(base64.b64decode(record["correct"]), np.uint8)
    return np.unpackbits(bits, count=record["test_images"]).astype(np.float64)


def _sad(runs: Runs, method: str, target: str) -> dict[int, list[float]]:
    return {seed: r["sad_by_quarter"] for seed, r in _of(runs, method, target).items()}


def _range(interval: Sequence[float]) -> str:
    return f"[{interval[0]:+.2f}, {interval[1]:+.2f}]"
