"""`nm2trt probe`: does a served model answer like its reference, and how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.cli.output import print_result, print_table, print_verdict, say
from nm2trt.options.serving import ProbeCommand

if TYPE_CHECKING:
    from nm2trt.serving.probe_report import ProbeReport

OPTIONS = ProbeCommand

EPILOG = """examples:
  nm2trt probe --url localhost:8000 --name ocr --reference model.onnx --repository models
  nm2trt probe --url grpc+shm://localhost:8001 --name ocr --reference model.onnx   # tensors in shared memory
"""


def run(options: ProbeCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.probe import probe_command

    report = probe_command(options)
    print_result(report, _print, as_json=options.json)
    report.require_passed()
    return 0


def _print(report: ProbeReport) -> None:
    for table in report.tables():
        print_table(table, every_row=True)
        say()
    *lines, verdict = report.remarks()
    for line in lines:
        say(line)
    print_verdict(verdict, mark="bad" if report.problems else "good")
