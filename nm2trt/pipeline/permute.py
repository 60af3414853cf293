"""Channels permuted so that N:M keeps larger weights, in an ONNX file; the function is unchanged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.graph.permute.permute_model import PermuteReport
    from nm2trt.nm.pattern import NMPattern

__all__ = ["permute"]


def permute(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    seed: int = 0,
    compare: bool = True,
) -> PermuteReport:
    """Permute the channels of an ONNX model so that N:M pruning keeps larger weights; its outputs stay.

    Args:
        model: The ONNX file, dense and in float.
        output: The file to write; None puts `.permuted.onnx` beside the model.
        pattern: The pattern that the weights will be pruned to.
        include: Globs on names of weights that will be pruned; by default all that can be.
        exclude: Globs on names of weights that will stay dense.
        min_channels: Fewest input channels of a weight that will be pruned.
        seed: Seed of the search; the same seed gives the same file.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is quantised or no sound ONNX file.
        SparsityError: No channel can move to a better place.
        DifferenceError: The outputs differ by more than another order of sums explains.
    """
    from nm2trt.graph.permute.permute_model import permute_model
    from nm2trt.graph.permute.space_search import PermuteOptions
    from nm2trt.nm.pattern import NMPattern

    return permute_model(
        model,
        Path(model).with_suffix(".permuted.onnx") if output is None else Path(output),
        PermuteOptions(NMPattern.parse(pattern), tuple(include), tuple(exclude), min_channels, seed),
        compare=compare,
    )
