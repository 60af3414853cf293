"""`nm2trt validate`: two models on the same labelled data."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nm2trt.validation.report import ValidationReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", help="ONNX model in question, e.g. the sparse one")
    parser.add_argument(
        "--against", required=True, metavar="MODEL", help="ONNX model to compare with, e.g. the dense one"
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE.npz",
        help="inputs by their names, class indices under 'labels'",
    )
    parser.add_argument(
        "--output", metavar="NAME", help="output of class scores (default: the only one of rank 2)"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="batch size (default: 64 for accuracy, 1 for latency)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=200,
        metavar="N",
        help="timed runs of each model; 0: no timing (default: 200)",
    )
    parser.add_argument(
        "--warmup", type=int, default=20, metavar="N", help="runs before, not timed (default: 20)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of ONNX Runtime (default: its own choice)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt import pipeline

    report = pipeline.validate(
        arguments.model,
        against=arguments.against,
        data=arguments.data,
        output=arguments.output,
        batch=arguments.batch,
        runs=arguments.runs,
        warmup=arguments.warmup,
        threads=arguments.threads,
    )
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    return 0


def _print(report: ValidationReport) -> None:
    accuracy, paired = report.accuracy, report.accuracy.paired
    sides = {"candidate": report.candidate, "reference": report.reference}
    print_table(
        ["", "model", "top-1", "95 % interval", f"right of {report.n}"],
        [
            [side, name, f"{score.top1:.2%}", f"{score.low:.2%} to {score.high:.2%}", str(score.right)]
            for (side, name), score in zip(
                sides.items(), (accuracy.candidate, accuracy.reference), strict=True
            )
        ],
        title=f"Accuracy on {report.data}",
    )
    print(
        f"\ndifference {100 * paired.difference:+.2f} points, {paired.confidence:.0%} interval "
        f"{100 * paired.low:+.2f} to {100 * paired.high:+.2f} (paired, n = {paired.n}: "
        f"{paired.gained} gained, {paired.lost} lost; exact McNemar p = {paired.p_value:.3g})"
    )
    print(f"both name the same class for {accuracy.agreement:.2%} of the samples\n")
    print_table(
        ["output", "dtype", "max |a-b|", "mean |a-b|", "max relative", "cosine"],
        [
            [
                d.name,
                d.dtype,
                f"{d.max_abs:.3g}",
                f"{d.mean_abs:.3g}",
                f"{d.max_relative:.3g}",
                f"{d.cosine:.6f}",
            ]
            for d in accuracy.differences
        ],
        title="Outputs, candidate against reference",
    )
    for side, sentences in accuracy.conversions.items():
        for sentence in sentences:
            print(f"converted for the {side}: {sentence}")
    if report.benchmark is not None:
        _print_latency(report)


def _print_latency(report: ValidationReport) -> None:
    bench = report.benchmark
    if bench is None:
        return
    print("\nLatency: " + ", ".join(f"{key} {value}" for key, value in bench.conditions.items()))
    print_table(
        ["", "batch", "p50 ms", "p90 ms", "p99 ms", "runs"],
        [
            [
                side,
                str(bench.batch[side]),
                f"{t.p50_ms:.3f}",
                f"{t.p90_ms:.3f}",
                f"{t.p99_ms:.3f}",
                str(t.runs),
            ]
            for side, t in bench.latencies.items()
        ],
    )
