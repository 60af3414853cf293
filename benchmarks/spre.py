"""What SpRe's step costs beside SR-STE's, and how near that is to what its extra convolutions must cost.

    python benchmarks/spre.py [--model resnet18 --model resnet50] [--rounds 9] [--threads 1]

`ideal` is the ratio of multiply-accumulates of a forward pass, with the branches and without: what the step
would cost if nothing but convolutions took time. `over ideal` is the measured ratio over it, in processor
time; the goal is at most 1.1. A round runs one step of each variant in turn. `spatial masks` is the time to
set all of them anew. Peak memory is that of a process that runs the variant alone. Printed, and written to
`benchmarks/results/spre.json`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nm2trt
from nm2trt.measure import peak_resident_bytes
from nm2trt.sparsity.spre.branches import SpatialBranches

RESULTS = Path(__file__).parent / "results" / "spre.json"
VARIANTS = ("sr-ste", "spre", "spre, interval 10")
MODELS = ("resnet18", "resnet50")
BATCH = 32
GOAL = 1.1


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * planes
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x))))))
        return torch.relu(self.bn3(self.conv3(y)) + self.skip(x))


def network(name: str) -> nn.Module:
    """Build a ResNet for 32 x 32 images: 18 layers, or 50 with bottlenecks."""
    torch.manual_seed(0)
    counts = (2, 2, 2, 2) if name == "resnet18" else (3, 4, 6, 3)
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    inputs = 64
    for stage, count in enumerate(counts):
        for index in range(count):
            stride = 2 if stage and not index else 1
            if name == "resnet18":
                layers.append(Block(inputs, 64 << stage, stride))
                inputs = 64 << stage
            else:
                layers.append(Bottleneck(inputs, 64 << stage, stride))
                inputs = 4 * (64 << stage)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


@torch.no_grad()
def macs(model: nn.Module, x: Tensor) -> tuple[int, int]:
    """Count the multiply-accumulates of one sample, without and with the branches."""
    plain = branches = 0

    def count(module: nn.Module, _inputs: Any, output: Tensor) -> None:
        nonlocal plain, branches
        if isinstance(module, SpatialBranches):
            branches += module.branch.weight.numel() * output[0, 0].numel()
        elif isinstance(module, nn.Conv2d):
            plain += module.weight.numel() * output[0, 0].numel()
        elif isinstance(module, nn.Linear):
            plain += module.weight.numel()

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()(x[:1])
    for hook in hooks:
        hook.remove()
    model.train()
    return plain, branches


def stepper(variant: str, name: str) -> tuple[nn.Module, Callable[[], None]]:
    model = network(name)
    if variant == "sr-ste":
        sparse = nm2trt.sparsify(model, method="sr-ste")
    else:
        sparse = nm2trt.sparsify(model, method="spre", interval=10 if "interval" in variant else 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    sparse.attach(optimizer)
    x, y = torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()

    return model, step


def measure(name: str, rounds: int) -> dict[str, Any]:
    steps = {variant: stepper(variant, name) for variant in VARIANTS}
    taken: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for index in range(rounds + 2):
        for variant, (_, step) in steps.items():
            start = time.process_time()
            step()
            if index >= 2:
                taken[variant].append(time.process_time() - start)
    plain, extra = macs(copy.deepcopy(steps["spre"][0]), torch.randn(1, 3, 32, 32))
    blocks = [m for m in steps["spre"][0].modules() if isinstance(m, SpatialBranches)]
    start = time.perf_counter()
    for block in blocks:
        block.update_spatial()
    masks = time.perf_counter() - start
    ideal = (plain + extra) / plain
    result: dict[str, Any] = {"macs": plain, "extra_macs": extra, "ideal": ideal}
    result["spatial_masks_ms"] = masks * 1e3
    for variant in VARIANTS:
        pairs = zip(taken[variant], taken["sr-ste"], strict=True)
        ratio = statistics.median(mine / base for mine, base in pairs)
        result[variant] = {
            "cpu_ms": statistics.median(taken[variant]) * 1e3,
            "ratio": ratio,
            "best_ratio": min(taken[variant]) / min(taken["sr-ste"]),
            "over_ideal": ratio / ideal if variant != "sr-ste" else None,
            "peak_memory_mb": memory(variant, name),
        }
    return result


def memory(variant: str, name: str) -> float:
    """Run two steps of a variant in a process of its own and return its peak resident memory in MB."""
    command = [sys.executable, __file__, "--model", name, "--memory-of", variant]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", choices=MODELS, action="append", default=[], help="both by default; may be repeated"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--memory-of", choices=VARIANTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory_of:
        step = stepper(options.memory_of, options.model[0])[1]
        step()
        step()
        print(peak_resident_bytes() / 2**20)
        return 0
    every = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in options.model or MODELS:
        load = os.getloadavg()[0]
        every[name] = result = {
            **measure(name, options.rounds),
            "rounds": options.rounds,
            "threads": options.threads,
            "batch": BATCH,
            "load": load,
            "torch": torch.__version__,
            "machine": platform.processor() or platform.machine(),
        }
        show(name, result)
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(every, indent=1) + "\n")
    return 0


def show(name: str, result: dict[str, Any]) -> None:
    millions = {key: result[key] / 1e6 for key in ("macs", "extra_macs")}
    print(
        f"{name}: {millions['macs']:.0f} M MACs, branches add {millions['extra_macs']:.0f} M; ideal ratio "
        f"{result['ideal']:.3f}; all spatial masks {result['spatial_masks_ms']:.0f} ms; load average "
        f"{result['load']:.1f}"
    )
    for variant in VARIANTS:
        row = result[variant]
        over = "" if row["over_ideal"] is None else f"  over ideal {row['over_ideal']:.3f} (goal {GOAL})"
        cost = f"{row['cpu_ms']:7.0f} ms of processor  x{row['ratio']:.3f}"
        print(f"  {variant:18s} {cost}{over}  {row['peak_memory_mb']:.0f} MB", flush=True)


if __name__ == "__main__":
    sys.exit(main())
