"""`nm2trt samples`: the samples that come with nm2trt, listed or copied."""

from __future__ import annotations

from nm2trt.cli.output import print_result, show
from nm2trt.options.runs import SamplesCommand

OPTIONS = SamplesCommand

EPILOG = """examples:
  nm2trt samples list
  nm2trt samples copy 01          # to samples/01_digits
"""


def run(options: SamplesCommand) -> int:
    """List or copy, and return 0."""
    from nm2trt.pipeline.samples import samples

    result = samples(options.action, options.name, options.output)
    print_result(result, show, as_json=options.json)
    return 0
