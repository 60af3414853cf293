"""`nm2trt permute`: how much N:M keeps in each channel space before and after, and the file written."""

from __future__ import annotations

from nm2trt.cli.output import print_notes, print_result, show_written
from nm2trt.options.field import keywords
from nm2trt.options.pruning import PermuteCommand

OPTIONS = PermuteCommand

EPILOG = """examples:
  nm2trt permute dense.onnx -o permuted.onnx && nm2trt prune permuted.onnx
"""


def run(options: PermuteCommand) -> int:
    """Permute, print, and return 0."""
    from nm2trt.pipeline.permute import permute

    report = permute(**keywords(options))
    print_notes(report.notes)
    print_result(report, show_written, as_json=options.json, every_row=options.every_row)
    return 0
