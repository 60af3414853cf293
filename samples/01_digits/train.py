"""Train a small CNN dense and 2:4-sparse with one recipe, and take the sparse one to an engine.

    python samples/01_digits/train.py

Everything that makes the second training sparse is marked `# nm2trt`.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import nm2trt
from nm2trt.progress import track
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import StageRecord, file_record
from nm2trt.validation.statistics.paired import PairedDifference, wilson_interval

sys.path.insert(0, str(Path(__file__).parent))
from data import DEBIAN_FOLDER, Images, digits, fashion_mnist

SCRIPT = Path(sys.executable).with_name("nm2trt")
PROGRAM = [str(SCRIPT)] if SCRIPT.is_file() else [sys.executable, "-m", "nm2trt"]
BACKEND_MISSING = 4  # exit status of nm2trt where TensorRT for RTX is not installed


@dataclass(frozen=True)
class Recipe:
    """The same for both trainings: SGD with momentum, linear warm-up, cosine to 0, random shifts."""

    epochs: int
    batch: int
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.1
    shift: int = 1


@dataclass
class Run:
    """One training."""

    model: nn.Module
    seconds: float = 0.0
    accuracy: list[float] = field(default_factory=list)  # on the test set, by epoch
    sad: list[float] = field(
        default_factory=list
    )  # by epoch: share of the mask that differs from the start's
    right: Tensor = field(default_factory=lambda: torch.empty(0))  # (n,), whether each test image is right


class ConvBlock(nn.Sequential):
    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
        )


class SmallCNN(nn.Module):
    """Four convolutions and a linear layer; all but the first, with its one channel, can be sparse."""

    def __init__(self, image_size: int, classes: int) -> None:
        super().__init__()
        self.stem = ConvBlock(1, 32, stride=2 if image_size > 16 else 1)
        self.body = nn.Sequential(ConvBlock(32, 32), ConvBlock(32, 64, stride=2), ConvBlock(64, 64))
        self.head = nn.Linear(64, classes)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.body(self.stem(image)).mean((2, 3)))


def shifted(images: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Move each image by up to `most` pixels both ways, the border filled with its edge."""
    padded = nn.functional.pad(images, (most,) * 4, mode="replicate")
    count, _, height, width = images.shape
    down, right = torch.randint(0, 2 * most + 1, (2, count, 1), generator=generator)
    rows = (down + torch.arange(height))[:, None, :, None]
    columns = (right + torch.arange(width))[:, None, None, :]
    return padded[torch.arange(count)[:, None, None, None], 0, rows, columns]


def train(data: Images, recipe: Recipe, folder: RunFolder, *, seed: int, method: str | None) -> Run:
    """Train dense (`method` None) or 2:4; SpRe keeps its two branches, for `nm2trt fuse` to merge.

    Loss, accuracy and what happened to the masks go to the folder's telemetry, epoch by epoch.
    """
    torch.manual_seed(seed)
    model = SmallCNN(data.train_x.shape[-1], int(data.train_y.max()) + 1)
    steps = recipe.epochs * -(-len(data.train_x) // recipe.batch)
    session = None
    if method is not None:
        session = nm2trt.sparsify(model, method=method, pattern="2:4", total_steps=steps)  # nm2trt
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, steps, pct_start=recipe.warmup, cycle_momentum=False
    )
    if session is not None:
        session.attach(optimizer)  # nm2trt
    run, start = Run(model), time.perf_counter()
    # Its own generator: dense and sparse see the same images in the same order.
    generator = torch.Generator().manual_seed(seed)
    name = f"{method or 'dense'}, seed {seed}"
    for epoch in track(range(1, recipe.epochs + 1), name, recipe.epochs):
        model.train()
        losses = []
        for picked in torch.randperm(len(data.train_x), generator=generator).split(recipe.batch):
            images = shifted(data.train_x[picked], recipe.shift, generator)
            loss = nn.functional.cross_entropy(model(images), data.train_y[picked])
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        run.right = correct(model, data)
        run.accuracy.append(run.right.float().mean().item())
        report = None if session is None else session.report()  # nm2trt
        if report is not None:
            run.sad.append(report["sad_anchored"]["fraction"])
        folder.log(name, epoch, report, loss=statistics.mean(losses), accuracy=run.accuracy[-1])
    if session is not None:
        session.finalize(**({"fuse": False} if method == "spre" else {}))  # nm2trt
        run.right = correct(model, data)
    run.seconds = time.perf_counter() - start
    return run


@torch.no_grad()
def correct(model: nn.Module, data: Images) -> Tensor:
    model.eval()
    scores = torch.cat([model(images) for images in data.test_x.split(500)])
    return scores.argmax(1) == data.test_y


def print_accuracy(runs: dict[str, list[Run]], data: Images, seeds: list[int]) -> None:
    count = len(data.test_y)
    print(f"\nTop-1 on the {count:,} test images of {data.name}, after the last epoch")
    means = {}
    for kind, of_kind in runs.items():
        final = [100 * run.right.float().mean().item() for run in of_kind]
        means[kind] = statistics.mean(final)
        spread = f" ± {statistics.stdev(final):.2f}" if len(final) > 1 else ""
        each = ", ".join(f"{value:.2f}" for value in final)
        print(f"  {kind:6}  {means[kind]:.2f}{spread} %   ({each}; one per seed)")
    print(f"  sparse - dense: {means['sparse'] - means['dense']:+.2f} points")
    print("\nPaired, image by image (95 % score interval, exact McNemar test)")
    for seed, sparse, dense in zip(seeds, runs["sparse"], runs["dense"], strict=True):
        gained = int((sparse.right & ~dense.right).sum())
        lost = int((dense.right & ~sparse.right).sum())
        paired = PairedDifference.of(n=count, gained=gained, lost=lost)
        print(
            f"  seed {seed}: {100 * paired.difference:+.2f} points, {100 * paired.low:+.2f} to "
            f"{100 * paired.high:+.2f}  ({gained} gained, {lost} lost, n = {count}, p = {paired.p_value:.2g})"
        )


def plot(runs: dict[str, list[Run]], path: Path, title: str) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for kind, colour in (("dense", "tab:gray"), ("sparse", "tab:green")):
        for index, run in enumerate(runs[kind]):
            epochs = range(1, len(run.accuracy) + 1)
            label = {"dense": "dense", "sparse": "SR-STE 2:4"}[kind] if index == 0 else None
            left.plot(epochs, [100 * a for a in run.accuracy], color=colour, alpha=0.8, label=label)
    for run in runs["sparse"]:
        right.plot(range(1, len(run.sad) + 1), [100 * s for s in run.sad], color="tab:green", alpha=0.8)
    low = 100 * min(
        min(run.accuracy[len(run.accuracy) // 4 :]) for of_kind in runs.values() for run in of_kind
    )
    left.set(
        xlabel="epoch",
        ylabel="test top-1, %",
        title=f"{title}: accuracy, one line a seed",
        ylim=(low - 1, 100),
    )
    right.set(xlabel="epoch", ylabel="mask entries changed since the start, %", title="SAD", ylim=(0, None))
    left.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def command(*words: str, report: Path | None = None) -> bool:
    """Run `nm2trt` as it would be typed, and stop where it fails; False where no engine can be built here.

    Args:
        words: The command.
        report: File for the JSON of what the command prints.
    """
    line = shlex.join(("nm2trt", *words))
    print(f"\n$ {line}", flush=True)
    extra = [] if report is None else ["--report", str(report)]
    status = subprocess.run([*PROGRAM, *words, *extra], check=False).returncode
    if status == BACKEND_MISSING:
        print("(no engine was built: `nm2trt doctor` says what to install)")
    elif status:
        raise SystemExit(f"{line} failed with exit status {status}")
    return status == 0


def recorded(folder: RunFolder, *words: str, writes: Path | None = None) -> None:
    """Run a command once, and record for the report what it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        if not command(*words, report=report):
            return
        seconds = time.perf_counter() - start
        result = json.loads(report.read_text())
    folder.write(
        StageRecord(
            stage=words[0],
            name=words[0],
            command=shlex.join(("nm2trt", *words)),
            seconds=round(seconds, 2),
            inputs=(file_record(words[1], folder.path),),
            outputs=() if writes is None else (file_record(writes, folder.path),),
            result=result,
        )
    )


def write_accuracy(folder: RunFolder, runs: dict[str, list[Run]], count: int) -> None:
    """Record the PyTorch models' accuracy, which no command measures."""
    entries = []
    for kind, (run, *_) in runs.items():
        right = int(run.right.sum())
        low, high = wilson_interval(right, count)
        figures = {"value": right / count, "low": low, "high": high, "n": count}
        entries.append({"stage": "PyTorch", "name": f"{kind}, seed 0", "metric": "top-1", **figures})
    folder.write(StageRecord("accuracy", "accuracy", result={"entries": entries}))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument(
        "--data-dir", type=Path, default=Path(DEBIAN_FOLDER), help="folder of the four IDX files"
    )
    parser.add_argument("--out", type=Path, help="folder of the results (default: results/01_digits)")
    parser.add_argument("--epochs", type=int, help="default: 60 for digits, 5 for fashion-mnist")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each kind (default: 3)")
    parser.add_argument(
        "--quick", action="store_true", help="one seed, two epochs: a trial of the whole path"
    )
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.epochs = 1, 2
    options.epochs = options.epochs or {"digits": 60, "fashion-mnist": 5}[options.data]
    options.out = options.out or Path(
        "results", "01_digits" if options.data == "digits" else "01_fashion_mnist"
    )
    if options.epochs < 1 or options.seeds < 1:
        parser.error("--epochs and --seeds must be 1 or more")
    return options


def main() -> None:
    options, start = arguments(), time.perf_counter()
    data = digits() if options.data == "digits" else fashion_mnist(options.data_dir)
    if options.data == "digits":
        torch.set_num_threads(1)  # on 8 x 8 pixels a second thread costs more than it brings
    options.out.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(options.epochs, batch=64 if options.data == "digits" else 128)
    print(f"{data.name}: {len(data.train_x):,} images to train on, {len(data.test_x):,} to test; {recipe}")

    folder = RunFolder(options.out)
    folder.telemetry_path.unlink(missing_ok=True)
    folder.start(f"{data.name}, SR-STE 2:4", ["accuracy", "fuse", "verify", "build", "validate"])
    seeds = list(range(options.seeds))
    runs: dict[str, list[Run]] = {"dense": [], "sparse": []}
    for seed in seeds:
        for kind, of_kind in runs.items():
            run = train(data, recipe, folder, seed=seed, method="sr-ste" if kind == "sparse" else None)
            of_kind.append(run)
            print(f"  seed {seed}, {kind:6}  {run.seconds:5.1f} s   top-1 {run.accuracy[-1]:.2%}", flush=True)
    print_accuracy(runs, data, seeds)
    write_accuracy(folder, runs, len(data.test_y))
    if importlib.util.find_spec("matplotlib"):
        plot(runs, options.out / "training.png", data.name)

    example = data.test_x[:4]
    for kind in runs:
        for dtype, short in (("float32", "fp32"), ("float16", "fp16")):
            nm2trt.export(
                runs[kind][0].model, example, options.out / f"{kind}_{short}.onnx", dtype=dtype
            )  # nm2trt
    np.savez(options.out / "test.npz", image=data.test_x.numpy(), labels=data.test_y.numpy())
    print(f"\nModels of seed {seeds[0]}, test set and plot are in {options.out}")

    sparse, dense = (str(options.out / f"{kind}_fp16.onnx") for kind in ("sparse", "dense"))
    engine = options.out / "sparse_fp16.rtx"
    recorded(folder, "verify", sparse)
    recorded(folder, "build", sparse, "--sparsity", "-o", str(engine), writes=engine)
    recorded(folder, "validate", sparse, "--against", dense, "--data", str(options.out / "test.npz"))

    print("\nOnce more by SpRe, which trains a second branch beside each sparse convolution")
    run = train(data, recipe, folder, seed=seeds[0], method="spre")
    print(f"  seed {seeds[0]}, spre    {run.seconds:5.1f} s   top-1 {run.accuracy[-1]:.2%}")
    branches, fused = options.out / "spre_branches.onnx", options.out / "spre_fused.onnx"
    nm2trt.export(run.model, example, branches)  # nm2trt
    recorded(folder, "fuse", str(branches), "-o", str(fused), writes=fused)
    command("verify", str(fused))
    command("report", str(options.out), "-o", str(options.out.parent / "report.html"))
    print(f"\nThe whole took {time.perf_counter() - start:.0f} s.")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
