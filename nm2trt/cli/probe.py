"""`nm2trt probe`: does a served model answer like its reference, and how fast."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.serving.probe_report import ProbeReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--url", required=True, help="HOST:PORT, or grpc://HOST:PORT to speak gRPC")
    parser.add_argument("--name", required=True, help="the model's name")
    parser.add_argument("--reference", required=True, metavar="MODEL.onnx", help="what it should answer like")
    parser.add_argument(
        "--data", metavar="FILE.npz", help="real samples by input name (default: random ones)"
    )
    parser.add_argument(
        "--repository", metavar="FOLDER", help="where it was deployed to: its configuration is compared too"
    )
    parser.add_argument(
        "--batches",
        type=_numbers,
        default=(),
        metavar="N,N",
        help="batches to compare (default: 1, odd, largest)",
    )
    parser.add_argument(
        "--concurrency",
        type=_numbers,
        default=(1, 4, 16),
        metavar="N,N",
        help="clients at a time (default: 1,4,16)",
    )
    parser.add_argument(
        "--requests", type=int, default=200, metavar="N", help="requests a round (default: 200)"
    )
    parser.add_argument(
        "--precision",
        metavar="DTYPE",
        help="lowest type that it computes in, which sets the tolerance (default: that of the outputs)",
    )
    parser.add_argument(
        "--timeout", type=float, default=30.0, metavar="S", help="longest wait (default: 30 s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.probe import probe
    from nm2trt.serving.options import ProbeOptions

    report = probe(
        arguments.url,
        arguments.name,
        arguments.reference,
        data=arguments.data,
        repository=arguments.repository,
        options=ProbeOptions(
            batches=arguments.batches,
            concurrency=arguments.concurrency,
            requests=arguments.requests,
            precision=arguments.precision,
            timeout_s=arguments.timeout,
        ),
    )
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    report.require_passed()
    return 0


def _print(report: ProbeReport) -> None:
    print(f"{report.name} version {', '.join(report.versions)} at {report.url} ({report.server})")
    print(f"reference {report.reference}; masks: {report.lineage}; configuration: {report.config}")
    for note in report.notes:
        print(note)
    print()
    rows = []
    for check in report.batches:
        verdict = "differs" if check.problem else "agrees"
        for d in check.differences:
            numbers = [f"{d.max_abs:.3g}", f"{d.max_relative:.3g}"]
            rows.append([str(check.batch), d.name, d.dtype, *numbers, verdict])
        if not check.differences:
            rows.append([str(check.batch), "-", "-", "-", "-", verdict])
    print_table(
        ["batch", "output", "dtype", "max |a-b|", "max relative", "verdict"],
        rows,
        title="Outputs, served against ONNX Runtime",
    )
    if report.loads:
        print()
        print_table(
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
    print(
        f"\nserver: {counted['inferences']} inferences in {counted['executions']} executions{joined}; "
        f"{counted['failures']} failures"
    )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part)
