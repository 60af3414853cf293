"""`nm2trt prune`: one row per weight, the verdict on the outputs, and the file that was written."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from nm2trt.cli.output import print_json, print_table
from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.models import PruneCommand

if TYPE_CHECKING:
    from nm2trt.graph.prune.prune_model import PruneReport
    from nm2trt.graph.reconstruct.report import ReconstructReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser, PruneCommand)


def run(arguments: argparse.Namespace) -> int:
    """Prune, print, and return 0."""
    from nm2trt.graph.prune.prune_model import PruneReport
    from nm2trt.pipeline.prune import prune

    options = options_from(arguments, PruneCommand)
    report = prune(**keywords(options))
    if options.json:
        print_json(report.to_json())
    elif isinstance(report, PruneReport):
        _print(report)
    else:
        _print_rebuilt(report)
    return 0


def _print(report: PruneReport) -> None:
    print_table(
        ("weight", "shape", "dtype", "axis", "result", "why"),
        (
            (
                weight.weight,
                "x".join(map(str, weight.shape)),
                weight.dtype,
                "-" if weight.axis is None else str(weight.axis),
                weight.status,
                weight.reason,
            )
            for weight in report.weights
        ),
    )
    counts = report.counts
    print(
        f"\n{counts['pruned']} weights pruned to {report.pattern}, {counts['kept']} held it already, "
        f"{counts['dense']} stay dense"
    )
    print(
        "magnitude repairs nothing, and compact networks often lose most of their accuracy to it; --calib "
        "SAMPLES rebuilds masks and values from about 100 unlabelled samples"
    )
    print(f"wrote {report.output}")


def _print_rebuilt(report: ReconstructReport) -> None:
    print_table(
        ("weight", "shape", "result", "lambda", "error dense", "magnitude", "written", "alone", "why"),
        (
            (
                weight.weight,
                "x".join(map(str, weight.shape)),
                weight.status,
                "-" if weight.ridge is None else f"{weight.ridge:g}",
                _number(weight.dense_error),
                _number(weight.magnitude_error),
                _number(weight.error),
                "-" if weight.divergence_alone is None else f"{weight.divergence_alone:.3g}",
                weight.reason,
            )
            for weight in report.weights
        ),
    )
    counts = report.counts
    print(
        f"\n{counts['pruned']} weights pruned to {report.pattern}, {counts['refitted']} refitted, "
        f"{counts['kept']} held it already, {counts['dense']} stay dense"
    )
    if report.pruned_share is not None:
        print(f"{report.pruned_share:.1%} of the work that can be pruned holds {report.pattern}")
    solved = [weight for weight in report.weights if weight.ridge is not None]
    if solved and not all(weight.held_out for weight in solved):
        print(
            "errors are those of the fitted rows: there are too few samples to hold any out; give 8 or more"
        )
    kind = "held-out" if report.outputs_held_out else "fitted"
    for output in report.outputs:
        scores = "" if output.kl is None else f", KL {output.kl:.4g}, {output.agreement:.1%} the same class"
        found = "not compared"
        if output.error is not None and output.cosine is not None:
            found = f"error {output.error:.4g} of the variance, cosine {output.cosine:.4f}{scores}"
        remark = f"; {output.remark}" if output.remark else ""
        print(f"output {output.output}: {found} ({output.samples} {kind} calibration samples){remark}")
    print(f"calibrated on {report.samples} samples of {report.source} (sha256 {report.samples_sha256[:12]})")
    print(f"wrote {report.output} in {report.seconds:.0f} s")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
