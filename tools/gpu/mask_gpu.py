"""The 2:4 mask on a GPU beside `tensor.clone()` and a mask by argsort; 25 M weights; equal to the CPU's, and its memory.

python mask_gpu.py OUT.json [--device cpu --tiny]
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

SHAPES = {
    "conv 3x3": (1664, 1664, 3, 3),
    "conv 3x3, channels_last": (1664, 1664, 3, 3),
    "conv 1x1": (4992, 4992, 1, 1),
    "linear": (4992, 4992),
}


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("out", type=Path)
    a.add_argument("--device", default="cuda")
    a.add_argument("--tiny", action="store_true")
    a.add_argument("--runs", type=int, default=20)
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.torch_mask import magnitude_mask

    gpu = o.device == "cuda"
    rows = []

    def timed(work):
        for _ in range(3):
            work()
        found = []
        for _ in range(o.runs):
            if gpu:
                marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                marks[0].record()
                work()
                marks[1].record()
                torch.cuda.synchronize()
                found.append(marks[0].elapsed_time(marks[1]))
            else:
                start = time.perf_counter()
                work()
                found.append((time.perf_counter() - start) * 1e3)
        return statistics.median(found)

    def argsort_mask(w, p):
        moved = w.abs().movedim(1, -1)
        groups = moved.reshape(-1, p.m)
        best = groups.argsort(dim=-1, descending=True, stable=True)[:, : p.n]
        return (
            torch.zeros_like(groups, dtype=torch.bool)
            .scatter_(-1, best, True)
            .view(moved.shape)
            .movedim(-1, 1)
        )

    for name, shape in SHAPES.items():
        if o.tiny:
            shape = (64, 64, *shape[2:])
        for dtype in ("float32", "bfloat16"):
            host = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
            if "channels_last" in name:
                host = host.to(memory_format=torch.channels_last)
            w = host.to(o.device)
            for text in ("2:4", "4:8") if dtype == "float32" else ("2:4",):
                p = NMPattern.parse(text)
                mask = magnitude_mask(w, p, axis=1)
                row = {"shape": name, "dtype": dtype, "pattern": text}
                row["equal_to_cpu"] = bool(torch.equal(mask.cpu(), magnitude_mask(host, p, axis=1)))
                row["equal_to_argsort"] = bool(torch.equal(mask, argsort_mask(w, p)))
                del mask
                if gpu:
                    torch.cuda.synchronize()
                    torch.cuda.reset_peak_memory_stats()
                    before = torch.cuda.memory_allocated()
                    kept = magnitude_mask(w, p, axis=1)
                    row["peak_over_tensor"] = round(
                        (torch.cuda.max_memory_allocated() - before) / (w.numel() * w.element_size()), 3
                    )
                    del kept
                clone = timed(lambda: w.clone())
                row["clone_ms"] = round(clone, 4)
                row["mask_ms"] = round(timed(lambda: magnitude_mask(w, p, axis=1)), 4)
                row["mask_over_clone"] = round(row["mask_ms"] / clone, 2)
                if text == "2:4":
                    row["argsort_ms"] = round(timed(lambda: argsort_mask(w, p)), 4)
                rows.append(row)
                o.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
