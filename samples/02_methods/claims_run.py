"""One training of `claims.py`: a residual network of 39,000 weights on Fashion-MNIST at 14 x 14 pixels.

Runs of one seed share initial weights and the order of the images, so that their differences are paired. Stem
and classifier stay dense wherever N:M groups are asked for.
"""

from __future__ import annotations

import base64
import platform
import sys
import time
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from claims_jobs import FCPTS, SCRATCH, Job, Settings
from torch import Tensor, nn
from torch.nn import functional

import nm2trt

sys.path.insert(0, str(Path(__file__).parents[1] / "01_digits"))
from data import Images, fashion_mnist

__all__ = ["load", "network", "run"]

_CALIBRATION = 1024


class Residual(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride > 1 or channels_in != channels_out:
            conv = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(conv, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm2(self.conv2(self.relu1(self.norm1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


def network() -> nn.Module:
    """Three residual blocks of 16, 32 and 32 channels."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        stem=nn.Conv2d(1, 16, 3, padding=1, bias=False),
        stem_norm=nn.BatchNorm2d(16),
        relu=nn.ReLU(),
        block1=Residual(16, 16, 1),
        block2=Residual(16, 32, 2),
        block3=Residual(32, 32, 2),
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        classifier=nn.Linear(32, 10),
    )
    return nn.Sequential(layers).to(memory_format=torch.channels_last)


def load(folder: Path) -> Images:
    """Read Fashion-MNIST and halve its size by averaging 2 x 2 pixels."""
    images = fashion_mnist(folder)
    train_x, test_x = (functional.avg_pool2d(x, 2) for x in (images.train_x, images.test_x))
    return Images(images.name, train_x, images.train_y, test_x, images.test_y)


class _Order:
    """Batches of one seed, each epoch in an order of its own."""

    def __init__(self, data: Images, batch: int, seed: int) -> None:
        self._data, self._batch = data, batch
        self._generator = torch.Generator().manual_seed(seed)
        self._left: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        if not self._left:
            count = len(self._data.train_x)
            order = torch.randperm(count, generator=self._generator)
            self._left = list(order[: count - count % self._batch].split(self._batch))
        picked = self._left.pop()
        images = self._data.train_x[picked].contiguous(memory_format=torch.channels_last)
        return images, self._data.train_y[picked]


def _train(model: nn.Module, order: _Order, steps: int, settings: Settings, session: Any) -> list[float]:
    """Train with a warm-up and a cosine to 0; returns shares of mask entries that flip in a step."""
    optimizer = torch.optim.SGD(
        model.parameters(), lr=settings.lr, momentum=0.9, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, steps, pct_start=0.1, cycle_momentum=False
    )
    if session is not None:
        session.attach(optimizer)
    model.train()
    flips = []
    for step in range(steps):
        images, labels = order.next()
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        schedule.step()
        if session is not None and step % max(1, steps // 400) == 0:
            flips.append(session.report()["sad_step"]["fraction"])
    return flips


@torch.no_grad()
def _correct(model: nn.Module, data: Images) -> Tensor:
    """Return for each test image whether its class is right: bool (n,)."""
    model.eval()
    scores = torch.cat([model(part) for part in data.test_x.split(500)])
    return scores.argmax(1) == data.test_y


def _scratch(job: Job, model: nn.Module, data: Images, settings: Settings) -> dict[str, Any]:
    order = _Order(data, settings.batch, job.seed)
    if job.method == "dense":
        _train(model, order, settings.steps, settings, None)
        return {}
    steps, method, options = settings.steps, "magnitude", {}
    if job.method == "magnitude":
        steps = settings.steps // 2
        _train(model, order, settings.steps - steps, settings, None)
    else:
        method, options = SCRATCH[job.method]
    torch.manual_seed(job.seed)
    session = nm2trt.sparsify(
        model, method=method, pattern=job.target, total_steps=steps, exclude=["classifier"], **options
    )
    flips = _train(model, order, steps, settings, session)
    report = session.report()
    session.finalize()
    quarters = [float(part.mean()) for part in np.array_split(np.array(flips), 4)]
    decay = [layer["efoldings"] for layer in report["layers"].values() if "efoldings" in layer]
    found = {"sad_by_quarter": quarters, "sparsity": report["sparsity"]}
    return {**found, "efoldings": decay[0]} if decay else found


def _post_training(job: Job, model: nn.Module, data: Images, settings: Settings) -> dict[str, Any]:
    if job.method == "one-shot":
        session = nm2trt.sparsify(model, method="magnitude", pattern=job.target, exclude=["classifier"])
        session.finalize()
        return {}
    picked = torch.randperm(len(data.train_x), generator=torch.Generator().manual_seed(1000 + job.seed))
    calibration = [data.train_x[part] for part in picked[:_CALIBRATION].split(settings.batch)]
    session = nm2trt.sparsify(
        model,
        method="fcpts",
        pattern=None,
        rate=float(job.target.rstrip("%")) / 100,
        calibration=calibration,
        max_samples=_CALIBRATION,
        **{"steps": settings.distill_steps, **FCPTS[job.method]},
    )
    report = session.report()
    session.finalize()
    return {key: report[key] for key in ("rate", "loss_before", "loss_after")}


def run(job: Job, data: Images, settings: Settings, dense_file: Path) -> dict[str, Any]:
    """Train and test one network, and return its record.

    Args:
        job: Which one.
        data: Images of 14 x 14 pixels.
        settings: What all runs share.
        dense_file: Weights of the dense network of the job's seed: written by a dense run, else read.
    """
    torch.set_num_threads(1)
    start, start_cpu = time.perf_counter(), time.process_time()
    torch.manual_seed(job.seed)
    model = network()
    if job.needs_dense:
        model.load_state_dict(torch.load(dense_file, weights_only=True))
        found = _post_training(job, model, data, settings)
    else:
        found = _scratch(job, model, data, settings)
    correct = _correct(model, data)
    if job.method == "dense":
        torch.save(model.state_dict(), dense_file)
    return {
        "name": job.name,
        **asdict(job),
        "settings": asdict(settings),
        "top1": float(correct.float().mean()),
        **found,
        "test_images": len(correct),
        "correct": base64.b64encode(np.packbits(correct.numpy()).tobytes()).decode(),
        "seconds": round(time.perf_counter() - start, 2),
        "cpu_seconds": round(time.process_time() - start_cpu, 2),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
