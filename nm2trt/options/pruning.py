"""Options of permute and prune, which decide the weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.options.field import LARGEST, option
from nm2trt.options.shared import (
    ALLOW_FUNCTIONS,
    DATA_ROOT,
    Converted,
    budgeted,
    output_file,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruning(Converted):
    """A command that prunes weights, or prepares them for it."""

    pattern: str = option("2:4", metavar="N:M", help="N weights of every M are kept (default: 2:4)")
    include: tuple[str, ...] = option(
        (),
        metavar="GLOB",
        help="only weights whose name matches are pruned; may be repeated (default: all that can be)",
    )
    exclude: tuple[str, ...] = option(
        (),
        metavar="GLOB",
        help="weights whose name matches stay dense; may be repeated, stronger than --include",
    )
    min_channels: int = option(
        16, metavar="N", at_least=1, help="weights with fewer input channels stay dense (default: 16)"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PermuteCommand(Pruning):
    """Options of `nm2trt permute`."""

    model: str = option(flag="", help="ONNX file, dense and in float")
    output: str | None = output_file("MODEL.permuted.onnx beside the model")
    pattern: str = option(
        "2:4", metavar="N:M", help="pattern that the weights will be pruned to (default: 2:4)"
    )
    seed: int = option(0, metavar="N", at_least=0, at_most=LARGEST, help="seed of the search (default: 0)")
    compare: bool = option(
        True, help="do not run the model before and after on random inputs in ONNX Runtime"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneCommand(Pruning):
    """Options of `nm2trt prune`."""

    output: str | None = output_file("MODEL.pruned.onnx beside the model")
    calib: str | None = option(
        None,
        metavar="SAMPLES",
        help="rebuild masks and values from unlabelled samples: INPUTS.npz with an array per input, or a "
        "RECIPE.yaml (default: keep the largest magnitudes, repair nothing)",
    )
    valid: str | None = option(
        None, metavar="INPUT", help="with --calib: the input that is not 0 at real tokens"
    )
    seed: int = option(
        0, metavar="N", at_least=0, at_most=LARGEST, help="with --calib: seed of the rows drawn (default: 0)"
    )
    permute: bool = option(True, help="with --calib: do not permute channels first")
    share: str = option(
        "100%",
        metavar="SHARE",
        help="with --calib: prune layers that hold at least this share of the work, as in 50%; those that "
        "move the outputs most per work stay dense (default: 100%)",
    )
    dense_choice: Literal["sensitivity", "none"] | None = option(
        None,
        help="with --calib: sensitivity prunes each layer alone and reports how far the outputs move "
        "(default: only if --share needs it)",
    )
    cache: str | None = option(
        None,
        metavar="DIR",
        stage=False,
        help="with --calib: folder that keeps solved layers, so that a run that was stopped goes on",
    )
    to: Literal["int8"] | None = option(
        None,
        help="with --calib: solve masks, values and integers together, on inputs rounded to INT8, and write "
        "the quantised model",
    )
    max_loss: str | None = option(
        None,
        metavar="PCT",
        help="with --to: search ranges, and leave layers in float, until INT8 by itself changes the answer "
        "of at most this share of held-out samples, as in 2%",
    )
    data: str | None = budgeted(
        None,
        metavar="FILE",
        help="labelled samples that judge, not those of --calib: .npz with inputs by their names and "
        "'labels', or a recipe (.yaml)",
    )
    max_drop: str | None = budgeted(
        None,
        metavar="DROP",
        help="write the reconstruction that prunes most, of several shares up to --share, and whose interval "
        "excludes a larger loss, as in 1pt (percentage points); exit 5 if no share does",
    )
    metrics: tuple[str, ...] = budgeted(
        (), flag="--metric", metavar="NAME", help="the task metric (default: top-1)"
    )
    metric_options: tuple[str, ...] = budgeted(
        (), flag="--metric-option", metavar="KEY=VALUE", help="an option of the metric"
    )
    backend: Literal["trt", "trt-rtx", "ort"] | None = budgeted(
        None, help="count only the work that this builder can run sparse"
    )
    targets: str | None = budgeted(
        None,
        flag="--target",
        stage="target",
        metavar="LIST",
        help="count only the work that can run sparse on these architectures, as in sm80,sm86",
    )
    gain: str | None = budgeted(
        None, metavar="TABLE", help="weigh layers by a table of benchmarks/gpu_gain.py"
    )
    shapes: tuple[str, ...] = budgeted(
        (),
        flag="--shape",
        metavar="NAME:SHAPE",
        help="with --gain: shape of an input, as in x:8x3x224x224, or x:8 for only the batch (default: one "
        "sample)",
    )
    plot: str | None = budgeted(
        None, metavar="FILE", stage=False, help="draw the metric against the share, as in a.png"
    )
    data_root: str | None = option(None, metavar="DIR", stage=False, help=DATA_ROOT)
    allow_functions: bool = option(False, stage=False, help=ALLOW_FUNCTIONS)
