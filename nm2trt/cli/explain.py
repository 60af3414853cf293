"""`nm2trt explain`: why is my engine not faster?"""

from __future__ import annotations

from nm2trt.cli.output import print_json, print_notes, say
from nm2trt.options.engines import ExplainCommand
from nm2trt.options.field import keywords

OPTIONS = ExplainCommand

EPILOG = """examples:
  nm2trt explain model.onnx --shape x:8 --target sm86
  nm2trt explain model.engine
  nm2trt explain model.onnx --log trtexec.log --layers layers.json --trace nsys.csv

--log is a builder's verbose log (trtexec --verbose), --layers what trtexec --exportLayerInfo wrote with
--profilingVerbosity=detailed, --trace a CSV report of nsys stats or a JSON trace of torch.profiler.
"""


def run(options: ExplainCommand) -> int:
    """Collect the reasons and print them."""
    from nm2trt.pipeline.explain import explain

    found = explain(options.file, **keywords(options, "file"))
    print_notes(found.notes)
    if options.json:
        print_json(found.to_json())
        return 0
    for line in found.remarks():
        say(line, indent="   " if line.startswith("   ") else "")
    for reason in found.reasons if options.every_row else ():
        say(f"{reason.rung}, {reason.code}: {', '.join(reason.weights) or 'the whole engine'}", indent="   ")
    return 0
