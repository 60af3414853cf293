"""`nm2trt gain`: which layers of a model would pay for 2:4 on one GPU."""

from __future__ import annotations

from nm2trt.cli.output import print_notes, print_result, show
from nm2trt.options.engines import GainCommand
from nm2trt.options.field import keywords

OPTIONS = GainCommand

EPILOG = """examples:
  nm2trt gain model.onnx --table rtx3090.json --shape x:8
  nm2trt gain model.onnx --table rtx3090.json --as int8 --json > gain.json   # for sparsify(gain=...)

The table is measured by benchmarks/gpu_gain.py on the GPU that the model is for.
"""


def run(options: GainCommand) -> int:
    """Look the layers up and print the answers."""
    from nm2trt.pipeline.gain import gain

    report = gain(**keywords(options))
    print_notes(report.notes)
    print_result(report, show, as_json=options.json, every_row=options.every_row)
    return 0
