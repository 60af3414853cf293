"""`nm2trt doctor`: which backends, versions and GPUs are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_result, print_table, say, say_whole
from nm2trt.options.runs import DoctorCommand

if TYPE_CHECKING:
    from nm2trt.engine.machine import MachineReport

OPTIONS = DoctorCommand

EPILOG = """examples:
  nm2trt doctor
"""


def run(options: DoctorCommand) -> int:
    """Print what was found, and return 0 also if something is missing."""
    from nm2trt.pipeline.doctor import doctor

    print_result(doctor(), _print, as_json=options.json)
    return 0


def _print(report: MachineReport) -> None:
    for table in report.tables():
        print_table(table, every_row=True)
    say()
    for remark in report.remarks():  # not wrapped: a command to install something is copied as it stands
        say_whole(remark)
