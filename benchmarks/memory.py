"""What the commands from ONNX to ONNX take for large files: peak memory and processor time, whole processes.

    python benchmarks/memory.py [--gigabytes 3 20] [--nodes 1000 10000 100000] [--json FILE]

Weights of a large file lie in a data file with holes, so that it takes little of the disk. No outputs are
compared, which would load the model into ONNX Runtime. Processor time is what other load changes least.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bytecode import compile_package

COMMANDS = {
    "verify": ("--fail-on", "none"),
    "prune": ("-o", "out.onnx", "--min-channels", "4"),
    "cast": ("-o", "out.onnx", "--no-compare"),
    "fuse": ("-o", "out.onnx", "--no-compare"),
}
SIDE = 8192  # a weight of 256 MiB

LARGE = """
import sys
import numpy as np, onnx
from onnx import TensorProto, helper
layers, side = int(sys.argv[1]), int(sys.argv[2])
weights, nodes, bytes_each = [], [], 4 * side * side
for i in range(layers):
    weight = TensorProto(name=f"w{i}", data_type=1, dims=[side, side], data_location=1)
    for key, value in ("location", "m.data"), ("offset", str(i * bytes_each)), ("length", str(bytes_each)):
        weight.external_data.add(key=key, value=value)
    weights.append(weight)
    nodes.append(helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"], f"mm{i}"))
ends = [helper.make_tensor_value_info(name, 1, [1, side]) for name in ("x0", f"x{layers}")]
graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "m.onnx")
numbers = np.random.default_rng(0).standard_normal(1 << 18, np.float32).tobytes()
with open("m.data", "wb") as file:
    file.truncate(layers * bytes_each)
    for i in range(layers):
        file.seek(i * bytes_each)
        file.write(numbers)
"""
LONG = "import sys, onnx; from nets import many_nodes; onnx.save(many_nodes(int(sys.argv[1])), 'm.onnx')"


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[3, 20])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1_000, 10_000, 100_000])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for size in arguments.gigabytes:
        layers = round(size * 1e9 / (4 * SIDE * SIDE))
        rows += measure({"gigabytes": layers * 4 * SIDE * SIDE / 1e9}, LARGE, str(layers), str(SIDE))
    for count in arguments.nodes:
        rows += measure({"nodes": count}, LONG, str(count))
    if arguments.json is not None:
        told = {"command": " ".join(sys.argv), "rows": rows}
        arguments.json.write_text(json.dumps(told, indent=2) + "\n")


def measure(size: dict[str, float], program: str, *words: str) -> list[dict[str, float | str]]:
    """Return a row a command for one model, which a process of its own writes."""
    here = Path(__file__).parent
    rows: list[dict[str, float | str]] = []
    with tempfile.TemporaryDirectory() as folder:
        make = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(here)!r}); {program.strip()}"]
        subprocess.run([*make, *words], check=True, cwd=folder)
        for command, options in COMMANDS.items():
            peak, cpu, wall = run([sys.executable, "-m", "nm2trt", command, "m.onnx", *options], folder)
            rows.append({**size, "command": command, "peak_mb": peak, "cpu_s": cpu, "wall_s": wall})
            told = ", ".join(f"{value:g} {name}" for name, value in size.items())
            print(f"{told:>18}  {command:7} {peak:7.0f} MB  {cpu:7.1f} s cpu", flush=True)
    return rows


def run(command: list[str], folder: str) -> tuple[float, float, float]:
    """Return peak memory in MB (2**20 bytes), processor seconds and wall seconds of a process."""
    start = time.perf_counter()
    script = f"import os; os.chdir({folder!r}); os.execv({command[0]!r}, {command!r})"
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    words = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed: {words.decode()}")
    return (
        round(usage.ru_maxrss / 1024, 1),
        round(usage.ru_utime + usage.ru_stime, 2),
        round(time.perf_counter() - start, 2),
    )


if __name__ == "__main__":
    main()
