"""`nm2trt bench`: latency and throughput, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import keep_json, print_notes, print_result, print_table, say
from nm2trt.errors import Nm2trtError
from nm2trt.options.checks import BenchCommand
from nm2trt.options.field import keywords

if TYPE_CHECKING:
    from nm2trt.pipeline.bench import BenchResult
    from nm2trt.validation.latency.benchmark import Benchmark

OPTIONS = BenchCommand

EPILOG = """examples:
  nm2trt bench dense.onnx sparse.onnx
  nm2trt bench dense.engine sparse.engine --processes 6      # the ratio with its interval
  nm2trt bench model.onnx --batch 1,8,32 -o now.json
  nm2trt bench model.onnx --compare before.json
  nm2trt bench model.onnx http://HOST:8000/ocr grpc+shm://HOST:8001/ocr      # what serving adds
  nm2trt bench model.engine times.json --anyway      # times.json: trtexec --exportTimes=times.json
"""


def run(options: BenchCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.bench import bench

    try:
        sources = (*options.artefacts, options.data)
        with keep_json(options.report, sources=sources) as keep:
            result = keep(bench(**keywords(options)))
    except Nm2trtError as error:
        if error.partial is not None and not options.json:
            _print(error.partial)
        raise
    print_result(result, _print, as_json=options.json)
    return 0


def print_latency(bench: Benchmark, *, conditions: bool = True) -> None:
    """Print latencies and ratios, and below them the conditions under which they were measured."""
    for table in bench.tables():
        print_table(table, every_row=True)
    for remark in bench.remarks():
        say(remark)
    if conditions:
        say("measured on, and how:")
        for key, value in bench.conditions.items():
            say(f"  {key}: {value}", indent="    ")
    if conditions and (bench.before != bench.after or bench.before):
        drift = ", ".join(
            f"{key} {value} -> {bench.after.get(key, '?')}" for key, value in bench.before.items()
        )
        say(f"before -> after: {drift}")
    if not bench.warmup.stable:
        say(f"the medians had not settled after {bench.warmup.runs} runs of warm-up: the machine is busy")


def _print(result: BenchResult) -> None:
    print_latency(result.benchmark)
    print_notes(result.benchmark.notes)
    if result.earlier is not None:
        for ratio in result.earlier.ratios:
            say(ratio.sentence)
        print_notes(f"not the same conditions: {one}" for one in result.earlier.differences)
