"""`nm2trt validate`: two models on the same samples."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from nm2trt.cli.bench import print_latency
from nm2trt.cli.output import keep_json, plain_table, print_json
from nm2trt.errors import Nm2trtError
from nm2trt.options.checks import ValidateCommand
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords

if TYPE_CHECKING:
    from nm2trt.validation.comparison import MetricComparison
    from nm2trt.validation.report import ValidationReport

__all__ = ["configure", "run"]

_EPILOG = """examples:
  nm2trt validate sparse.onnx --against dense.onnx --data test.npz --max-drop 0.5pt
  nm2trt validate model.rtx --against model.onnx --data calib/images.yaml --metric top-1 --metric top-5
  nm2trt validate http://localhost:8000/ocr --against ocr.onnx --data lines.npz --metric cer
  nm2trt validate fused.onnx --against model.pt2 --data test.npz --runs 0 -o report.json

metrics: top-K (K a number), agreement, exact-match, cer, cosine, retrieval, map, or module:function;
docs/validation.md says what each reads.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog, parser.formatter_class = _EPILOG, argparse.RawDescriptionHelpFormatter
    add_arguments(parser, ValidateCommand)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    options = options_from(arguments, ValidateCommand)
    from nm2trt.pipeline.validate import validate

    try:
        sources = (options.model, options.against, options.data)
        with keep_json(options.report, printed=options.json, sources=sources) as keep:
            report = keep(validate(**keywords(options)))
    except Nm2trtError as error:
        if error.partial is not None and not options.json:
            _print(error.partial)
        raise
    if options.json:
        print_json(report.to_json())
    else:
        _print(report)
    for warning in () if options.json else report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    report.require_passed()
    if options.json:
        for gate in report.gates:
            print(gate.sentence, file=sys.stderr)
    return 0


def _print(report: ValidationReport) -> None:
    comparison = report.comparison
    for metric in comparison.metrics:
        if not metric.against_reference:
            _print_metric(report, metric)
    for metric in comparison.metrics:
        if metric.against_reference:
            _print_against(metric)
    print()
    plain_table(
        [
            "output",
            "dtype",
            "max |a-b|",
            "mean |a-b|",
            "max relative",
            "relative L2",
            "SQNR dB",
            "KL",
            "cosine",
        ],
        [
            [
                d.name,
                d.dtype,
                f"{d.max_abs:.3g}",
                f"{d.mean_abs:.3g}",
                f"{d.max_relative:.3g}",
                f"{d.relative_l2:.3g}",
                "-" if d.sqnr_db is None else f"{d.sqnr_db:.1f}",
                "-" if d.kl is None else f"{d.kl:.3g}",
                d.cosine_text,
            ]
            for d in comparison.differences
        ],
        title=f"Outputs, candidate against reference, {comparison.n} samples",
    )
    for d in comparison.differences:
        if d.remark:
            print(f"output {d.name}: {d.remark}")
    for side, sentences in comparison.conversions.items():
        for sentence in sentences:
            print(f"converted for the {side}: {sentence}")
    if report.bisection is not None:
        print(f"\n{report.bisection['sentence']}")
    if report.benchmark is not None:
        print()
        print_latency(report.benchmark)
    print()
    for gate in report.gates:
        print(f"{'pass' if gate.passed else 'FAIL'}  {gate.sentence}")
    print(report.verdict)


def _print_metric(report: ValidationReport, metric: MetricComparison) -> None:
    sides = {
        "candidate": (report.candidate, metric.candidate),
        "reference": (report.reference, metric.reference),
    }
    counted = metric.candidate.right is not None
    rows = [
        [
            side,
            name,
            f"{score.value:.2%}",
            f"{score.low:.2%} to {score.high:.2%}",
            *([str(score.right)] if counted else []),
        ]
        for side, (name, score) in sides.items()
    ]
    headers = [
        "",
        "model",
        metric.name,
        "95 % interval",
        *([f"right of {metric.paired.n}"] if counted else []),
    ]
    title = "Accuracy" if counted else metric.summary[0].upper() + metric.summary[1:]
    plain_table(headers, rows, title=f"{title} on {report.data}")
    paired = metric.paired
    gained, lost = getattr(paired, "gained", None), getattr(paired, "lost", None)
    counts = (
        f"{gained} gained, {lost} lost; exact McNemar p = {getattr(paired, 'p_value', 1.0):.3g}"
        if gained is not None
        else paired.method
    )
    print(
        f"\ndifference {100 * paired.difference:+.2f} points, {paired.confidence:.0%} interval "
        f"{100 * paired.low:+.2f} to {100 * paired.high:+.2f} (paired, n = {paired.n}: {counts})"
    )


def _print_against(metric: MetricComparison) -> None:
    score = metric.candidate
    interval = f"95 % interval {score.low:.2%} to {score.high:.2%}"
    if metric.name == "agreement":
        print(f"both name the same class for {score.value:.2%} of the samples ({interval})")
    else:
        print(f"{metric.name}: {score.value:.4%} ({interval}): {metric.summary}")
