"""Prune a ResNet-50-sized file beside `polygraphy surgeon prune`, and fuse a graph of 10,000 nodes.

    python benchmarks/graph.py [--skip-polygraphy]

The peer needs polygraphy and onnx_graphsurgeon. Every command is a whole process, started the way a user
starts it; ours runs half of its times before the peer and half after it, and the median counts. Ratios are
of one run on one machine, by wall time and by processor time, which other load does not change. They are
printed, and written to `benchmarks/results/graph.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from bytecode import compile_package
from nets import many_nodes, resnet50

RESULTS = Path(__file__).parent / "results" / "graph.json"


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command and return its wall time and processor time in seconds."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def median(runs: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the median wall time and the median processor time."""
    return statistics.median(wall for wall, _ in runs), statistics.median(cpu for _, cpu in runs)


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--skip-polygraphy", action="store_true", help="time nm2trt alone")
    parser.add_argument("--runs", type=int, default=6, help="runs of nm2trt")
    arguments = parser.parse_args()
    half = max(1, arguments.runs // 2)
    with tempfile.TemporaryDirectory() as folder:
        dense, chain = Path(folder) / "resnet50.onnx", Path(folder) / "chain.onnx"
        onnx.save(resnet50(), dense)
        nodes = many_nodes(10_000)
        onnx.save(nodes, chain)
        ours = [sys.executable, "-m", "nm2trt"]
        prune = [*ours, "prune", str(dense), "-o", f"{folder}/ours.onnx"]
        pruned = [timed(prune) for _ in range(half)]
        peer = None
        if not arguments.skip_polygraphy:
            program = str(Path(sys.executable).with_name("polygraphy"))
            peer = timed([program, "surgeon", "prune", str(dense), "-o", f"{folder}/peer.onnx"])
        pruned += [timed(prune) for _ in range(half)]
        fused = [timed([*ours, "fuse", str(chain), "-o", f"{folder}/fused.onnx"]) for _ in range(half)]
    result: dict[str, float | int | None] = {"cores": os.cpu_count(), "fuse_nodes": len(nodes.graph.node)}
    figures = {"prune": median(pruned), "fuse": median(fused)}
    if peer is not None:
        figures["polygraphy_prune"] = peer
    for name, (wall, cpu) in figures.items():
        result[f"{name}_seconds"], result[f"{name}_cpu_seconds"] = round(wall, 3), round(cpu, 3)
    if peer is not None:
        result["prune_ratio"] = round(peer[0] / figures["prune"][0], 1)
        result["prune_cpu_ratio"] = round(peer[1] / figures["prune"][1], 1)
    for name, value in result.items():
        print(f"{name:30} {value}")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
