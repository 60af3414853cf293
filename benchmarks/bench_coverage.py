"""How often the interval of `nm2trt bench --processes` holds: a file against itself, whose true ratio is 1.

    python benchmarks/bench_coverage.py [--times 40] [--processes 6] [--runs 60] [--json FILE]

Two models, sized on this machine to run about 40 us and 60 ms on one thread, are benchmarked against
themselves again and again. It reports how many intervals hold 1, and their median ends.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench_overhead import sized

import nm2trt
from nm2trt.validation.latency.machine_state import machine_conditions, machine_state

MODELS = {"40 us": (1, 0.04), "60 ms": (1024, 60.0)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=40, help="benchmarks of each model")
    parser.add_argument("--processes", type=int, default=6)
    parser.add_argument("--runs", type=int, default=60, help="timed runs of each side, over all processes")
    parser.add_argument("--warmup", type=int, default=3, help="fewest runs of warm-up in each process")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = machine_state()
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (batch, milliseconds) in MODELS.items():
            path = sized(Path(folder) / "model.onnx", batch, milliseconds)
            results[name] = coverage(path, batch, arguments)
            found = results[name]
            print(
                f"{name}: {found['covers']} of {found['times']} intervals hold 1; p50 "
                f"{found['p50_ms']:.3f} ms, median interval {found['median_low']:.3f} to "
                f"{found['median_high']:.3f}",
                flush=True,
            )
    if arguments.json is not None:
        document = {
            "command": " ".join(sys.argv),
            "conditions": machine_conditions(),
            "state": {"before": before, "after": machine_state()},
            "processes": arguments.processes,
            "runs": arguments.runs,
            "models": results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def coverage(path: Path, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Benchmark a file against itself and count the intervals that hold 1."""
    ratios = []
    for _ in range(arguments.times):
        found = nm2trt.bench(
            [path, path],
            batches=[batch],
            runs=arguments.runs,
            warmup=arguments.warmup,
            processes=arguments.processes,
            threads=1,
        ).benchmark
        (ratio,) = found.ratios
        assert ratio.low is not None
        assert ratio.high is not None
        ratios.append((ratio.p50, ratio.low, ratio.high, ratio.processes))
        p50 = found.timings[0].latency.p50_ms
    return {
        "times": len(ratios),
        "covers": sum(low <= 1 <= high for _, low, high, _ in ratios),
        "p50_ms": p50,
        "batch": batch,
        "median_low": statistics.median(low for _, low, _, _ in ratios),
        "median_high": statistics.median(high for _, _, high, _ in ratios),
        "intervals": [
            {"p50": p50, "low": low, "high": high, "processes": list(each)} for p50, low, high, each in ratios
        ],
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
