"""`nm2trt info`: what an engine or ONNX file is, and whether an engine's manifest fits."""

from __future__ import annotations

from nm2trt.cli.output import print_json, print_table
from nm2trt.options.models import InfoCommand

OPTIONS = InfoCommand

EPILOG = """examples:
  nm2trt info model.rtx
  nm2trt info model.onnx --json
"""


def run(options: InfoCommand) -> int:
    """Print what the file is."""
    from nm2trt.pipeline.info import info

    result = info(options.file)
    if options.json:
        print_json(result.to_json())
    else:
        for table in result.tables():
            print_table(table, every_row=True)
    return 0
