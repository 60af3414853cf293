"""What `nm2trt bench` and `nm2trt validate` cost over a bare ONNX Runtime loop, side by side in one process.

    python benchmarks/bench_overhead.py [--blocks 40] [--runs 50] [--samples 2048] [--repeats 9] [--json FILE]

`bench`: a model sized to run about 1 ms on this machine is called in blocks, turn by turn, in a bare loop
that only reads the clock, and through the timing of `bench`; the ratio is of the wall time of whole blocks.
`validate`: two such models see all samples of an `.npz`, by batches of 64, in a bare loop that counts right
answers, and through `compare_sessions` with its default metrics and output differences; both read the file.
`validate, tiny` is the hard case: models that take 1 ms for the whole batch, since overhead is a batch's.
Each ratio is given by wall time and by the process's CPU time, which a busy machine disturbs less; ONNX
Runtime has one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from bytecode import compile_package
from onnx import numpy_helper

from nm2trt.backends.ort import open_onnx
from nm2trt.measure import rounds
from nm2trt.validation.comparison import compare_sessions, default_metrics
from nm2trt.validation.latency.bench import prepared
from nm2trt.validation.latency.machine_state import machine_conditions, machine_state
from nm2trt.validation.samples.npz import NpzSamples

CLASSES = 100
BATCH = 64


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--blocks", type=int, default=40, help="blocks of each loop")
    parser.add_argument("--runs", type=int, default=50, help="runs of a block")
    parser.add_argument("--samples", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=9, help="passes of each loop over the samples")
    parser.add_argument("--milliseconds", type=float, default=1.0, help="of one inference")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    before = machine_state()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        results = {
            "bench": bench_overhead(root, arguments.blocks, arguments.runs, arguments.milliseconds),
            "validate": validate_overhead(root, 1, arguments),
            "validate, tiny": validate_overhead(root, BATCH, arguments),
        }
    bench = results["bench"]
    print(
        f"bench     {bench['inference_ms']:.3f} ms an inference: wall time {bench['ratio']:.4f} of the bare "
        f"loop (quartiles {bench['low']:.4f} to {bench['high']:.4f}); CPU time {bench['cpu_ratio']:.4f}; "
        f"reported p50 {bench['p50_ratio']:.4f} of its own"
    )
    for name in ("validate", "validate, tiny"):
        validate = results[name]
        print(
            f"{name}  {validate['batch_ms']:.3f} ms a batch of {BATCH} for both models: "
            f"{validate['throughput']:.3f}x the bare loop's throughput (quartiles {validate['low']:.3f} to "
            f"{validate['high']:.3f}); by CPU time {validate['cpu_throughput']:.3f}x"
        )
    if arguments.json is not None:
        document = {
            "command": " ".join(sys.argv),
            "conditions": machine_conditions(),
            "state": {"before": before, "after": machine_state()},
            **results,
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")


def network(path: Path, width: int, depth: int) -> Path:
    """Save a chain of square products and Relus, (n, width) -> (n, CLASSES)."""
    rng = np.random.default_rng(0)
    lines, last = [], "x"
    weights = {}
    for index in range(depth):
        weights[f"w{index}"] = (rng.standard_normal((width, width)) / np.sqrt(width / 2)).astype(np.float32)
        lines.append(f"m{index} = MatMul({last}, w{index})\n r{index} = Relu(m{index})")
        last = f"r{index}"
    weights["head"] = rng.standard_normal((width, CLASSES)).astype(np.float32)
    body = "\n".join([*lines, f"scores = MatMul({last}, head)"])
    graph = onnx.parser.parse_graph(f"g (float[n, {width}] x) => (float[n, {CLASSES}] scores) {{ {body} }}")
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8), path
    )
    return path


def sized(path: Path, batch: int, milliseconds: float) -> Path:
    """Save a network that takes about so long for a batch on one thread."""
    depth = 1
    while True:
        network(path, 256, depth)
        with open_onnx(path, threads=1) as session:
            feeds = {"x": np.ones((batch, 256), np.float32)}
            taken = statistics.median(one["x"] for one in rounds({"x": partial(session.run, feeds)}, 60))
        if 1e3 * taken >= 0.8 * milliseconds or depth > 2000:
            return path
        depth = max(depth + 1, min(int(depth * milliseconds / (1e3 * taken)), 4 * depth))


def bench_overhead(folder: Path, blocks: int, runs: int, milliseconds: float) -> dict[str, Any]:
    path = sized(folder / "bench.onnx", 1, milliseconds)
    session = open_onnx(path, threads=1)
    # The very same session: two of one model differ by more than what is measured, by where they lie.
    bare = session._session
    feeds = {"x": np.ones((1, 256), np.float32)}
    ratios, cpus, own, theirs = [], [], [], []
    for block in range(blocks + 1):
        pairs = {}
        for kind in ("bare", "bench") if block % 2 else ("bench", "bare"):
            times = []
            start, cpu = time.perf_counter(), time.process_time()
            if kind == "bare":
                for _ in range(runs):
                    one = time.perf_counter()
                    bare.run(None, feeds)
                    times.append(time.perf_counter() - one)
            else:
                times += [taken["m"] for taken in rounds({"m": prepared(session, feeds)}, runs)]
            pairs[kind] = time.perf_counter() - start, time.process_time() - cpu, times
        if block:  # the first warms up
            ratios.append(pairs["bench"][0] / pairs["bare"][0])
            cpus.append(pairs["bench"][1] / pairs["bare"][1])
            own += pairs["bench"][2]
            theirs += pairs["bare"][2]
    low, middle, high = (float(q) for q in np.percentile(ratios, [25, 50, 75]))
    return {
        "inference_ms": 1e3 * statistics.median(theirs),
        "ratio": middle,
        "cpu_ratio": statistics.median(cpus),
        "low": low,
        "high": high,
        "p50_ratio": statistics.median(own) / statistics.median(theirs),
        "blocks": blocks,
        "runs": runs,
    }


def validate_overhead(folder: Path, batch: int, arguments: argparse.Namespace) -> dict[str, Any]:
    path = sized(folder / "validate.onnx", batch, arguments.milliseconds)
    samples, repeats = arguments.samples, arguments.repeats
    data = folder / "samples.npz"
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, 256), dtype=np.float32)
    np.savez(data, x=x, labels=rng.integers(0, CLASSES, samples))
    with open_onnx(path, threads=1) as candidate, open_onnx(path, threads=1) as reference:

        def bare() -> None:
            with np.load(data) as archive:
                everything, labels = archive["x"], archive["labels"]
            right = [0, 0]
            for start in range(0, samples, BATCH):
                for side, session in enumerate((candidate, reference)):
                    scores = session.run({"x": everything[start : start + BATCH]})["scores"]
                    right[side] += int((scores.argmax(1) == labels[start : start + BATCH]).sum())

        def validate() -> None:
            opened = NpzSamples(data)
            compare_sessions(candidate, reference, opened, metrics=default_metrics(opened))

        cpu: dict[str, list[float]] = {"bare": [], "validate": []}

        def timed(name: str, call: Callable[[], None]) -> None:
            start = time.process_time()
            call()
            cpu[name].append(time.process_time() - start)

        calls = {"bare": partial(timed, "bare", bare), "validate": partial(timed, "validate", validate)}
        taken = list(rounds(calls, repeats + 1))[1:]
    throughput = [one["bare"] / one["validate"] for one in taken]
    cpus = [a / b for a, b in zip(cpu["bare"][1:], cpu["validate"][1:], strict=True)]
    low, middle, high = (float(q) for q in np.percentile(throughput, [25, 50, 75]))
    batches = -(-samples // BATCH)
    return {
        "batch_ms": 1e3 * statistics.median(one["bare"] for one in taken) / batches,
        "throughput": middle,
        "cpu_throughput": statistics.median(cpus),
        "low": low,
        "high": high,
        "samples": samples,
        "repeats": repeats,
    }


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
