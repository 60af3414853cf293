"""`nm2trt validate`: two models on the same samples."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.cli.bench import print_latency
from nm2trt.cli.output import keep_json, print_json, print_table
from nm2trt.errors import Nm2trtError

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
    what = "ONNX model, engine, .pt2 program, http://HOST:PORT/MODEL or grpc://..."
    parser.add_argument("model", help=f"{what}, e.g. the sparse one")
    parser.add_argument(
        "--against",
        required=True,
        metavar="MODEL",
        help="what to compare with, of any of these kinds, or outputs that Polygraphy saved (.json)",
    )
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help=".npz with inputs by their names and 'labels', a recipe (.yaml), or Polygraphy's inputs (.json)",
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        metavar="NAME",
        help="a task metric, again for more (default: top-1 and agreement where there are labels)",
    )
    parser.add_argument(
        "--metric-option", action="append", default=[], metavar="KEY=VALUE", help="an option of a metric"
    )
    parser.add_argument(
        "--max-drop",
        metavar="DROP",
        help="exit 5 unless the interval excludes a larger loss, as in 0.5pt (percentage points)",
    )
    parser.add_argument(
        "--rtol", type=float, metavar="R", help="exit 5 if |a-b| > atol + R |b| anywhere (default: 0)"
    )
    parser.add_argument(
        "--atol", type=float, metavar="A", help="exit 5 if |a-b| > A + rtol |b| anywhere (default: 0)"
    )
    parser.add_argument(
        "--min-cosine", type=float, metavar="C", help="exit 5 if an output's cosine is under C, or undefined"
    )
    parser.add_argument(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="exit 5 if both name the same class for less than this share of the samples, as in 0.99",
    )
    parser.add_argument(
        "--bisect",
        action="store_true",
        help="also name the first tensor inside that differs; both ONNX models",
    )
    parser.add_argument(
        "--output", metavar="NAME", help="output that the metrics read (default: the only one of its rank)"
    )
    parser.add_argument(
        "--batch", type=int, metavar="N", help="batch size (default: 64 for metrics, 1 for latency)"
    )
    parser.add_argument(
        "--runs",
        type=int,
        default=200,
        metavar="N",
        help="timed runs of each model; 0: no timing (default: 200)",
    )
    parser.add_argument(
        "--warmup", type=int, default=20, metavar="N", help="fewest runs before, not timed (default: 20)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=0,
        metavar="N",
        help="threads of ONNX Runtime (default: its own choice)",
    )
    parser.add_argument("--data-root", metavar="FOLDER", help="folder of a recipe's paths (default: its own)")
    parser.add_argument(
        "--allow-functions", action="store_true", help="run a recipe's source of kind function"
    )
    parser.add_argument("-o", dest="report", type=Path, metavar="FILE", help="write the JSON there too")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.validate import validate

    try:
        sources = (arguments.model, arguments.against, arguments.data)
        with keep_json(arguments.report, printed=arguments.json, sources=sources) as keep:
            report = keep(
                validate(
                    arguments.model,
                    against=arguments.against,
                    data=arguments.data,
                    metrics=arguments.metric,
                    metric_options=arguments.metric_option,
                    max_drop=arguments.max_drop,
                    rtol=arguments.rtol,
                    atol=arguments.atol,
                    min_cosine=arguments.min_cosine,
                    min_agreement=arguments.min_agreement,
                    output=arguments.output,
                    batch=arguments.batch,
                    runs=arguments.runs,
                    warmup=arguments.warmup,
                    threads=arguments.threads,
                    bisect=arguments.bisect,
                    data_root=arguments.data_root,
                    allow_functions=arguments.allow_functions,
                )
            )
    except Nm2trtError as error:
        if error.partial is not None and not arguments.json:
            _print(error.partial)
        raise
    if arguments.json:
        print_json(report.to_json())
    else:
        _print(report)
    for warning in () if arguments.json else report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    report.require_passed()
    if arguments.json:
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
    print_table(
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
    print_table(headers, rows, title=f"{title} on {report.data}")
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
