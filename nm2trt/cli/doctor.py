"""`nm2trt doctor`: which backends, versions and GPUs are here."""

from __future__ import annotations

from nm2trt.cli.output import plain_table, print_json, say
from nm2trt.options.runs import DoctorCommand

__all__ = ["OPTIONS", "run"]

OPTIONS = DoctorCommand


def run(options: DoctorCommand) -> int:
    """Print what was found, and return 0 also if something is missing."""
    from nm2trt.pipeline.doctor import doctor

    report = doctor()
    if options.json:
        print_json(report.to_json())
        return 0
    rows = [(item.name, item.version or "missing", item.purpose, item.install) for item in report.backends]
    plain_table(("backend", "version", "for", "to install"), rows)
    say()
    say(report.driver)
    for gpu in report.gpus:
        say(f"{gpu.name}: {gpu.target}, {'has' if gpu.sparse else 'has no'} sparse tensor cores")
    if not report.gpus:
        say("no GPU: engines can be built ahead of time, not run or timed")
    return 0
