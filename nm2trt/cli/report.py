"""`nm2trt report`: the folder of a run to a page."""

from __future__ import annotations

from nm2trt.options.field import keywords
from nm2trt.options.runs import ReportCommand

OPTIONS = ReportCommand

EPILOG = """examples:
  nm2trt report runs/resnet50 -o report.html
  nm2trt report runs/resnet50 -o report.md     # for a pull request
  nm2trt report runs/first runs/second         # two runs side by side
"""


def run(options: ReportCommand) -> int:
    """Write the report and return 0."""
    from nm2trt.cli.output import print_json, print_verdict, say
    from nm2trt.pipeline.report import report

    result = report(**keywords(options))
    if options.json:
        print_json(result.to_json())
    else:
        for remark in result.remarks():
            say(remark)
        from nm2trt.cli.run import MARKS
        from nm2trt.reporting.collect import collect
        from nm2trt.reporting.ship import ship

        for folder in (result.run, result.beside):
            if folder is None:
                continue
            verdict = ship(collect(folder))
            line = verdict.line if result.beside is None else f"{folder}: {verdict.line}"
            print_verdict(line, verdict.next_step, MARKS[verdict.answer])
    return 0
