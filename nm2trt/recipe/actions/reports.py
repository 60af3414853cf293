"""The report."""

from __future__ import annotations

from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome

__all__ = ["report"]


def report(job: Job) -> Outcome:
    """Run `nm2trt report`."""
    from nm2trt.pipeline.report import report

    options: options_of.ReportOptions = job.options
    written = [report(job.run, format=chosen) for chosen in options.formats]
    command = ["report", str(job.run)]
    sentence = ", ".join(item.report.name for item in written)
    outputs = tuple(item.report for item in written)
    return Outcome(written[0].to_json(), command, outputs, sentence=sentence)
