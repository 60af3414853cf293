"""`nm2trt infer`: run one artefact once and save what comes out."""

from __future__ import annotations

from nm2trt.cli.output import print_result, show
from nm2trt.options.checks import InferCommand
from nm2trt.options.field import keywords

OPTIONS = InferCommand

EPILOG = """examples:
  nm2trt infer model.onnx
  nm2trt infer model.onnx --data inputs.npz -o outputs.npz
  nm2trt infer http://localhost:8000/resnet --data image.npy
"""


def run(options: InferCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.infer import infer

    print_result(infer(**keywords(options)), show, as_json=options.json, every_row=True)
    return 0
