"""`nm2trt verify` beside Polygraphy's `inspect sparsity` and `np.count_nonzero`, in one run.

    python benchmarks/verify.py [--runs 5] [--json FILE]

Two models of about 25 M weights that hold 2:4: a ResNet-50 (conv-heavy) and a stack of MatMuls. Whole
processes are timed from start to exit, in turn; Polygraphy, which takes most of a minute, runs once. The
check itself is `count_groups` over every weight, on one core and on as many as `verify` uses, beside one
`np.count_nonzero` over the same arrays.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from bytecode import compile_package
from nets import TWO_FOUR, matmuls, resnet50, sparse
from onnx import numpy_helper

from nm2trt.graph.analysis.weight_operands import consumers
from nm2trt.graph.storage.model import load
from nm2trt.graph.storage.threads import in_order
from nm2trt.graph.verify.group_counts import count_groups, read_weight
from nm2trt.nm.axes import onnx_weight

POLYGRAPHY = "from polygraphy.tools import main; main()"


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in (("resnet50", resnet50), ("matmuls", matmuls)):
            path = Path(folder) / f"{name}.onnx"
            onnx.save(sparse(make()), path)
            rows[name] = measure(path, arguments.runs)
    for name, row in rows.items():
        print(f"\n{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in row.items()))
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps({"command": " ".join(sys.argv), "models": rows}, indent=2) + "\n"
        )


def measure(path: Path, runs: int) -> dict[str, float]:
    ours = [sys.executable, "-m", "nm2trt", "verify", str(path), "--fail-on", "none"]
    theirs = [sys.executable, "-c", POLYGRAPHY, "inspect", "sparsity", str(path)]
    polygraphy = seconds(theirs)
    process = statistics.median(seconds(ours) for _ in range(runs))
    check, threads, count = zip(*(check_and_count(path) for _ in range(runs)), strict=True)
    inner, count_s = statistics.median(check), statistics.median(count)
    return {
        "polygraphy_s": polygraphy,
        "process_s": process,
        "process_ratio": polygraphy / process,
        "check_s": inner,
        "check_ratio": polygraphy / inner,
        "share_of_count_nonzero_speed": count_s / inner,
        "share_on_all_cores": count_s / statistics.median(threads),
    }


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def check_and_count(path: Path) -> tuple[float, float, float]:
    """Return seconds of checking all weights in one thread, in several, and of counting their non-zeros."""
    weights, arrays = [], []
    for operand in consumers(load(path)):
        weight = read_weight(operand)
        how = onnx_weight("", operand.operator, operand.input_index, len(weight.shape), operand.attributes)
        if how is not None and weight.shape[how.axis] % 4 == 0 and weight.tensor is not None:
            arrays.append(numpy_helper.to_array(weight.tensor))
            weights.append((replace(weight, tensor=None, value=arrays[-1]), how))
    start = time.perf_counter()
    for weight, how in weights:
        count_groups(weight, how, TWO_FOUR)
    checked = time.perf_counter()
    deque(in_order(lambda case: count_groups(*case, TWO_FOUR), weights), maxlen=0)
    checked_in_threads = time.perf_counter()
    for array in arrays:
        np.count_nonzero(array)
    end = time.perf_counter()
    return checked - start, checked_in_threads - checked, end - checked_in_threads


if __name__ == "__main__":
    main()
