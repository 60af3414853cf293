"""N:M zeros written into an ONNX file, by magnitude or rebuilt from samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from nm2trt.errors import InputError
from nm2trt.nm.pattern import NMPattern
from nm2trt.options.shares import parse_share
from nm2trt.pipeline.in_memory import takes_values

if TYPE_CHECKING:
    import onnx

    from nm2trt.graph.prune.prune_model import PruneReport
    from nm2trt.graph.reconstruct.report import ReconstructReport

__all__ = ["prune"]


@takes_values(samples=("calib",), output="output")
def prune(
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    calib: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    valid: str | None = None,
    seed: int = 0,
    permute: bool = True,
    share: str | float = 1.0,
    dense_choice: Literal["sensitivity", "none"] | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> PruneReport | ReconstructReport:
    """Make the weights of an ONNX model N:M: by magnitude, one-shot, or rebuilt from unlabelled samples.

    Args:
        model: The ONNX file, or an `onnx.ModelProto`, which needs an output.
        output: The file to write; None puts `.pruned.onnx` beside the model.
        pattern: The pattern.
        include: Globs on names of weights; when given, all others stay dense.
        exclude: Globs on names of weights that stay dense.
        min_channels: Fewest input channels of a pruned weight.
        calib: Samples (an `.npz` of arrays by input name, or a calibration recipe) from which masks and
            values are solved, layer by layer; None keeps the largest magnitudes and repairs nothing.
        valid: With `calib`, an input that is not 0 at real tokens, such as an attention mask.
        seed: With `calib`, the seed of the rows that are drawn.
        permute: With `calib`, permute channels first, which keeps the function and makes the pattern cheaper.
        share: With `calib`, prune at least this share of the work, "50%" or 0.5; the layers
            that move the outputs most per work stay dense.
        dense_choice: With `calib`: "sensitivity" measures how far each layer alone moves the outputs, and
            `share` chooses by it; "none" does not. None measures if `share` needs it.
        cache: With `calib`, a folder that keeps solved layers: a run that was stopped goes on from there.
        data_root: With `calib`, the folder that a recipe's paths are relative to; its own by default.
        allow_functions: With `calib`, run a recipe's `function` source, which is code.

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is no sound ONNX file.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
    """
    target = Path(model).with_suffix(".pruned.onnx") if output is None else Path(output)
    if calib is not None:
        from nm2trt.graph.reconstruct.report import ReconstructOptions
        from nm2trt.pipeline.reconstruct import reconstruct

        options = ReconstructOptions(
            NMPattern.parse(pattern),
            tuple(include),
            tuple(exclude),
            min_channels,
            valid,
            seed,
            _share(share, dense_choice),
            dense_choice == "sensitivity",
        )
        return reconstruct(
            model,
            target,
            options,
            calib=cast("str", calib),
            permute=permute,
            cache=cache,
            data_root=data_root,
            allow_functions=allow_functions,
        )
    if valid is not None:
        raise InputError("valid marks real tokens in samples; give the samples too, with --calib")
    if cache is not None:
        raise InputError("the cache keeps layers that are solved from samples; give them with --calib")
    if parse_share(share, "the work", "50%") < 1 or dense_choice == "sensitivity":
        raise InputError(
            "a layer's sensitivity is measured on samples; give them with --calib, or keep layers dense with "
            "--exclude"
        )
    from nm2trt.graph.prune.prune_model import prune_model

    return prune_model(
        model, target, pattern=pattern, include=include, exclude=exclude, min_channels=min_channels
    )


def _share(share: str | float, choice: str | None) -> float:
    parsed = parse_share(share, "the work", "50%")
    if parsed < 1 and choice == "none":
        raise InputError(
            f"a share of {share} needs a choice of the dense layers; leave --dense-choice none out, or name "
            "the layers with --exclude"
        )
    return parsed
