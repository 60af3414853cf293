"""What a sparse training step costs beside a dense one: every method, and a mask sorted in each forward.

    python benchmarks/train_step.py [--model resnet18 | vit-block] [--rounds 15] [--threads 2]

A round runs one optimizer step of every variant in turn; a ratio is the median over rounds of the variant's
time over the dense one's in the same round, so that other load on the machine falls on both. `best` divides
the fastest rounds, and `cpu` is the ratio in processor time, for machines that others use too; take them
with `--threads 1`, as waiting threads spin. `masks` is the time to set all masks anew over the step's.
`added` is the fastest of 30 runs of what the method does besides the dense step (LBC's score gradients not
counted): short enough to find a quiet moment. Peak memory is that of a process that runs the variant alone.
Printed, and written to `benchmarks/results/train_step.json`, one entry a model and device.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

import nm2trt
from nm2trt.measure import interleaved, peak_resident_bytes
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.core.training_step import UpdateContext

RESULTS = Path(__file__).parent / "results" / "train_step.json"
BATCH = 64
STEPS = 1_000_000  # so long a schedule that a benchmark stays in its first phase
VARIANTS = ("dense", "ste", "sr-ste", "lbc, before t_f", "lbc, after t_f", "magnitude", "argsort in forward")


class BasicBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.skip = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.skip(x))


class ResNet18(nn.Sequential):
    """ResNet-18 for 32 x 32 images: a 3 x 3 stem and no pooling after it; 11.2 M weights."""

    def __init__(self) -> None:
        blocks: list[nn.Module] = []
        channels = 64
        for index, width in enumerate((64, 128, 256, 512)):
            for block in range(2):
                blocks.append(BasicBlock(channels, width, 2 if index and not block else 1))
                channels = width
        stem = (nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        super().__init__(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def vit_block() -> nn.Module:
    """One encoder block of ViT-S: 384 wide, 6 heads, 1536 in between; 1.8 M weights."""
    return nn.TransformerEncoderLayer(
        384, 6, 1536, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet18": (ResNet18, (BATCH, 3, 32, 32)),
    "vit-block": (vit_block, (BATCH, 65, 384)),
}


class _SortedInForward(torch.autograd.Function):
    """SR-STE as first published: the mask is sorted in every forward, the decay added in every backward."""

    @staticmethod
    def forward(ctx, weight, n, m, decay):
        last = weight.movedim(1, -1)
        groups = last.reshape(-1, m)
        order = groups.abs().argsort(dim=1)[:, : m - n]
        mask = torch.ones_like(groups).scatter_(1, order, 0.0).reshape(last.shape).movedim(-1, 1)
        ctx.save_for_backward(weight, mask)
        ctx.decay = decay
        return weight * mask

    @staticmethod
    def backward(ctx, grad):
        weight, mask = ctx.saved_tensors
        return grad + ctx.decay * (1 - mask) * weight, None, None, None


class SortedInForward(nn.Module):
    def __init__(self, pattern: NMPattern) -> None:
        super().__init__()
        self.pattern = pattern

    def forward(self, weight: Tensor) -> Tensor:
        return _SortedInForward.apply(weight, self.pattern.n, self.pattern.m, 2e-4)


@dataclass
class Step:
    """One variant's optimizer step, ready to be called."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    batch: Tensor
    session: SparseSession | None
    cpu_seconds: float = 0.0

    def __call__(self) -> None:
        start = time.process_time()
        self.optimizer.zero_grad()
        self.model(self.batch).square().mean().backward()
        self.optimizer.step()
        if self.batch.is_cuda:
            torch.cuda.synchronize()
        self.cpu_seconds = time.process_time() - start

    def refresh_masks(self) -> None:
        for weight in self.session.weights if self.session else ():
            weight.sparse.refresh(weight.original)
        if self.batch.is_cuda:
            torch.cuda.synchronize()

    @torch.no_grad()
    def added_work(self) -> None:
        """What a step does besides the dense step's work: mask the weights, decay, set the masks."""
        for weight in self.session.weights if self.session else ():
            weight.sparse(weight.original)
            weight.sparse.before_update(weight.original, UpdateContext(1e-3))
            weight.sparse.after_update(weight.original)
        if self.batch.is_cuda:
            torch.cuda.synchronize()


def make(name: str, variant: str, pattern: str, device: str) -> Step:
    torch.manual_seed(0)
    build, shape = MODELS[name]
    model = build().to(device)
    session = None
    if variant == "argsort in forward":
        plan = nm2trt.sparsify(build(), pattern=pattern).plan
        for entry in plan.sparse:
            module, _, tensor = entry.weight.rpartition(".")
            parametrize.register_parametrization(
                model.get_submodule(module), tensor, SortedInForward(NMPattern.parse(pattern))
            )
    elif variant != "dense":
        method, _, phase = variant.partition(", ")
        session = nm2trt.sparsify(
            model, method=method, pattern=pattern, total_steps=2 if phase == "after t_f" else STEPS
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    if session is not None:
        session.attach(optimizer)
    return Step(model, optimizer, torch.randn(shape, device=device), session)


def peak_mib(name: str, variant: str, arguments: argparse.Namespace) -> float:
    """Peak memory of a process of its own: resident set on a CPU, allocated by torch on a GPU."""
    command = [sys.executable, __file__, "--model", name, "--peak", variant, "--pattern", arguments.pattern]
    done = subprocess.run(
        [*command, "--threads", str(arguments.threads)], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def print_own_peak(name: str, variant: str, pattern: str, device: str) -> None:
    step = make(name, variant, pattern, device)
    for _ in range(2):
        step()
    if device == "cuda":
        print(torch.cuda.max_memory_allocated() / 2**20)
    else:
        print(peak_resident_bytes() / 2**20)


def measure(name: str, arguments: argparse.Namespace, device: str) -> dict[str, object]:
    steps = {variant: make(name, variant, arguments.pattern, device) for variant in VARIANTS}
    interleaved(steps, runs=1, warmup=1)
    rounds, cpu = [], []
    for _ in range(arguments.rounds):
        rounds.append(interleaved(steps, runs=1, warmup=0))
        cpu.append({variant: step.cpu_seconds for variant, step in steps.items()})
    variants = {}
    for variant, step in steps.items():
        times = [r[variant].mean_ms for r in rounds]
        ratios = [r[variant].mean_ms / r["dense"].mean_ms for r in rounds]
        cpu_ratio = statistics.median(r[variant] / r["dense"] for r in cpu)
        added = [interleaved({"": step.added_work}, runs=1, warmup=0)[""].mean_ms for _ in range(30)]
        masks = interleaved({"masks": step.refresh_masks}, runs=max(5, arguments.rounds // 2), warmup=1)
        quartiles = statistics.quantiles(ratios, n=4)
        variants[variant] = {
            "step_p50_ms": round(statistics.median(times), 2),
            "ratio_to_dense": round(statistics.median(ratios), 3),
            "ratio_quartiles": [round(quartiles[0], 3), round(quartiles[2], 3)],
            "best_ratio_to_dense": round(min(times) / min(r["dense"].mean_ms for r in rounds), 3),
            "cpu_ratio_to_dense": round(cpu_ratio, 3),
            "mask_share": round(masks["masks"].p50_ms / statistics.median(times), 4)
            if step.session
            else None,
            "added_best_ms": round(min(added), 2) if step.session else None,
            "peak_mib": round(peak_mib(name, variant, arguments), 1),
        }
    return {"batch": BATCH, "rounds": arguments.rounds, "pattern": arguments.pattern, "variants": variants}


def show(name: str, result: dict[str, object]) -> None:
    print(f"\n{name}, batch {BATCH}, {result['pattern']}, {result['rounds']} rounds")
    ratios = f"{'ratio':>7}  {'quartiles':15} {'best':>7} {'cpu':>7}"
    heads = f"{'step':>10} {ratios} {'masks':>6} {'added':>8} {'peak':>9}"
    print(f"  {'variant':20} {heads}")
    for variant, row in result["variants"].items():  # type: ignore[attr-defined]
        low, high = row["ratio_quartiles"]
        masks = "" if row["mask_share"] is None else f"{row['mask_share']:.1%}"
        ratios = f"{row['ratio_to_dense']:6.3f}x  {low:.3f} to {high:.3f}"
        others = f"{row['best_ratio_to_dense']:6.3f}x {row['cpu_ratio_to_dense']:6.3f}x"
        added = "" if row["added_best_ms"] is None else f"{row['added_best_ms']:.1f} ms"
        rest = f"{masks:>6} {added:>8} {row['peak_mib']:5.0f} MiB"
        print(f"  {variant:20} {row['step_p50_ms']:7.1f} ms {ratios} {others} {rest}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=list(MODELS), help="one model only")
    parser.add_argument("--pattern", default="2:4")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--peak", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if arguments.peak:
        print_own_peak(arguments.model, arguments.peak, arguments.pattern, device)
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    where = torch.cuda.get_device_name() if device == "cuda" else f"{arguments.threads} CPU threads"
    for name in [arguments.model] if arguments.model else MODELS:
        result = measure(name, arguments, device)
        show(name, result)
        conditions = {"device": where, "torch": torch.__version__, "machine": platform.machine()}
        results[f"{name} {arguments.pattern} on {where}"] = {
            "command": shlex.join(["python", "benchmarks/train_step.py", *sys.argv[1:]]),
            **conditions,
            **result,
        }
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
