"""BatchNorms folded and branches merged in an ONNX file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.graph.fuse.fuse_model import FuseReport

__all__ = ["fuse"]


def fuse(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    allow_broken: bool = False,
    compare: bool = True,
) -> FuseReport:
    """Fold BatchNorms, merge parallel convolution branches and evaluate masks in an ONNX model.

    Args:
        model: The ONNX file.
        output: The file to write; None puts `.fused.onnx` beside the model.
        allow_broken: Merge branches even if the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.

    Raises:
        InputError: A path is wrong, or the model is not a valid ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype.
        LineageError: A mask changed in a way that no fusion explains.
    """
    from nm2trt.graph.fuse.fuse_model import fuse_model

    return fuse_model(
        model,
        Path(model).with_suffix(".fused.onnx") if output is None else Path(output),
        allow_broken=allow_broken,
        compare=compare,
    )
