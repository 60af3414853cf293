"""The precision that an engine is to have, brought into the graph before it is built.

TensorRT 11 has no precision flags: a network computes in the types that its graph says.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.calibration.ranges import Method

__all__ = ["Lowered", "Lowering", "Precision", "lowered", "refuse_fp8"]

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
        float_depthwise: So do depthwise convolutions, where the precision is INT8 or FP8.
        batch: Samples of a batch; None leaves it to the samples.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
        keep: Keep the ONNX file that is built, and what calibration found, beside the engine.

    Raises:
        InputError: The precision is none of these, or needs samples.
    """

    precision: Precision
    calib: str | os.PathLike[str] | None = None
    method: Method = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    float_depthwise: bool = False
    batch: int | None = None
    data_root: str | os.PathLike[str] | None = None
    allow_functions: bool = False
    keep: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise InputError(f"{self.precision!r} is no precision; choose {', '.join(PRECISIONS)}")
        if self.calib is None and self.precision in ("int8", "fp8"):
            raise InputError(
                f"{self.precision} needs samples that choose its ranges: give --calib INPUTS.npz or "
                "RECIPE.yaml"
            )


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model in the precision that was asked for.

    Args:
        path: The ONNX file.
        notes: How it came about, one sentence each.
    """

    path: Path
    notes: tuple[str, ...]


@contextmanager
def lowered(source: Path, engine: Path, lowering: Lowering, *, dry_run: bool = False) -> Iterator[Lowered]:
    """Yield a copy of a model in another precision; it vanishes again, unless it is to be kept.

    Args:
        source: The float32 ONNX file.
        engine: The engine that is built from the copy.
        lowering: The precision.
        dry_run: Keep nothing, and leave the engine's folder as it is.

    Raises:
        InputError: As `nm2trt.cast` and `nm2trt.quantize`, or the engine would replace the samples.
    """
    from nm2trt.graph.fuse.fuse_model import fuse_model
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.save import is_same_file
    from nm2trt.pipeline.cast import cast as cast_file
    from nm2trt.pipeline.quantize import quantize

    if lowering.calib is not None and is_same_file(lowering.calib, engine):
        raise InputError(f"the output {engine} is the file of samples; give another path with -o")

    with tempfile.TemporaryDirectory(prefix="nm2trt-") as folder:
        place = engine.parent if lowering.keep and not dry_run else Path(folder)
        kept = Path(folder) if dry_run else engine.parent
        target = place / f"{engine.stem}.{lowering.precision}.onnx"
        if lowering.precision in ("fp16", "bf16"):
            cast = cast_file(
                source,
                target,
                to=lowering.precision,
                keep=lowering.exclude,
                calib=lowering.calib,
                batch=lowering.batch,
                data_root=lowering.data_root,
                allow_functions=lowering.allow_functions,
            )
            note = f"precision {cast.to}: {cast.cast_nodes} nodes cast, {len(cast.kept)} kept in fp32"
            yield Lowered(target, (note, *cast.notes))
            return
        if any(n.op_type == "BatchNormalization" for n in load(source, leave_weights=True).proto.graph.node):
            fused = Path(folder) / f"{source.stem}.fused.onnx"
            fuse_model(source, fused)
            source = fused
        # Beside the engine, so that an interrupted calibration can go on.
        cache = kept / f"{engine.stem}.{lowering.precision}.ranges.npz"
        found = engine.parent / cache.name
        if dry_run and found.is_file():
            shutil.copyfile(found, cache)
        report = quantize(
            source,
            target,
            cache=cache,
            calib=lowering.calib or "",
            to="int8" if lowering.precision == "int8" else "fp8",
            method=lowering.method,
            percentile=lowering.percentile,
            exclude=lowering.exclude,
            float_depthwise=lowering.float_depthwise,
            batch=lowering.batch,
            data_root=lowering.data_root,
            allow_functions=lowering.allow_functions,
        )
        if not lowering.keep:
            cache.unlink(missing_ok=True)
        layers, ranges = report.layers, report.ranges
        note = (
            f"precision {lowering.precision}: {sum(layer.quantised for layer in layers)} of {len(layers)} "
            f"layers, ranges by {ranges.method} over {ranges.samples} samples (sha256 {ranges.sha256[:12]})"
        )
        yield Lowered(target, (note, *report.notes))


def refuse_fp8(model: Path, targets: tuple[str, ...], precision: str | None) -> None:
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
