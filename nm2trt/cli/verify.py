"""`nm2trt verify`: one row per weight, and a gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nm2trt.json_value import JsonValue
from nm2trt.options.field import keywords
from nm2trt.options.models import VerifyCommand

if TYPE_CHECKING:
    from nm2trt.graph.verify.report import FailOn, VerifyReport

OPTIONS = VerifyCommand

EPILOG = """examples:
  nm2trt verify model.onnx
  nm2trt verify model.onnx --all --target sm86   # every row
  nm2trt verify model.onnx --fail-on ineligible --report verify.json
"""


def run(options: VerifyCommand) -> int:
    """Verify, print, and return 0, or 3 when the gate fails."""
    from nm2trt.cli.output import keep_json, print_json
    from nm2trt.pipeline.verify import verify

    with keep_json(options.report, sources=(options.model,)) as keep:
        report = verify(**keywords(options))
        passed = report.passed(options.fail_on)
        told = keep(_Told(report, options.fail_on, passed))
    if options.json:
        print_json(told.to_json())
    else:
        _print(report, options, passed)
    return 0 if passed else 3


@dataclass(frozen=True, slots=True)
class _Told(JsonValue):
    """The report with the gate's answer, as JSON."""

    json_names = "**report fail_on passed"

    report: VerifyReport
    fail_on: FailOn
    passed: bool


def _print(report: VerifyReport, options: VerifyCommand, passed: bool) -> None:
    from nm2trt.cli.output import print_verdict, say, show
    from nm2trt.pipeline.next_step import next_step

    fail_on: FailOn = options.fail_on
    show(report, every_row=options.every_row)
    failing = len(report.failures(fail_on)) + (len(report.missing) if fail_on != "none" else 0)
    failing = failing or (len(report.weights) if report.blind else 0)
    gate = "passed" if passed else f"FAILED: {failing} of {len(report.weights) + len(report.missing)} weights"
    say(f"{gate} (--fail-on {fail_on})", "good" if passed else "bad")
    step = next_step(options.model, report, backend=options.backend, targets=options.targets)
    print_verdict(step.verdict, step.command, step.mark)
