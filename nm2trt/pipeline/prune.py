"""N:M zeros written into an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.graph.prune.prune_model import PruneReport
    from nm2trt.nm.pattern import NMPattern

__all__ = ["prune"]


def prune(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
) -> PruneReport:
    """Make the weights of an ONNX model N:M by magnitude, one-shot.

    Args:
        model: The ONNX file.
        output: The file to write; None puts `.pruned.onnx` beside the model.
        pattern: The pattern.
        include: Globs on names of weights; when given, all others stay dense.
        exclude: Globs on names of weights that stay dense.
        min_channels: Fewest input channels of a pruned weight.

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is no sound ONNX file.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.prune.prune_model import prune_model

    return prune_model(
        model,
        Path(model).with_suffix(".pruned.onnx") if output is None else Path(output),
        pattern=pattern,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
    )
