"""How long a report of 1,000 layers takes to write and to open, and a recipe whose stages are all done.

    python benchmarks/report.py [--layers 1000] [--runs 7] [--json FILE]

Opening is from navigation until two frames after the load event, in headless Chromium, beside an empty page
in the same browser. The recipe prunes, fuses, verifies and reports a ResNet-50 of 102 MB; its second
run is timed as a whole process, beside `python -c pass`. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import onnx
from bytecode import compile_package
from nets import resnet50

import nm2trt
from nm2trt.measure import interleaved

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.reporting.browser import CHROMIUM, Browser  # the tests' own client
from tests.reporting.runs import large_run

RECIPE = "version: 1\nmodel: model.onnx\nstages:\n  prune:\n  fuse: {compare: false}\n  verify:\n  report:\n"
MOST_OPEN_S, MOST_BYTES, MOST_CACHED_S = 2.0, 5_000_000, 2.0


def report_of_many_layers(folder: Path, layers: int, runs: int) -> dict[str, float]:
    start = time.perf_counter()
    result = nm2trt.report(large_run(folder / "run", layers).path)
    written = time.perf_counter() - start
    empty = folder / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>")
    opened: dict[str, list[float]] = {"page": [], "empty": []}
    if CHROMIUM is not None:
        with Browser() as browser:
            for at in range(runs + 1):
                for name, path in (("page", result.report), ("empty", empty)):
                    seconds = browser.open(path)
                    if at:  # the first of each warms up
                        opened[name].append(seconds)
    return {
        "layers": layers,
        "bytes": result.size_bytes,
        "write_s": written,
        **{f"open_{name}_s": statistics.median(times) for name, times in opened.items() if times},
    }


def cached_recipe(folder: Path, runs: int) -> dict[str, float]:
    onnx.save(resnet50(), folder / "model.onnx")
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE)
    command = [sys.executable, "-m", "nm2trt", "run", str(recipe)]
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    first = time.perf_counter() - start
    calls = {"cached": command, "python -c pass": [sys.executable, "-c", "pass"]}
    taken = interleaved(
        {
            name: lambda words=words: subprocess.run(words, check=True, capture_output=True)  # type: ignore[misc]
            for name, words in calls.items()
        },
        runs=runs,
        warmup=1,
    )
    return {
        "first_s": first,
        **{f"{name}_s": latency.p50_ms / 1e3 for name, latency in taken.items()},
    }


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = report_of_many_layers(Path(folder), arguments.layers, arguments.runs)
        recipe = cached_recipe(Path(folder), arguments.runs)
    print(
        f"report of {page['layers']} layers: {page['bytes'] / 1e6:.2f} MB, written in {page['write_s']:.2f} s"
    )
    if "open_page_s" in page:
        print(f"  opens in {page['open_page_s']:.2f} s, an empty page in {page['open_empty_s']:.2f} s")
    else:
        print("  opening: not measured, chromium is not installed")
    print(
        f"recipe of a ResNet-50: {recipe['first_s']:.1f} s; all cached {recipe['cached_s']:.2f} s, "
        f"`python -c pass` {recipe['python -c pass_s']:.2f} s"
    )
    met = {
        "opens under 2 s": page.get("open_page_s", float("inf")) < MOST_OPEN_S,
        "under 5 MB": page["bytes"] < MOST_BYTES,
        "cached run under 2 s": recipe["cached_s"] < MOST_CACHED_S,
    }
    for claim, holds in met.items():
        print(f"{'met' if holds else 'NOT MET'}: {claim}")
    if arguments.json is not None:
        data = {"command": " ".join(sys.argv), "report": page, "recipe": recipe, "met": met}
        arguments.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
