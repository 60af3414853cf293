"""`nm2trt probe`: does a served model answer like its reference, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import plain_table, print_result, say
from nm2trt.options.serving import ProbeCommand

if TYPE_CHECKING:
    from nm2trt.serving.probe_report import ProbeReport

__all__ = ["OPTIONS", "run"]

OPTIONS = ProbeCommand


def run(options: ProbeCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.probe import probe_command

    report = probe_command(options)
    print_result(report, _print, as_json=options.json)
    report.require_passed()
    return 0


def _print(report: ProbeReport) -> None:
    say(f"{report.name} version {', '.join(report.versions)} at {report.url} ({report.server})")
    say(f"reference {report.reference}; masks: {report.lineage}; configuration: {report.config}")
    for note in report.notes:
        say(note)
    say()
    rows = []
    for check in report.batches:
        verdict = "differs" if check.problem else "agrees"
        for d in check.differences:
            numbers = [f"{d.max_abs:.3g}", f"{d.max_relative:.3g}"]
            rows.append([str(check.batch), d.name, d.dtype, *numbers, verdict])
        if not check.differences:
            rows.append([str(check.batch), "-", "-", "-", "-", verdict])
    plain_table(
        ["batch", "output", "dtype", "max |a-b|", "max relative", "verdict"],
        rows,
        title="Outputs, served against ONNX Runtime",
    )
    if report.loads:
        say()
        plain_table(
            ["clients", "requests", "wrong", "p50 ms", "p90 ms", "p99 ms", "requests/s"],
            [
                [
                    str(check.concurrency),
                    str(check.requests),
                    str(check.wrong),
                    f"{check.latency.p50_ms:.2f}",
                    f"{check.latency.p90_ms:.2f}",
                    f"{check.latency.p99_ms:.2f}",
                    f"{check.requests_per_s:.0f}",
                ]
                for check in report.loads
            ],
            title="Under load, every request with samples of its own",
        )
    counted = report.statistics
    sizes = [int(size) for size in counted["executions_by_batch"]]
    joined = f"; batches of {min(sizes)} to {max(sizes)}" if sizes else ""
    say()
    say(
        f"server: {counted['inferences']} inferences in {counted['executions']} executions{joined}; "
        f"{counted['failures']} failures"
    )
