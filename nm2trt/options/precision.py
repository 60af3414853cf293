"""Options of cast and quantize."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.errors import InputError
from nm2trt.options.field import option
from nm2trt.options.shared import (
    ALLOW_FUNCTIONS,
    BATCH,
    CALIB,
    DATA_ROOT,
    MAX_LOSS,
    METHOD,
    PERCENTILE,
    Converted,
    merge_option,
    output_file,
    parts_option,
    refuse_shard_and_merge,
    shard_option,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrated(Converted):
    """A command that may look at calibration samples."""

    batch: int | None = option(None, metavar="N", at_least=1, help=BATCH)
    cache: str | None = option(
        None,
        metavar="FILE",
        stage=False,
        help="what calibration found (default: .ranges.npz beside the output)",
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
        if self.shard is not None and self.output is not None:
            raise InputError(
                "--shard writes ranges into --parts and no model; leave -o out, and give it with --merge"
            )
