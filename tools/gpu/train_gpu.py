"""What a sparse training step costs on this GPU: ResNet-50, channels_last, AMP; each method beside dense, in one process.

    python train_gpu.py OUT.json [--batch 256] [--steps 12] [--methods dense,ste,sr-ste,...] [--device cpu --tiny]
Steps of all variants are timed in blocks of their own (a model is freed before the next), by events, after a warm-up; memory is
torch's peak of the block. `masks` is setting all masks anew; `added` is what a method does in a step beside the dense step.
"""

import argparse
import gc
import json
import os
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

# "(eager)" runs without the fused kernels.
METHODS = (
    "dense",
    "sr-ste",
    "lbc, before t_f",
    "sr-ste (eager)",
    "dense again",
    "lbc, after t_f",
    "ste",
    "magnitude",
)


class Bottleneck(nn.Module):
    def __init__(self, i, planes, stride):
        super().__init__()
        o = planes * 4
        conv = lambda a, b, k, s=1: nn.Conv2d(a, b, k, s, k // 2, bias=False)  # noqa: E731
        self.body = nn.Sequential(
            conv(i, planes, 1),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
            conv(planes, planes, 3, stride),
            nn.BatchNorm2d(planes),
            nn.ReLU(),
            conv(planes, o, 1),
            nn.BatchNorm2d(o),
        )
        self.skip = (
            nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)) if stride > 1 or i != o else nn.Identity()
        )

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def resnet50(tiny=False):
    blocks, i = [], 64
    for stage, (planes, count) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for block in range(1 if tiny else count):
            blocks.append(Bottleneck(i, planes, 2 if stage and not block else 1))
            i = planes * 4
    stem = (nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 1000))


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out", type=Path)
    a.add_argument("--batch", type=int, default=256)
    a.add_argument("--steps", type=int, default=12)
    a.add_argument("--methods", default=";".join(METHODS), help="separated by ;")
    a.add_argument("--device", default="cuda")
    a.add_argument("--dtype", default="bfloat16")
    a.add_argument("--tiny", action="store_true")
    a.add_argument("--deadline", type=float, default=150)
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    gpu = o.device == "cuda"
    torch.backends.cudnn.benchmark = gpu
    begun, results = (
        time.perf_counter(),
        {"torch": torch.__version__, "batch": o.batch, "dtype": o.dtype, "variants": {}},
    )
    if gpu:
        results["device"] = torch.cuda.get_device_name()
    for method in o.methods.split(";"):
        if time.perf_counter() - begun > o.deadline:
            results["stopped"] = f"deadline before {method}"
            break
        try:
            row = fitting(method, o, gpu)
        except Exception as error:
            row = {"error": f"{type(error).__name__}: {error}"[:400]}
        results["variants"][method], results["batch"] = row, o.batch
        plain = results["variants"].get("dense", {}).get("step_p50_ms")
        if plain and "step_p50_ms" in row:
            row["over_dense"] = round(row["step_p50_ms"] / plain, 4)
        o.out.write_text(json.dumps(results, indent=1) + "\n")
        print(method, json.dumps(row), flush=True)
        gc.collect()
        if gpu:
            torch.cuda.empty_cache()
    failed = [method for method, row in results["variants"].items() if "error" in row]
    if failed or "stopped" in results:
        sys.exit(f"failed: {', '.join(failed) or 'none'}; {results.get('stopped', '')}")


def fitting(method, o, gpu):
    """Measure, with a batch that is halved until the dense step fits the GPU; the methods after it take the same."""
    while True:
        try:
            return measure(method, o, gpu)
        except torch.OutOfMemoryError:
            if method != "dense" or o.batch == 1:
                raise
            o.batch //= 2
        gc.collect()
        torch.cuda.empty_cache()


def clock(gpu):
    if gpu:
        mark = torch.cuda.Event(enable_timing=True)
        mark.record()
        return mark
    return time.perf_counter()


def between(a, b, gpu):
    if gpu:
        torch.cuda.synchronize()
        return a.elapsed_time(b)
    return (b - a) * 1e3


def measure(method, o, gpu):
    import nm2trt
    from nm2trt.sparsity.core.training_step import UpdateContext

    torch.manual_seed(0)
    model = resnet50(o.tiny).to(o.device).to(memory_format=torch.channels_last)
    size = 64 if o.tiny else 224
    x = torch.randn(o.batch, 3, size, size, device=o.device).to(memory_format=torch.channels_last)
    y = torch.randint(0, 1000, (o.batch,), device=o.device)
    session = None
    os.environ["NM2TRT_FUSED_KERNELS"] = "0" if "(eager)" in method else "1"
    name, _, phase = method.replace(" (eager)", "").partition(", ")
    if not name.startswith("dense"):
        session = nm2trt.sparsify(
            model, method=name, pattern="2:4", total_steps=2 if phase == "after t_f" else 1_000_000
        )
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    if session is not None:
        session.attach(optimizer)
    scaler = torch.amp.GradScaler(o.device, enabled=gpu and o.dtype == "float16")
    dtype = getattr(torch, o.dtype)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(o.device, dtype=dtype):
            loss = nn.functional.cross_entropy(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    for _ in range(4 if not o.tiny else 3):
        loss = step()
    if gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    times = []
    start = time.perf_counter()
    for _ in range(o.steps):
        a = clock(gpu)
        loss = step()
        b = clock(gpu)
        times.append((a, b))
    times = [between(a, b, gpu) for a, b in times]
    wall = (time.perf_counter() - start) * 1e3 / o.steps
    row = {
        "step_p50_ms": round(statistics.median(times), 3),
        "step_min_ms": round(min(times), 3),
        "wall_ms": round(wall, 3),
        "loss": float(loss.detach()),
        "images_per_s": round(o.batch / statistics.median(times) * 1e3, 1),
    }
    if gpu:
        row["peak_MiB"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if session is not None:
        row["sparse_weights"] = len(session.weights)

        def timed(work, count=10):
            work()
            found = []
            for _ in range(count):
                a = clock(gpu)
                work()
                b = clock(gpu)
                found.append(between(a, b, gpu))
            return round(statistics.median(found), 3)

        @torch.no_grad()
        def added():
            for weight in session.weights:
                weight.sparse(weight.original)
                weight.sparse.before_update(weight.original, UpdateContext(1e-3))
                weight.sparse.after_update(weight.original)

        def masks():
            for weight in session.weights:
                weight.sparse.refresh(weight.original)

        if gpu:
            from nm2trt.nm import torch_mask

            row["fused"] = torch_mask.fused_kernels() is not None
        for key, work in (("masks_ms", masks), ("added_ms", added)):
            try:
                row[key] = timed(work)
            except Exception as error:
                row[key] = f"{type(error).__name__}: {error}"[:200]
        try:
            session.finalize()
            zero = [float((p == 0).float().mean()) for n, p in model.named_parameters() if p.ndim > 1]
            row["zero_share_max"] = round(max(zero), 4)
        except Exception as error:
            row["finalize"] = f"{type(error).__name__}: {error}"[:200]
    return row


if __name__ == "__main__":
    main()
