"""`nm2trt prove`: three engines of one model, and what sparsity brought."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.ladder import print_ladder
from nm2trt.cli.output import print_json, print_table, printable
from nm2trt.errors import BackendError
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.engines import ProveCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nm2trt.engine.twin.report import Comparison, TwinReport

__all__ = ["configure", "run"]

_MOST_LAYERS = 10
_EPILOG = """examples:
  nm2trt prove model.onnx                       its zeros are filled in for the dense twin
  nm2trt prove sparse.onnx --dense dense.onnx --json > prove.json

Without a GPU the three engines are built, and everything up to the timing is told.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add_arguments(parser, ProveCommand)


def run(arguments: argparse.Namespace) -> int:
    """Build, time and print."""
    options = options_from(arguments, ProveCommand)
    from nm2trt.pipeline.prove import prove_command

    try:
        report = prove_command(options)
    except BackendError as error:
        # The engines were built; only the GPU could not run them.
        if error.partial is not None:
            _show(error.partial, as_json=options.json)
        raise
    _show(report, as_json=options.json)
    return 0


def _show(report: TwinReport, *, as_json: bool) -> None:
    for note in report.notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    if as_json:
        print_json(report.to_json())
    else:
        _print(report)


def _print(report: TwinReport) -> None:
    print_ladder(report.ladder)
    print()
    rows = []
    for variant in report.variants:
        latency = variant.latency
        times: tuple[str, ...] = ("not measured",) * 3
        if latency is not None:
            times = (f"{latency.p50_ms:.3f}", f"{latency.p99_ms:.3f}", f"{latency.spread:.1%}")
        size, build = f"{variant.engine_bytes / 1e6:.1f} MB", f"{variant.build_ms / 1e3:.1f} s"
        rows.append((variant.name, size, build, *times))
    print_table(("engine", "size", "build", "p50 ms", "p99 ms", "spread"), rows)
    if report.measured:
        print(report.conditions.get("time", ""))
    _print_pairs(report.comparisons)
    for other in report.other_clocks:
        p50 = ", ".join(f"{name} {latency.p50_ms:.3f} ms" for name, latency in other.latencies.items())
        print(f"\n{other.time}: {p50}")
        _print_pairs(other.comparisons)
    if report.layers:
        print("\nlayers, by what the flag saves:")
        shown = [(x.layer, f"{x.off_ms:.4f}", f"{x.on_ms:.4f}", f"{x.saved_ms:+.4f}") for x in report.layers]
        print_table(("layer", "off ms", "on ms", "saved"), shown[:_MOST_LAYERS])
    share = "not measured" if report.sparse_share is None else f"{report.sparse_share:.0%}"
    print(f"\neligible work that runs sparse kernels: {share}")
    if not report.measured:
        print(f"not measured: {report.why_not}")
    else:
        state = ", ".join(f"{name} {value}" for name, value in report.clocks_after.items())
        print(f"on {report.device or 'this machine'}{f', after: {state}' if state else ''}")


def _print_pairs(pairs: Sequence[Comparison]) -> None:
    for pair in pairs:
        sure = "" if pair.certain else "; the blocks disagree on which is faster"
        print(
            f"{pair.name} over {pair.against}: {pair.speedup:.3f}x ({pair.low:.3f} to {pair.high:.3f}){sure}"
        )
