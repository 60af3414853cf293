"""ONNX to ONNX, and what a file is: verify, fuse, prune, info."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError, ModelError

if TYPE_CHECKING:
    from nm2trt.engine.inspection import EngineInfo
    from nm2trt.graph.describe import OnnxInfo
    from nm2trt.graph.fuse import FuseReport
    from nm2trt.graph.prune import PruneReport
    from nm2trt.graph.verify import VerifyReport
    from nm2trt.nm.pattern import NMPattern

__all__ = ["data_files", "fuse", "info", "prune", "verify"]


def verify(
    model: str | os.PathLike[str],
    *,
    pattern: NMPattern | str | None = None,
    as_dtype: str | None = None,
    external_data_root: str | os.PathLike[str] | None = None,
) -> VerifyReport:
    """Judge every weight of an ONNX model: does it hold the pattern, and may a sparse kernel run it?

    Args:
        model: The ONNX file.
        pattern: The pattern to hold. By default each weight is held to the plan in the file, or to 2:4
            where there is none. Given, it takes the place of the plan's patterns, not of its dense layers.
        as_dtype: "fp16" or "bf16" judges what rounding floating-point weights to that type leaves.
        external_data_root: Folder below which external data is read; by default the real model's folder.

    Raises:
        InputError: The path or an argument is wrong.
        ModelError: The file is no sound ONNX model.
        PatternError: `pattern` is no N:M pattern.
    """
    from nm2trt.graph.verify import verify_model

    return verify_model(model, pattern=pattern, as_dtype=as_dtype, external_data_root=external_data_root)


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
        allow_broken: Merge branches even where the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.

    Raises:
        InputError: A path is wrong, or the model is no sound ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype.
        LineageError: A mask changed in a way that no fusion explains.
    """
    from nm2trt.graph.fuse import fuse_model

    return fuse_model(model, _beside(model, output, "fused"), allow_broken=allow_broken, compare=compare)


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
    from nm2trt.graph.prune import prune_model

    return prune_model(
        model,
        _beside(model, output, "pruned"),
        pattern=pattern,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
    )


def _beside(model: str | os.PathLike[str], output: str | os.PathLike[str] | None, what: str) -> Path:
    return Path(model).with_suffix(f".{what}.onnx") if output is None else Path(output)


def data_files(model: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the files beside an ONNX model that hold its weights; () where it holds them itself.

    Raises:
        InputError: The path is wrong.
        ModelError: The file is no sound ONNX model.
    """
    from nm2trt.graph import save
    from nm2trt.graph.model import load

    return tuple(sorted(save.data_files(load(model, leave_weights=True))))


def info(path: str | os.PathLike[str]) -> EngineInfo | OnnxInfo:
    """Say what an engine or ONNX file is, and whether an engine's manifest fits; no runtime is loaded.

    Raises:
        InputError: The file is missing, damaged, or neither.
    """
    from nm2trt.engine.inspection import inspect_engine, is_engine

    if is_engine(Path(path)):
        return inspect_engine(Path(path))
    from nm2trt.graph.describe import describe_model

    try:
        return describe_model(path)
    except ModelError as error:
        raise InputError(f"{path} is no engine of a known kind, and no model: {error}") from error
