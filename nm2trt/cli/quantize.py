"""`nm2trt quantize`: what stays float and why, and the file that was written."""

from __future__ import annotations

from nm2trt.cli.output import print_notes, print_result, show, show_written
from nm2trt.options.field import keywords
from nm2trt.options.precision import QuantizeCommand

OPTIONS = QuantizeCommand

EPILOG = """examples:
  nm2trt quantize sparse.onnx --calib inputs.npz
  nm2trt quantize sparse.onnx --calib inputs.npz --method entropy --max-loss 0.1%
"""


def run(options: QuantizeCommand) -> int:
    """Quantise, or run one shard; print, and return 0."""
    if options.shard is not None:
        from nm2trt.pipeline.quantize_shard import quantize_shard

        given = keywords(options, "output", "cache", "compare", "merge")
        print_result(quantize_shard(shard=options.shard, **given), show, as_json=options.json)
        return 0
    from nm2trt.pipeline.quantize import quantize

    report = quantize(**keywords(options))
    print_notes(report.notes)
    source = options.model if options.to == "int8" else None
    how = {"every_row": options.every_row, "samples": options.calib, "source": source}
    print_result(report, show_written, as_json=options.json, **how)
    return 0
