"""`nm2trt prune`: one row per weight, the verdict on the outputs, and the file that was written."""

from __future__ import annotations

from nm2trt.cli.output import print_notes, print_result, show, show_written
from nm2trt.errors import DifferenceError
from nm2trt.options.field import keywords
from nm2trt.options.pruning import PruneCommand

OPTIONS = PruneCommand

EPILOG = """examples:
  nm2trt prune model.onnx --calib inputs.npz --to int8 -o sparse.onnx
  nm2trt prune model.onnx --calib inputs.npz --share 50%   # of the work
  nm2trt prune model.onnx --calib inputs.npz --data test.npz --max-drop 0.5pt
  nm2trt prune model.onnx   # by magnitude; repairs nothing
"""


def run(options: PruneCommand) -> int:
    """Prune, print, and return 0."""
    from nm2trt.pipeline.prune import prune

    try:
        report = prune(**keywords(options))
    except DifferenceError as error:
        if error.partial is not None and not options.json:
            show(error.partial, every_row=options.every_row)
        raise
    print_notes(getattr(report, "notes", ()))
    how = {"every_row": options.every_row, "backend": options.backend, "targets": options.targets}
    known = {"samples": options.calib, "source": options.model}
    print_result(report, show_written, as_json=options.json, **known, **how)
    return 0
