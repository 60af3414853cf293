"""The torch mask beside copies of the tensor and a mask by argsort and scatter: 25 M fp32 weights, one run.

    python benchmarks/mask.py [--runs 9] [--json FILE]

Times are medians over runs in which the candidates take turns. `clone` writes to memory that the system has
to give and to clear first, as the mask does; `copy_` writes to memory that is there. `cpu` is processor time
of all threads, the least of the runs, which other load changes little. Peak temporaries are measured apart,
as the growth of the process's resident memory over tensor and mask.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from nm2trt.measure import interleaved
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask

PATTERNS = ("2:4", "4:8", "2:16")
SHAPES = {
    "conv 3x3": (1664, 1664, 3, 3),
    "conv 3x3, channels_last": (1664, 1664, 3, 3),
    "conv 1x1": (4992, 4992, 1, 1),
    "linear": (4992, 4992),
}


def weight(name: str) -> torch.Tensor:
    tensor = torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(0))
    return tensor.to(memory_format=torch.channels_last) if "channels_last" in name else tensor


def argsort_mask(tensor: torch.Tensor, pattern: NMPattern) -> torch.Tensor:
    moved = tensor.abs().movedim(1, -1)
    groups = moved.reshape(-1, pattern.m)
    best = groups.argsort(dim=-1, descending=True, stable=True)[:, : pattern.n]
    mask = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, best, True)
    return mask.view(moved.shape).movedim(-1, 1)


def least_cpu(call: Callable[[], object], runs: int) -> float:
    """Return the least processor seconds of a call."""
    times = []
    for _ in range(runs):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return min(times)


def temporary_ratio(name: str, pattern: str) -> float:
    """Return peak temporaries over the tensor's bytes, in a process of its own."""
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[3])\n"
        "from mask import weight, magnitude_mask, NMPattern\n"
        "from nm2trt.measure import peak_resident_bytes\n"
        "w = weight(sys.argv[1]); p = NMPattern.parse(sys.argv[2])\n"
        "magnitude_mask(torch.randn(64, 64), p, axis=1)\n"
        "before = peak_resident_bytes()\n"
        "m = magnitude_mask(w, p, axis=1)\n"
        "after = peak_resident_bytes()\n"
        "print(max(0, after - before - m.numel()) / (w.numel() * 4))"
    )
    here = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", code, name, pattern, here], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads; times relative to tensor.clone()")
    for name in SHAPES:
        tensor = weight(name)
        for text in PATTERNS:
            pattern = NMPattern.parse(text)
            if not torch.equal(magnitude_mask(tensor, pattern, axis=1), argsort_mask(tensor, pattern)):
                raise SystemExit(f"{name} {text}: the two masks differ")
            there = torch.empty_like(tensor)
            calls = {
                "clone": tensor.clone,
                "copy": lambda: there.copy_(tensor),  # noqa: B023 - called in this turn
                "mask": lambda: magnitude_mask(tensor, pattern, axis=1),  # noqa: B023
                "argsort": lambda: argsort_mask(tensor, pattern),  # noqa: B023
            }
            taken = interleaved(calls, runs=arguments.runs, warmup=1)
            cpu = {name: least_cpu(calls[name], arguments.runs) for name in ("clone", "copy", "mask")}
            row = {
                "weight": name,
                "pattern": text,
                "over_clone": taken["mask"].p50_ms / taken["clone"].p50_ms,
                "over_copy": taken["mask"].p50_ms / taken["copy"].p50_ms,
                "cpu_over_clone": cpu["mask"] / cpu["clone"],
                "cpu_over_copy": cpu["mask"] / cpu["copy"],
                "faster_than_argsort": taken["argsort"].p50_ms / taken["mask"].p50_ms,
                "peak_temporary_over_tensor": temporary_ratio(name, text),
                "mask_ms": taken["mask"].p50_ms,
            }
            rows.append(row)
            print(
                f"{name:26} {text:5} mask {row['over_clone']:.2f}x clone (cpu {row['cpu_over_clone']:.2f}x), "
                f"{row['over_copy']:.2f}x copy_ (cpu {row['cpu_over_copy']:.2f}x), "
                f"{row['faster_than_argsort']:.1f}x faster than argsort, "
                f"temporaries {row['peak_temporary_over_tensor']:.2f}x the tensor",
                flush=True,
            )
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"command": " ".join(sys.argv), "torch": torch.__version__, "rows": rows}, indent=2)
            + "\n"
        )


if __name__ == "__main__":
    main()
