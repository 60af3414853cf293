"""The precision that an engine is to have, brought into the graph before it is built.

TensorRT 11 has no precision flags: a network computes in the types that its graph says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nm2trt.errors import InputError
from nm2trt.figures import counted
from nm2trt.options.shares import parse_share
from nm2trt.pipeline.calibration_input import open_calibration, refuse_as_output, refuse_replacing

if TYPE_CHECKING:
    from nm2trt.calibration.collectors import Method
    from nm2trt.calibration.stream import SampleStream
    from nm2trt.graph.storage.model import Model
    from nm2trt.nm.eligibility import Place

Precision = Literal["fp16", "bf16", "int8", "fp8"]
PRECISIONS: tuple[Precision, ...] = ("fp16", "bf16", "int8", "fp8")
# The first architecture whose tensor cores multiply FP8.
_FIRST_FP8 = 89


@dataclass(frozen=True, slots=True)
class Lowering:
    """A precision, and how to reach it.

    Args:
        precision: "fp16", "bf16", "int8" or "fp8".
        calib: Samples (an `.npz` of arrays by input name, or a calibration recipe): INT8 and FP8 choose their
            ranges from them, fp16 and bf16 keep in float32 what overflows on them.
        method: How ranges are chosen; see `nm2trt.quantize`.
        percentile: Share of magnitudes inside a range, in percent, for "percentile".
        exclude: Globs on layers that keep the precision that they have.
        float_depthwise: Depthwise convolutions keep it too, if the precision is INT8 or FP8.
        max_loss: Search ranges and layers to leave in float; see `nm2trt.quantize`. INT8 and FP8 only.
        batch: Samples of a batch; None leaves it to the samples.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        keep: Keep the ONNX file that is built, and what calibration found, beside the engine.

    Raises:
        InputError: The precision is unknown, or needs samples.
    """

    precision: Precision
    calib: str | os.PathLike[str] | None = None
    method: Method = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    float_depthwise: bool = False
    max_loss: str | float | None = None
    batch: int | None = None
    data_root: str | os.PathLike[str] | None = None
    allow_functions: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"{self.precision!r} is not a precision; choose {', '.join(PRECISIONS)}")
        if self.calib is None and self.precision in ("int8", "fp8"):
            raise InputError(
                f"{self.precision} needs samples that choose its ranges: give --calib INPUTS.npz or "
                "RECIPE.yaml"
            )


def lower(
    model: Model, engine: Path, lowering: Lowering, *, place: Place | None = None, dry_run: bool = False
) -> tuple[str, ...]:
    """Bring an open model into another precision, in memory.

    Args:
        model: The float32 model, which is changed.
        engine: The engine that is built from it.
        lowering: The precision.
        place: Builder and targets of the engine, for which work is counted; None takes the default builder.
        dry_run: Keep nothing, and leave the engine's folder as it is.

    Returns:
        How it came about, one sentence each.

    Raises:
        InputError: As `nm2trt.cast` and `nm2trt.quantize`, or the engine would replace the samples.
    """
    from nm2trt.graph.cast.cast_model import cast_model

    if lowering.calib is not None:
        refuse_as_output(engine, lowering.calib)
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as folder:
        # Beside the engine, so that an interrupted calibration can go on.
        found = engine.parent / f"{engine.stem}.{lowering.precision}.ranges.npz"
        cache = Path(folder) / found.name if dry_run else found
        if dry_run and found.is_file():
            shutil.copyfile(found, cache)
        samples = None
        if lowering.calib is not None:
            if model.path is not None:
                refuse_replacing(model.path, engine, cache, lowering.calib)
            samples = open_calibration(
                lowering.calib,
                lowering.batch,
                lowering.data_root,
                allow_functions=lowering.allow_functions,
                model=model,
            )
        if samples is not None and lowering.precision in ("int8", "fp8"):
            notes = _quantised(model, samples, lowering, cache, place)
        else:
            report = cast_model(
                model, None, to=lowering.precision, keep=lowering.exclude, samples=samples, cache=cache
            )
            cast = f"{counted(report.cast_nodes, 'node')} cast, {len(report.kept):,} kept in fp32"
            notes = (f"precision {report.to}: {cast}", *report.notes)
        if not lowering.keep:
            cache.unlink(missing_ok=True)
        return notes


def _quantised(
    model: Model, samples: SampleStream, lowering: Lowering, cache: Path, place: Place | None
) -> tuple[str, ...]:
    from nm2trt.graph.fuse.fuse_model import fuse_model
    from nm2trt.graph.quantize.quantize_model import quantize_model
    from nm2trt.graph.quantize.report import QuantizeOptions

    if any(node.op_type == "BatchNormalization" for node in model.proto.graph.node):
        fuse_model(model, None)
    options = QuantizeOptions(
        "int8" if lowering.precision == "int8" else "fp8",
        lowering.method,
        lowering.percentile,
        lowering.exclude,
        float_depthwise=lowering.float_depthwise,
        max_loss=None if lowering.max_loss is None else parse_share(lowering.max_loss, "the samples", "2%"),
    )
    report = quantize_model(model, None, samples, options, cache=cache, place=place)
    layers, ranges = report.layers, report.ranges
    note = (
        f"precision {lowering.precision}: {sum(layer.quantised for layer in layers)} of {len(layers)} "
        f"layers, ranges by {ranges.method} over {counted(ranges.samples, 'sample')} (sha256 "
        f"{ranges.sha256[:12]})"
    )
    search = () if report.search is None else (report.search.sentence,)
    return (note, *search, report.work.sentence(lowering.precision), *report.notes)


def refuse_fp8(model: Model, targets: tuple[str, ...], precision: str | None) -> None:
    """Raise when FP8 is asked for, by option or in the file, of an architecture that cannot multiply it.

    Raises:
        InputError: A target is older than sm89.
    """
    from nm2trt.graph.storage.model_info import stores_fp8

    old = [target for target in targets if int(target[2:]) < _FIRST_FP8]
    if old and (precision == "fp8" or stores_fp8(model)):
        raise InputError(
            f"{', '.join(old)} cannot run fp8: tensor cores multiply it from sm{_FIRST_FP8} (Ada) on; build "
            f"with --target sm{_FIRST_FP8}, or use int8, which Ampere's sparse kernels are for"
        )
