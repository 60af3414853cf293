"""N:M zeros written into an ONNX file, by magnitude or rebuilt from samples."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from nm2trt.errors import InputError
from nm2trt.files import suffixed, unnamed_output
from nm2trt.nm.pattern import NMPattern
from nm2trt.options.field import options_of
from nm2trt.options.pruning import PruneCommand
from nm2trt.options.shared import BUDGET
from nm2trt.options.shares import parse_share
from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.graph.prune.report import PruneReport
    from nm2trt.graph.reconstruct.report import ReconstructReport
    from nm2trt.pipeline.accuracy_budget import Evaluation
    from nm2trt.pipeline.budget_report import BudgetReport
    from nm2trt.pipeline.joint_int8 import JointReport

# The keywords of an accuracy budget.
_BUDGET = tuple(known.name for known in options_of(PruneCommand) if known.group == BUDGET)


@takes_values(samples=("calib",), output="output")
def prune(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    calib: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike | None = None,
    valid: str | None = None,
    seed: int = 0,
    permute: bool = True,
    share: str | float = 1.0,
    dense_choice: Literal["sensitivity", "none"] | None = None,
    cache: str | os.PathLike[str] | None = None,
    to: Literal["int8"] | None = None,
    max_loss: str | float | None = None,
    data: str | os.PathLike[str] | None = None,
    max_drop: str | None = None,
    metrics: Sequence[str] = (),
    metric_options: Sequence[str] = (),
    backend: str | None = None,
    targets: str | None = None,
    gain: str | os.PathLike[str] | None = None,
    shapes: Sequence[str] = (),
    plot: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> PruneReport | ReconstructReport | BudgetReport | JointReport:
    """Make the weights of an ONNX model N:M: by magnitude, one-shot, or rebuilt from unlabelled samples.

    Args:
        model: The ONNX file; or, with an output, an `onnx.ModelProto`, or a `torch.nn.Module` with an example
            or with arrays as `calib`.
        output: The file to write; None puts `.pruned.onnx` beside the model.
        pattern: The pattern.
        include: Globs on names of weights; when given, all others stay dense.
        exclude: Globs on names of weights that stay dense.
        min_channels: Fewest input channels of a pruned weight.
        calib: Samples, as `quantize` takes them, from which masks and values are solved, layer by layer; None
            keeps the largest magnitudes and repairs nothing.
        valid: With `calib`, an input that is not 0 at real tokens, such as an attention mask.
        seed: With `calib`, the seed of the rows that are drawn.
        permute: With `calib`, permute channels first, which keeps the function and makes the pattern cheaper.
        share: With `calib`, prune at least this share of the work, "50%" or 0.5; the layers
            that move the outputs most per work stay dense.
        dense_choice: With `calib`: "sensitivity" measures how far each layer by itself moves the outputs, and
            `share` chooses by it; "none" does not. None measures if `share` needs it.
        cache: With `calib`, a folder that keeps solved layers: a run that was stopped goes on from there.
        to: With `calib`, "int8" solves masks, values and integers together, and writes the quantised model;
            None writes floats.
        max_loss: With `to`, search ranges, and layers to leave in float, until INT8 by itself changes the
            answer of at most this share of held-out samples ("2%" or 0.02).
        data: With `max_drop`, labelled samples that are not calibration samples: an `.npz` with `labels`, or
            a recipe.
        max_drop: With `calib`, the largest loss that the metric's interval may not exclude, as "1pt": several
            shares up to `share` are tried, and the one that prunes most within it is written.
        metrics: With `max_drop`, the metric, at most one; () takes top-1.
        metric_options: With `max_drop`, options of the metric, as "blank=0".
        backend: With `max_drop`, count only work that this builder can run sparse.
        targets: With `max_drop`, count only work that can run sparse on these architectures.
        gain: With `max_drop`, a gain table that says what each layer saves.
        shapes: With `gain`, one NAME:SHAPE per input, as in "x:8x3x224x224" or "x:8"; one sample by default.
        plot: With `max_drop`, a picture of the metric against the share to write.
        data_root: With `calib`, the folder that a recipe's paths are relative to; its own by default.
        allow_functions: With `calib`, run a recipe's `function` source, which is code.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is not a valid ONNX file.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
        DifferenceError: No share that was tried keeps `max_drop`; the shares are in `error.partial`, and
            nothing is written.
    """
    evaluation, loss = read_together(
        {
            "calib": calib,
            "valid": valid,
            "share": share,
            "dense_choice": dense_choice,
            "cache": cache,
            "to": to,
            "max_loss": max_loss,
            "max_drop": max_drop,
            "data": data,
            "metrics": metrics,
            "metric_options": metric_options,
            "backend": backend,
            "targets": targets,
            "gain": gain,
            "shapes": shapes,
            "plot": plot,
        }
    )
    model = as_path(model)
    target = unnamed_output(suffixed(model, ".pruned.onnx")) if output is None else Path(output)
    if calib is None:
        from nm2trt.graph.prune.prune_model import prune_model

        return prune_model(
            model, target, pattern=pattern, include=include, exclude=exclude, min_channels=min_channels
        )
    from nm2trt.graph.reconstruct.report import ReconstructOptions
    from nm2trt.pipeline.reconstruct import Calibration, reconstruct

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
    calibration = Calibration(cast("str", calib), permute, cache, data_root, allow_functions)
    if evaluation is not None:
        from nm2trt.pipeline.accuracy_budget import prune_within_budget

        return prune_within_budget(model, target, options, evaluation, calibration)
    if to is not None:
        from nm2trt.pipeline.joint_int8 import prune_to_int8

        return prune_to_int8(model, target, options, calibration, max_loss=loss)
    return reconstruct(model, target, options, calibration)


def read_together(given: Mapping[str, Any]) -> tuple[Evaluation | None, float | None]:
    """Return the budget that the keywords of `prune` ask for, and the loss of INT8, None if not asked for.

    Args:
        given: The keywords that depend on one another.

    Raises:
        InputError: They contradict one another, or one cannot be read.
    """
    evaluation = _evaluation({name: given[name] for name in _BUDGET})
    to, max_loss = given["to"], given["max_loss"]
    loss = None if max_loss is None else parse_share(max_loss, "the samples", "2%")
    if loss is not None and to is None:
        raise InputError("a float model loses nothing to INT8; give --max-loss with --to int8")
    if given["calib"] is None:
        _refuse_without_samples(evaluation, given)
    elif evaluation is not None and to is not None:
        raise InputError(
            "an accuracy budget is kept in float; leave --to out, and quantize the result with --max-loss"
        )
    else:
        _share(given["share"], given["dense_choice"])
    return evaluation, loss


def _refuse_without_samples(evaluation: Evaluation | None, given: Mapping[str, Any]) -> None:
    """Refuse what only samples can give.

    Raises:
        InputError: It was asked for.
    """
    if evaluation is not None:
        raise InputError("a budget is kept by reconstruction, which needs samples; give them with --calib")
    if given["to"] is not None:
        raise InputError("the integers are solved from samples; give them with --calib")
    if given["valid"] is not None:
        raise InputError("valid marks real tokens in samples; give the samples too, with --calib")
    if given["cache"] is not None:
        raise InputError("the cache keeps layers that are solved from samples; give them with --calib")
    if parse_share(given["share"], "the work", "50%") < 1 or given["dense_choice"] == "sensitivity":
        raise InputError(
            "a layer's sensitivity is measured on samples; give them with --calib, or keep layers dense with "
            "--exclude"
        )


def _evaluation(given: dict[str, Any]) -> Evaluation | None:
    """Return the budget's evaluation from its keywords; None if no budget was given.

    Raises:
        InputError: Half of a budget is given.
    """
    if given["max_drop"] is not None and given["data"] is not None:
        from nm2trt.pipeline.accuracy_budget import Evaluation

        return Evaluation(**given)
    named = next((name for name, value in given.items() if value), None)
    if named is None:
        return None
    flag = next(known.flag for known in options_of(PruneCommand) if known.name == named)
    raise InputError(
        f"{flag} is part of an accuracy budget; give --data EVAL and --max-drop 1pt with --calib"
    )


def _share(share: str | float, choice: str | None) -> float:
    parsed = parse_share(share, "the work", "50%")
    if parsed < 1 and choice == "none":
        raise InputError(
            f"a share of {share} needs a choice of the dense layers; leave --dense-choice none out, or name "
            "the layers with --exclude"
        )
    return parsed
