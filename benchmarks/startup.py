"""What each command costs to start, beside `python -c pass`, in one run.

    python benchmarks/startup.py [--runs 11] [--json FILE]

Whole processes in turn; medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from bytecode import compile_package

from nm2trt.cli import COMMANDS
from nm2trt.measure import interleaved


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    python, script = sys.executable, str(Path(sys.executable).with_name("nm2trt"))
    commands = {
        "python -c pass": [python, "-c", "pass"],
        "nm2trt --help": [script, "--help"],
        **{f"nm2trt {name} --help": [script, name, "--help"] for name in COMMANDS},
        **{
            f"import {name}": [python, "-c", f"import {name}"]
            for name in (
                "nm2trt",
                "nm2trt.graph.verify.verify_model",
                "nm2trt.backends.trt_rtx, tensorrt_rtx",
                "nm2trt.backends.ort, onnxruntime",
                "nm2trt.sparsity.core.session",
                "nm2trt.exporter.torch_onnx",
            )
        },
    }
    taken = interleaved(
        {
            name: lambda words=words: subprocess.run(words, check=True, capture_output=True)  # type: ignore[misc]
            for name, words in commands.items()
        },
        runs=arguments.runs,
        warmup=1,
    )
    floor = taken["python -c pass"].p50_ms
    for name, latency in taken.items():
        print(f"{name:55} {latency.p50_ms:8.1f} ms  {latency.p50_ms / floor:6.1f}x python -c pass")
    if arguments.json is not None:
        rows = {name: latency.to_json() for name, latency in taken.items()}
        arguments.json.write_text(
            json.dumps({"command": " ".join(sys.argv), "processes": rows}, indent=2) + "\n"
        )


if __name__ == "__main__":
    main()
