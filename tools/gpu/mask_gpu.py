"""The 2:4 mask on a GPU, by the fused kernel and by eager torch, beside `tensor.clone()` and a mask by argsort.

25 M weights; each mask is compared with the CPU's, and its memory is read. `update` is the training step's: the mask
set in place and its changes counted. `decay` is SR-STE's, beside the two eager passes that it replaces.

python mask_gpu.py OUT.json [--device cpu --tiny]
"""

import argparse
import json
import os
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

# About 2 ms, in which the GPU waits and the host launches what is timed after it. Without, the time of a kernel of 30 us
# that is launched on an idle GPU is mostly that of launching it.
AHEAD_CYCLES = 4_000_000


def main():
    a = argparse.ArgumentParser(description=__doc__)
    a.add_argument("out", type=Path)
    a.add_argument("--device", default="cuda")
    a.add_argument("--tiny", action="store_true")
    a.add_argument("--runs", type=int, default=20)
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    from nm2trt.nm import torch_mask
    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.torch_mask import magnitude_mask

    gpu = o.device == "cuda"
    rows = []

    def timed(work, *, ahead=False):
        """Return the median time of a call in ms; `ahead`, without what the host takes to launch it."""
        for _ in range(3):
            work()
        found = []
        for _ in range(o.runs):
            if gpu:
                marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
                if ahead:
                    torch.cuda._sleep(AHEAD_CYCLES)
                marks[0].record()
                work()
                marks[1].record()
                late = ahead and marks[0].query()
                torch.cuda.synchronize()
                if not late:
                    found.append(marks[0].elapsed_time(marks[1]))
            else:
                start = time.perf_counter()
                work()
                found.append((time.perf_counter() - start) * 1e3)
        return statistics.median(found) if found else None

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

    def ways():
        """Eager torch, then the fused kernels, each with the setting that chooses it."""
        for way, switch in (("eager", "0"), ("fused", "1")):
            os.environ["NM2TRT_FUSED_KERNELS"] = switch
            if way == "eager" or (gpu and torch_mask.fused_kernels() is not None):
                yield way

    def add(row, name, work):
        """Add the times of a call, alone on an idle GPU and by the device's clock, and both over those of a clone."""
        for clock, ahead in (("", False), ("_device", True)):
            row[f"{name}{clock}_ms"] = ms = timed(work, ahead=ahead)
            clone = row[f"clone{clock}_ms"]
            row[f"{name}{clock}_over_clone"] = ms and clone and round(ms / clone, 2)

    def peak(work, bytes_of):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        kept = work()
        found = round((torch.cuda.max_memory_allocated() - before) / bytes_of, 3)
        del kept
        return found

    def measure(name, dtype, host, w, text):
        p = NMPattern.parse(text)
        row = {"shape": name, "dtype": dtype, "pattern": text}
        row["clone_ms"], row["clone_device_ms"] = (timed(w.clone, ahead=ahead) for ahead in (False, True))
        expected = magnitude_mask(host, p, axis=1)
        grads = {}
        for way in ways():
            mask = magnitude_mask(w, p, axis=1)
            row[f"{way}_equal_to_cpu"] = bool(torch.equal(mask.cpu(), expected))
            if gpu:
                row[f"{way}_peak_over_tensor"] = peak(
                    lambda: magnitude_mask(w, p, axis=1), w.numel() * w.element_size()
                )
            add(row, f"{way}_mask", lambda: magnitude_mask(w, p, axis=1))
            if text == "2:4":
                state = torch.ones_like(w, dtype=torch.bool)
                flips = torch_mask.update_magnitude_mask(state, w, p, axis=1)
                changed = torch.equal(state, mask) and int(flips) == int((~mask).sum())
                row[f"{way}_update_right"] = bool(changed)
                add(row, f"{way}_update", lambda: torch_mask.update_magnitude_mask(state, w, p, axis=1))
                grads[way] = torch.ones_like(w)
                torch_mask.add_pruned(grads[way], w, mask, 2e-4)
                other = torch.ones_like(w)
                add(row, f"{way}_decay", lambda: torch_mask.add_pruned(other, w, mask, 2e-4))
        if "fused" in grads:
            row["decays_equal"] = bool(torch.equal(grads["eager"], grads["fused"]))
        if text == "2:4":
            row["equal_to_argsort"] = bool(torch.equal(argsort_mask(w, p).cpu(), expected))
            add(row, "argsort", lambda: argsort_mask(w, p))
        return row

    for name, shape in SHAPES.items():
        if o.tiny:
            shape = (64, 64, *shape[2:])
        for dtype in ("float32", "bfloat16"):
            host = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(getattr(torch, dtype))
            if "channels_last" in name:
                host = host.to(memory_format=torch.channels_last)
            w = host.to(o.device)
            for text in ("2:4", "4:8") if dtype == "float32" else ("2:4",):
                try:
                    row = measure(name, dtype, host, w, text)
                except Exception as error:
                    row = {"shape": name, "dtype": dtype, "pattern": text, "error": str(error)[:400]}
                rows.append(row)
                found = {"torch": torch.__version__, "fused": fused_state(torch_mask), "rows": rows}
                o.out.write_text(json.dumps(found, indent=1) + "\n")
                print(json.dumps(row), flush=True)
    failed = [row for row in rows if "error" in row]
    if failed:
        sys.exit(f"{len(failed)} of {len(rows)} masks failed; {failed[-1]['error'].splitlines()[0]}")


def fused_state(torch_mask):
    """Say whether the fused kernels run, or why not."""
    if torch_mask._FAILED:
        return torch_mask._FAILED[0]
    kernels = torch_mask._imported()
    return "triton is missing" if kernels is None else f"triton {kernels.triton.__version__}"


if __name__ == "__main__":
    main()
