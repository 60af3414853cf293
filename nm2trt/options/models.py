"""Options of verify, fuse and info."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nm2trt.options.field import option
from nm2trt.options.shared import (
    Converted,
    Reported,
    Tabled,
    output_file,
    report_file,
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
class InfoCommand(Reported):
    """Options of `nm2trt info`."""

    file: Path = option(flag="", help="an engine or ONNX file, e.g. model.rtx")
