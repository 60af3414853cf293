"""Every training method at 2:4 and 1:8 with one recipe and one budget: who loses how much accuracy?

    python samples/02_methods/compare.py

Methods that start from scratch get all epochs. Magnitude pruning starts from a dense model, so its dense
training and its fine-tuning share the same number of epochs, half and half.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nm2trt
from nm2trt.progress import track

sys.path.insert(0, str(Path(__file__).parents[1] / "01_digits"))
from data import DEBIAN_FOLDER, Images, digits, fashion_mnist

PATTERNS = ("2:4", "1:8")
# Name -> (method, its options, share of the epochs that it trains dense before it prunes).
METHODS: dict[str, tuple[str, dict[str, Any], float]] = {
    "sr-ste": ("sr-ste", {}, 0.0),
    "ste": ("ste", {}, 0.0),
    "lbc": ("lbc", {}, 0.0),
    "spre": ("spre", {}, 0.0),
    "gradual": ("magnitude", {"gradual": True}, 0.0),
    "fine-tuned": ("magnitude", {}, 0.5),
    "one-shot": ("magnitude", {}, 1.0),
}
CONTROLS: dict[str, tuple[str, dict[str, Any], float]] = {
    "spre-ones": ("spre", {"spatial": "ones"}, 0.0),
    "spre-random": ("spre", {"spatial": "random"}, 0.0),
    "spre-inverted": ("spre", {"spatial": "inverted"}, 0.0),
    "spre-one-norm": ("spre", {"branch_norm": False}, 0.0),
}


def block(channels_in: int, channels_out: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
    return [conv, nn.BatchNorm2d(channels_out), nn.ReLU()]


def network(image_size: int) -> nn.Sequential:
    """Three convolutions and a linear layer; the first, with one channel, stays dense."""
    large = image_size > 16
    return nn.Sequential(
        *block(1, 16, 2 if large else 1),
        *block(16, 32, 2),
        *block(32, 32, 2 if large else 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def epochs_of(
    model: nn.Module, data: Images, epochs: int, batch: int, seed: int, session: Any = None
) -> list[float]:
    """Train for `epochs` with a warm-up and a cosine to 0; returns the normalised step SAD by epoch."""
    if epochs == 0:
        return []
    steps = epochs * -(-len(data.train_x) // batch)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, steps, pct_start=0.1, cycle_momentum=False)
    if session is not None:
        session.attach(optimizer)
    generator = torch.Generator().manual_seed(seed)
    sad = []
    for _ in range(epochs):
        model.train()
        for picked in torch.randperm(len(data.train_x), generator=generator).split(batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.train_x[picked]), data.train_y[picked]).backward()
            optimizer.step()
            schedule.step()
        if session is not None:
            sad.append(session.report()["sad_step"]["normalised"])
    return sad


@torch.no_grad()
def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    scores = torch.cat([model(part) for part in images.split(1000)])
    return (scores.argmax(1) == labels).float().mean().item()


def train(data: Images, name: str, pattern: str | None, epochs: int, batch: int, seed: int) -> dict[str, Any]:
    """Train one model and return its record."""
    torch.manual_seed(seed)
    start = time.perf_counter()
    model = network(data.train_x.shape[-1])
    sad: list[float] = []
    if pattern is None:
        epochs_of(model, data, epochs, batch, seed)
    else:
        method, options, dense_share = {**METHODS, **CONTROLS}[name]
        dense_epochs = round(epochs * dense_share)
        epochs_of(model, data, dense_epochs, batch, seed)
        sparse_epochs = epochs - dense_epochs
        steps = max(1, sparse_epochs * -(-len(data.train_x) // batch))
        session = nm2trt.sparsify(model, method=method, pattern=pattern, total_steps=steps, **options)
        sad = epochs_of(model, data, sparse_epochs, batch, seed + 1000, session)
        session.finalize()
    return {
        "method": name,
        "pattern": pattern,
        "seed": seed,
        "top1": accuracy(model, data.test_x, data.test_y),
        "sad_step_by_epoch": [round(value, 5) for value in sad],
        "seconds": round(time.perf_counter() - start, 2),
    }


def summary(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and spread of each method and pattern, best first within a pattern."""
    rows = []
    for pattern in (None, *PATTERNS):
        of_pattern = []
        for name in ("dense", *METHODS, *CONTROLS):
            found = [100 * r["top1"] for r in records if (r["method"], r["pattern"]) == (name, pattern)]
            if found:
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                row = {"pattern": pattern, "method": name, "top1_mean": statistics.mean(found)}
                of_pattern.append({**row, "top1_spread": spread, "seeds": len(found)})
        rows += sorted(of_pattern, key=lambda row: -row["top1_mean"])
    return rows


def show(rows: list[dict[str, Any]], data: Images) -> None:
    print(f"\nTop-1 on the {len(data.test_y):,} test images of {data.name}: mean ± deviation over seeds")
    dense = next(row["top1_mean"] for row in rows if row["method"] == "dense")
    for row in rows:
        top1 = f"{row['top1_mean']:6.2f} ± {row['top1_spread']:.2f} %"
        print(f"  {row['pattern'] or 'dense':6} {row['method']:13} {top1}   {row['top1_mean'] - dense:+.2f}")
    for pattern in PATTERNS:
        order = [row["method"] for row in rows if row["pattern"] == pattern]
        print(f"  {pattern}: {' > '.join(order)}")
    error = 100 * (dense / 100 * (1 - dense / 100) / len(data.test_y)) ** 0.5
    print(
        f"  One model's accuracy has a standard error of {error:.2f} points from the test set's size alone."
    )


def plot(rows: list[dict[str, Any]], path: Path, title: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    dense = next(row for row in rows if row["method"] == "dense")
    names = [name for name in (*METHODS, *CONTROLS) if any(row["method"] == name for row in rows)]
    for index, pattern in enumerate(PATTERNS):
        of_pattern = {row["method"]: row for row in rows if row["pattern"] == pattern}
        axes.bar(
            [x + (index - 0.5) * 0.38 for x in range(len(names))],
            [of_pattern[name]["top1_mean"] for name in names],
            0.36,
            yerr=[of_pattern[name]["top1_spread"] for name in names],
            label=pattern,
            capsize=3,
        )
    axes.axhline(dense["top1_mean"], color="tab:gray", linestyle="--", label="dense")
    low = max(0, min(row["top1_mean"] for row in rows if row["method"] != "one-shot") - 3)
    axes.set(ylabel="test top-1, %", title=title, ylim=(low, min(100, dense["top1_mean"] + 1.5)))
    for row in rows:
        if row["top1_mean"] < low:  # below the axis: written out
            where = names.index(row["method"]) + (PATTERNS.index(row["pattern"]) - 0.5) * 0.38
            axes.annotate(f"{row['top1_mean']:.1f}", (where, low), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=20 if len(names) > 8 else 0)
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--data-dir", type=Path, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument("--epochs", type=int, help="default: 20 for digits, 4 for fashion-mnist")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--controls", action="store_true", help="add four controls of SpRe")
    parser.add_argument("--only", action="append", choices=(*METHODS, *CONTROLS), help="beside dense")
    parser.add_argument("--out", type=Path, default=Path("results", "02_methods"))
    options = parser.parse_args()
    if options.data_dir is not None:
        options.data = "fashion-mnist"
    options.data_dir = options.data_dir or Path(DEBIAN_FOLDER)
    options.epochs = options.epochs or {"digits": 20, "fashion-mnist": 4}[options.data]
    if options.epochs < 2 or options.seeds < 1:
        parser.error("--epochs must be 2 or more and --seeds 1 or more")
    return options


def main() -> None:
    options, start = arguments(), time.perf_counter()
    data = digits() if options.data == "digits" else fashion_mnist(options.data_dir)
    options.out.mkdir(parents=True, exist_ok=True)
    batch = 64 if options.data == "digits" else 128
    names = dict.fromkeys([*(options.only or METHODS), *(CONTROLS if options.controls else ())])
    trainings = [
        (name, pattern, seed)
        for seed in range(options.seeds)
        for name, pattern in [("dense", None), *((n, p) for p in PATTERNS for n in names)]
    ]
    records = [
        train(data, name, pattern, options.epochs, batch, seed)
        for name, pattern, seed in track(trainings, "training", len(trainings))
    ]
    rows = summary(records)
    show(rows, data)
    result = {
        "command": shlex.join(["python", "samples/02_methods/compare.py", *sys.argv[1:]]),
        "data": data.name,
        "test_images": len(data.test_y),
        "epochs": options.epochs,
        "torch": torch.__version__,
        "summary": rows,
        "runs": records,
    }
    (options.out / f"{data.name}.json").write_text(json.dumps(result, indent=1) + "\n")
    plot(
        rows, options.out / f"{data.name}.png", f"{data.name}, {options.epochs} epochs, {options.seeds} seeds"
    )
    seconds = time.perf_counter() - start
    print(f"\n{options.out / data.name}.json and .png hold the results. It took {seconds:.0f} s.")


if __name__ == "__main__":
    main()
