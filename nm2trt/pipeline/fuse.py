"""BatchNorms folded and branches merged in an ONNX file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import onnx
    import torch

    from nm2trt.graph.fuse.report import FuseReport


@takes_values(output="output")
def fuse(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | None = None,
    *,
    allow_broken: bool = False,
    compare: bool = True,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> FuseReport:
    """Fold BatchNorms, merge parallel convolution branches and evaluate masks in an ONNX model.

    Args:
        model: The ONNX file; or, with an output, an `onnx.ModelProto` or a `torch.nn.Module` with an example.
        output: The file to write; None puts `.fused.onnx` beside the model.
        allow_broken: Merge branches even if the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        InputError: A path is wrong, or the model is not a valid ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype.
        LineageError: A mask changed in a way that no fusion explains.
    """
    from nm2trt.files import suffixed, unnamed_output
    from nm2trt.graph.fuse.fuse_model import fuse_model

    model = as_path(model)
    return fuse_model(
        model,
        unnamed_output(suffixed(model, ".fused.onnx")) if output is None else as_path(output),
        allow_broken=allow_broken,
        compare=compare,
    )
