"""One layer of `nm2trt reconstruct`'s solver on the GPU beside the CPU: seconds, and how far the results are apart.

    python solve_gpu.py OUT.json [--device cpu --tiny]
Two layers, each of 2:4: 512 x 512 and 1024 x 2304 (a 3x3 convolution of 256 channels), from 8,192 rows.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("out", type=Path)
    a.add_argument("--device", default="cuda")
    a.add_argument("--tiny", action="store_true")
    a.add_argument("--project", type=Path, default=Path(__file__).resolve().parent.parent / "nm2trt")
    o = a.parse_args()
    sys.path.insert(0, str(o.project))
    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.solver.layer_moments import moments_of
    from nm2trt.nm.solver.layer_solver import fit_layer

    def solve(device, x, y, weight):
        x, y = x.to(device), y.to(device)
        half = len(x) // 2
        moments = moments_of(x[:half], y[:half]), moments_of(x[half:], y[half:])
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        found = fit_layer(*moments, weight.to(device), NMPattern(2, 4), bias=True)
        if device == "cuda":
            torch.cuda.synchronize()
        return found, time.perf_counter() - start

    rows = []
    for outputs, inputs, count in ((32, 64, 512),) if o.tiny else ((512, 512, 8192), (1024, 2304, 8192)):
        generator = torch.Generator().manual_seed(0)
        mix = torch.randn(inputs, inputs, generator=generator) / inputs**0.5
        x = torch.randn(count, inputs, generator=generator) @ mix
        weight = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5
        y = x @ weight.float().T
        row = {"outputs": outputs, "inputs": inputs, "rows": count}
        solve(o.device, x[:, :64], x[:, :16], weight[:16, :64])  # the libraries start
        found, row["device_s"] = solve(o.device, x, y, weight)
        again, row["device_again_s"] = solve(o.device, x, y, weight)
        on_cpu, row["cpu_s"] = solve("cpu", x, y, weight)
        row["device_repeats"] = bool(torch.equal(found.weight, again.weight))
        row["error"], row["cpu_error"] = found.error, on_cpu.error
        row["same_mask_share"] = float((found.mask.cpu() == on_cpu.mask).float().mean())
        difference = (found.weight.cpu() - on_cpu.weight).norm() / on_cpu.weight.norm()
        row["weights_relative_difference"] = float(difference)
        rows.append(row)
        o.out.write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=1) + "\n")
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
