"""`nm2trt bench`: latency and throughput, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import keep_json, print_notes, print_result, print_table, say
from nm2trt.errors import Nm2trtError
from nm2trt.options.checks import BenchCommand
from nm2trt.options.field import keywords
from nm2trt.tables import Column, Row, Table

if TYPE_CHECKING:
    from nm2trt.pipeline.bench import BenchResult
    from nm2trt.validation.latency.bench import Benchmark, Ratio

__all__ = ["EPILOG", "OPTIONS", "print_latency", "run"]

OPTIONS = BenchCommand

EPILOG = """examples:
  nm2trt bench dense.onnx sparse.onnx
  nm2trt bench dense.engine sparse.engine --processes 6      # the ratio with its interval
  nm2trt bench model.onnx --batch 1,8,32 -o now.json
  nm2trt bench model.onnx --compare before.json
  nm2trt bench model.engine times.json --anyway      # times.json: trtexec --exportTimes=times.json
"""


def run(options: BenchCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.bench import bench

    try:
        sources = (*options.artefacts, options.data)
        with keep_json(options.report, printed=options.json, sources=sources) as keep:
            result = keep(bench(**keywords(options)))
    except Nm2trtError as error:
        if error.partial is not None and not options.json:
            _print(error.partial)
        raise
    print_result(result, _print, as_json=options.json)
    return 0


def print_latency(bench: Benchmark, *, conditions: bool = True) -> None:
    """Print latencies and ratios, and before them the conditions under which they were measured."""
    from nm2trt.measure import no_speed

    for key, value in bench.conditions.items() if conditions else ():
        say(f"  {key}: {value}", indent="    ")
    rows = [
        [
            timing.name,
            "-" if timing.batch is None else str(timing.batch),
            *(f"{value:.3f}" for value in (t.p50_ms, t.p90_ms, t.p95_ms, t.p99_ms)),
            f"{t.spread:.1%}",
            "-" if timing.per_second is None else f"{timing.per_second:.1f}",
            str(t.runs),
        ]
        for timing in bench.timings
        for t in (timing.latency,)
    ]
    headers = ("batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", "spread", "samples/s", "runs")
    columns = (Column("model", "name"), *(Column(header, "number") for header in headers))
    print_table(Table(columns, tuple(Row(tuple(row)) for row in rows), "Latency"), every_row=True)
    for ratio in bench.ratios:
        say(_ratio(ratio))
    if warning := no_speed(bench.conditions):
        say(warning)
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
            say(_ratio(ratio))
        print_notes(f"not the same conditions: {one}" for one in result.earlier.differences)


def _ratio(ratio: Ratio) -> str:
    batch = "" if ratio.batch is None else f", batch {ratio.batch}"
    found = f"{ratio.name} / {ratio.base}{batch}: p50 ratio {ratio.p50:.3f}"
    if ratio.low is None or ratio.high is None:
        return f"{found}; one process gives no interval: see nm2trt bench --processes 6"
    return f"{found}, 95 % interval {ratio.low:.3f} to {ratio.high:.3f} over {len(ratio.processes)} processes"
