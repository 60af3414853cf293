"""Options of the commands from ONNX to ONNX: verify, fuse, permute, prune, cast, quantize; and of info."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nm2trt.options.field import option
from nm2trt.options.shared import (
    ALLOW_FUNCTIONS,
    CALIB,
    DATA_ROOT,
    MAX_LOSS,
    METHOD,
    PERCENTILE,
    Calibrated,
    Converted,
    Pruning,
    Reported,
    Tabled,
    budgeted,
    merge_option,
    output_file,
    parts_option,
    refuse_shard_and_merge,
    report_file,
    shard_option,
    target_list,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyCommand(Tabled):
    """Options of `nm2trt verify`."""

    model: str = option(flag="", help="ONNX file")
    pattern: str | None = option(
        None,
        metavar="N:M",
        help="pattern to hold (default: the plan in the file, or 2:4 without one)",
    )
    as_dtype: Literal["fp16", "bf16"] | None = option(
        None, flag="--as", help="judge floats as rounded to this type"
    )
    fail_on: Literal["broken", "ineligible", "any", "none"] = option(
        "broken",
        keyword=False,
        help="what makes the exit status 3: a broken pattern (default), also a held one that no sparse "
        "kernel is known to run, anything not held or not eligible, or nothing",
    )
    backend: Literal["trt", "trt-rtx", "ort"] | None = option(
        None, help='answer "eligible" for this builder (default: the one that nm2trt build takes here)'
    )
    targets: str | None = target_list(
        help="and for these architectures, as in sm80,sm86; yes only if all say yes (default: as build)"
    )
    external_data_root: str | None = option(
        None, metavar="DIR", stage=False, help="folder of the external data (default: the model's own)"
    )
    report: Path | None = report_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class FuseCommand(Converted):
    """Options of `nm2trt fuse`."""

    output: str | None = output_file("MODEL.fused.onnx beside the model")
    allow_broken: bool = option(
        False, help="merge branches even if the result loses the pattern that they held"
    )
    compare: bool = option(
        True, help="do not run the model before and after on random inputs in ONNX Runtime"
    )
    report: Path | None = report_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class PermuteCommand(Pruning):
    """Options of `nm2trt permute`."""

    model: str = option(flag="", help="ONNX file, dense and in float")
    output: str | None = output_file("MODEL.permuted.onnx beside the model")
    pattern: str = option(
        "2:4", metavar="N:M", help="pattern that the weights will be pruned to (default: 2:4)"
    )
    seed: int = option(0, metavar="N", at_least=0, help="seed of the search (default: 0)")
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
    seed: int = option(0, metavar="N", at_least=0, help="with --calib: seed of the rows drawn (default: 0)")
    permute: bool = option(True, help="with --calib: do not permute channels first")
    share: str = option(
        "100%",
        metavar="SHARE",
        help="with --calib: share of the work to prune, as in 50%; the layers that move the outputs most per "
        "work stay dense (default: 100%)",
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


@dataclass(frozen=True, slots=True, kw_only=True)
class CastCommand(Calibrated):
    """Options of `nm2trt cast`."""

    output: str | None = output_file("MODEL.fp16.onnx beside the model")
    to: Literal["fp16", "bf16"] = option("fp16", help="type (default: fp16)")
    keep: tuple[str, ...] = option(
        (),
        metavar="GLOB",
        help="keep nodes whose name matches, or operators of this type, in float32 too; may be repeated",
    )
    io: bool = option(False, help="cast inputs and outputs too (default: kept)")
    calib: str | None = option(
        None,
        metavar="SAMPLES",
        help="INPUTS.npz or RECIPE.yaml: run these and keep what overflows in float32",
    )
    compare: bool = option(True, help="do not compare outputs in ONNX Runtime")


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizeCommand(Calibrated):
    """Options of `nm2trt quantize`."""

    output: str | None = output_file("MODEL.int8.onnx beside the model")
    to: Literal["int8", "fp8"] = option("int8", help="number format; fp8 is E4M3FN (default: int8)")
    calib: str = option(metavar="SAMPLES", help=CALIB)
    method: Literal["minmax", "percentile", "entropy"] = option("minmax", help=METHOD)
    percentile: float = option(99.99, metavar="P", over=50, at_most=100, help=PERCENTILE)
    exclude: tuple[str, ...] = option(
        (), metavar="GLOB", help="keep layers whose node or weight matches in float; may be repeated"
    )
    float_depthwise: bool = option(
        False, help="leave depthwise convolutions, which never have sparse kernels, in float"
    )
    max_loss: str | None = option(None, metavar="PCT", help=MAX_LOSS)
    float_weights: bool = option(
        False, help="keep weights in float, followed by a Q/DQ pair, as older parsers want them"
    )
    compare: bool = option(True, help="do not compare outputs on the first batch")
    shard: str | None = shard_option()
    merge: bool = merge_option()
    parts: str | None = parts_option()

    def __post_init__(self) -> None:
        refuse_shard_and_merge(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class InfoCommand(Reported):
    """Options of `nm2trt info`."""

    file: Path = option(flag="", help="an engine or ONNX file, e.g. model.rtx")
