"""`nm2trt cast`: what stays in float32 and why, what rounding does, and the file that was written."""

from __future__ import annotations

from nm2trt.cli.output import print_notes, print_result, show_written
from nm2trt.options.field import keywords
from nm2trt.options.precision import CastCommand

OPTIONS = CastCommand

EPILOG = """examples:
  nm2trt cast model.onnx --calib inputs.npz
  nm2trt cast model.onnx --to bf16 --io
"""


def run(options: CastCommand) -> int:
    """Cast, print, and return 0."""
    from nm2trt.pipeline.cast import cast

    report = cast(**keywords(options))
    print_notes(report.notes)
    how = {"every_row": options.every_row, "samples": options.calib}
    print_result(report, show_written, as_json=options.json, **how)
    return 0
