"""`nm2trt verify`: one row a weight, and a gate."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nm2trt.options.command_line import add_arguments, options_from
from nm2trt.options.field import keywords
from nm2trt.options.models import VerifyCommand

if TYPE_CHECKING:
    from nm2trt.graph.verify.verify_model import FailOn, VerifyReport

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_arguments(parser, VerifyCommand)


def run(arguments: argparse.Namespace) -> int:
    """Verify, print, and return 0, or 3 when the gate fails."""
    options = options_from(arguments, VerifyCommand)
    from nm2trt.cli.output import keep_json, print_json
    from nm2trt.pipeline.verify import verify

    with keep_json(options.report, printed=options.json, sources=(options.model,)) as keep:
        report = verify(**keywords(options))
        passed = report.passed(options.fail_on)
        told = keep(_Told(report, options.fail_on, passed))
    if options.json:
        print_json(told.to_json())
    else:
        _print_report(report, options.fail_on, passed)
    return 0 if passed else 3


@dataclass(frozen=True, slots=True)
class _Told:
    """The report with the gate's answer, as JSON."""

    report: VerifyReport
    fail_on: FailOn
    passed: bool

    def to_json(self) -> dict[str, Any]:
        return {**self.report.to_json(), "fail_on": self.fail_on, "passed": self.passed}


def _print_report(report: VerifyReport, fail_on: FailOn, passed: bool) -> None:
    from nm2trt.cli.output import print_table, short_count

    print_table(
        ("weight", "consumer", "op", "shape", "dtype", "axis", "pattern", "zeros", "eligible", "why"),
        (
            (
                verdict.weight,
                verdict.consumer,
                verdict.operator,
                "x".join(map(str, verdict.shape)),
                verdict.dtype,
                "-" if verdict.axis is None else str(verdict.axis),
                f"{verdict.pattern} {verdict.wanted}".strip(),
                "-" if verdict.zero_share is None else f"{verdict.zero_share:.1%}",
                verdict.eligible,
                verdict.sentence,
            )
            for verdict in report.weights
        ),
    )
    for name in report.missing:
        print(f"planned sparse, but no consumer reads it: {name}")
    if report.islands:
        print()
        print_table(
            ("Q/DQ island", "op", "cause", "why"),
            ((item.consumer, item.operator, item.code, item.sentence) for item in report.islands),
        )
    summary = report.summary
    counts = (
        ", ".join(f"{number} {status}" for status, number in sorted(report.counts.items())) or "no weights"
    )
    print(f"\n{counts}")
    print(
        f"parameters {short_count(summary.parameters)}, left {short_count(summary.parameters_left)}; "
        f"MACs {short_count(summary.macs)}, left {short_count(summary.macs_left)}"
        + (f" (not known for {summary.macs_unknown} weights)" if summary.macs_unknown else "")
    )
    print(f"eligible: {report.outlook}")
    unseen = len(report.weights) - report.judged
    if report.blind:
        print(f"none of {len(report.weights)} weights could be judged: all are untraceable")
    elif unseen:
        print(f"{unseen} of {len(report.weights)} weights could not be judged: they are untraceable")
    failing = len(report.failures(fail_on)) + (len(report.missing) if fail_on != "none" else 0)
    failing = failing or (len(report.weights) if report.blind else 0)
    verdict = (
        "passed" if passed else f"FAILED: {failing} of {len(report.weights) + len(report.missing)} weights"
    )
    print(f"{verdict} (--fail-on {fail_on})")
