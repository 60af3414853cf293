"""`nm2trt infer`: run one artefact once and save what comes out."""

from __future__ import annotations

from nm2trt.cli.output import plain_table, print_json
from nm2trt.options.checks import InferCommand
from nm2trt.options.field import keywords

__all__ = ["EPILOG", "OPTIONS", "run"]

OPTIONS = InferCommand

EPILOG = """examples:
  nm2trt infer model.onnx
  nm2trt infer model.onnx --data inputs.npz -o outputs.npz
  nm2trt infer http://localhost:8000/resnet --data image.npy
"""


def run(options: InferCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.infer import infer

    result = infer(**keywords(options))
    if options.json:
        print_json(result.to_json())
        return 0
    rows = [
        [
            tensor.name,
            tensor.dtype,
            "x".join(str(size) for size in tensor.shape),
            *("-" if value is None else f"{value:.4g}" for value in (tensor.low, tensor.high, tensor.mean)),
            str(tensor.not_finite) if tensor.not_finite else "-",
        ]
        for tensor in result.tensors
    ]
    plain_table(["output", "dtype", "shape", "min", "max", "mean", "NaN or inf"], rows)
    for sentence in result.conversions:
        print(f"converted: {sentence}")
    print(f"\n{result.output}  ({result.milliseconds:.1f} ms; inputs: {result.source})")
    return 0
