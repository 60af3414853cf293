"""`nm2trt fuse`: what was fused, what was left and why, and how far the outputs moved."""

from __future__ import annotations

from nm2trt.cli.garbage import collect_rarely
from nm2trt.cli.output import keep_json, print_notes, print_result, show_written
from nm2trt.options.field import keywords
from nm2trt.options.models import FuseCommand

OPTIONS = FuseCommand

EPILOG = """examples:
  nm2trt fuse model.onnx -o fused.onnx
"""


def run(options: FuseCommand) -> int:
    """Fuse, print, and return 0."""
    from nm2trt.pipeline.fuse import fuse

    collect_rarely()
    with keep_json(options.report, sources=(options.model,)) as keep:
        report = keep(fuse(**keywords(options)))
    print_notes(report.notes)
    print_result(report, show_written, as_json=options.json, every_row=options.every_row)
    return 0
