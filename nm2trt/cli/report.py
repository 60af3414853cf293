"""`nm2trt report`: the folder of a run to a page."""

from __future__ import annotations

from nm2trt.options.field import keywords
from nm2trt.options.runs import ReportCommand

__all__ = ["EPILOG", "OPTIONS", "run"]

OPTIONS = ReportCommand

EPILOG = """examples:
  nm2trt report runs/resnet50 -o report.html
  nm2trt report runs/resnet50 -o report.md     # for a pull request
"""


def run(options: ReportCommand) -> int:
    """Write the report and return 0."""
    from nm2trt.cli.output import print_json, print_verdict
    from nm2trt.pipeline.report import report

    result = report(**keywords(options))
    if options.json:
        print_json(result.to_json())
    else:
        print(
            f"{result.report}  {result.size_bytes / 1e3:.0f} kB, {result.stages} stages, "
            f"{result.weights} weights"
        )
        from nm2trt.cli.run import MARKS
        from nm2trt.reporting.collect import collect
        from nm2trt.reporting.ship import ship

        verdict = ship(collect(result.run))
        print_verdict(verdict.line, verdict.next_step, MARKS[verdict.answer])
    return 0
