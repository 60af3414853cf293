"""Options of the commands that build engines and judge them: build, prove, explain, gain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nm2trt.errors import InputError
from nm2trt.options.field import option, options_of
from nm2trt.options.shared import (
    ALLOW_FUNCTIONS,
    BATCH,
    CALIB,
    DATA_ROOT,
    MAX_LOSS,
    METHOD,
    PERCENTILE,
    PRECISION,
    Tabled,
    input_shapes,
    lowered,
    report_file,
    rounds,
    target_list,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BuilderCommand(Tabled):
    """Options of the builder that `nm2trt build` and `nm2trt prove` share."""

    targets: str | None = target_list(help="compute capabilities, as in sm80,sm86 (the default)")
    profiles: tuple[str, ...] = option(
        (),
        flag="--profile",
        metavar="NAME:MIN,OPT,MAX",
        help="shapes of a dynamic input, as in x:1x3x224x224,8x3x224x224,32x3x224x224, or x:1,8,32 if "
        "only the batch is dynamic; one per input, and again for a second profile; default: batches 1,8,32",
    )
    workspace: str | None = option(
        None,
        metavar="SIZE",
        help="most scratch memory for a kernel, as in 512M or 2G; default: the builder's",
    )
    shapes: tuple[str, ...] = input_shapes(
        help="fix an input to one shape, as in x:8x3x224x224, or x:8 if only the batch is dynamic"
    )
    effort: int | None = option(
        None,
        metavar="0-5",
        at_least=0,
        at_most=5,
        help="how long the builder searches; default: the builder's",
    )
    timing_cache: Path | None = option(
        None, metavar="FILE", stage=False, help="kernel timings to start from and to add to (trt)"
    )
    tf32: bool = option(True, help="do not round fp32 products to TF32")
    strict_nans: bool = option(False, help="pass NaNs through every layer; limits sparse kernels")
    plugins: tuple[Path, ...] = option(
        (), flag="--plugin", metavar="FILE.so", stage=False, help="library of operators; its code is run"
    )
    library_tactics: bool = option(True, help="let TensorRT use neither cuBLAS nor cuDNN (trt)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCommand(BuilderCommand):
    """Options of `nm2trt build`."""

    model: Path = option(flag="", help="the ONNX model")
    output: Path | None = option(
        None,
        short="-o",
        metavar="FILE",
        stage=False,
        help="the engine; default: model.rtx beside the model",
    )
    sparsity: Literal["disable", "enable", "force"] = option(
        "disable",
        joined=True,
        help="enable allows sparse kernels if weights hold 2:4, force prunes them first, by magnitude or "
        "from the samples of --calib; default: disable, and enable when no value is given",
    )
    prune_method: Literal["magnitude", "reconstruct"] | None = option(
        None,
        stage=False,
        help="how --sparsity=force prunes; default: reconstruct if --calib gives samples",
    )
    backend: Literal["trt", "trt-rtx", "ort"] | None = option(
        None, help="the builder; default: trt if TensorRT and a GPU are here, else trt-rtx, which needs none"
    )
    require_sparse: str | None = option(
        None,
        metavar="PCT",
        help="fail, with exit status 3 and no engine, if sparse kernels run less than this share of the "
        "eligible work, as in 80%, or if this machine cannot know",
    )
    precision: Literal["fp16", "bf16", "int8", "fp8"] | None = lowered(
        None, help="what the engine computes in; default: the types that the file has"
    )
    calib: str | None = lowered(None, metavar="SAMPLES", help=CALIB)
    method: Literal["minmax", "percentile", "entropy"] = lowered("minmax", help=METHOD)
    percentile: float = lowered(99.99, metavar="P", over=50, at_most=100, help=PERCENTILE)
    batch: int | None = lowered(None, metavar="N", at_least=1, help=BATCH)
    data_root: str | None = lowered(None, metavar="DIR", help=DATA_ROOT)
    allow_functions: bool = lowered(False, help=ALLOW_FUNCTIONS)
    exclude: tuple[str, ...] = lowered(
        (), metavar="GLOB", help="layers that keep the precision they have; may be repeated"
    )
    float_depthwise: bool = lowered(
        False, help="with int8 or fp8, keep depthwise convolutions, which never have sparse kernels, in float"
    )
    max_loss: str | None = lowered(None, metavar="PCT", help=MAX_LOSS)
    keep: bool = lowered(False, help="keep the ONNX file in that precision beside the engine")
    dry_run: bool = option(False, stage=False, help="check everything, build nothing, write nothing")
    report: Path | None = report_file()

    def __post_init__(self) -> None:
        """Refuse options that say how to reach a precision when none is named."""
        if self.precision is not None:
            return
        # Samples also rebuild forced weights.
        free = ("calib", "data_root", "allow_functions") if self.sparsity == "force" else ()
        for known in options_of(BuildCommand):
            given = getattr(self, known.name) != known.default
            if given and known.group == PRECISION and known.name not in ("precision", *free):
                raise InputError(f"{known.flag} says how to reach a precision; give --precision too")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProveCommand(BuilderCommand):
    """Options of `nm2trt prove`."""

    model: Path = option(flag="", help="the sparse ONNX model")
    dense: Path | None = option(
        None, metavar="FILE", help="the dense ONNX model; default: the sparse one, filled in"
    )
    output: Path | None = option(
        None,
        short="-o",
        metavar="FOLDER",
        stage=False,
        help="folder to keep the engines in; default: they are deleted",
    )
    backend: Literal["trt", "trt-rtx"] | None = option(None, help="the builder; default: as nm2trt build")
    runs: int = rounds(200, at_least=1, help="fewest timed runs (bursts) of each engine; default: 200")
    warmup: int = rounds(20, at_least=0, help="fewest runs before, not timed; default: 20")
    seconds: float = option(
        2.0,
        metavar="S",
        at_least=0,
        at_most=3600,
        help="shortest time that each engine is timed for; default: 2",
    )
    warmup_seconds: float = option(
        0.5, metavar="S", at_least=0, at_most=3600, help="shortest warm-up before; default: 0.5"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainCommand(Tabled):
    """Options of `nm2trt explain`."""

    file: Path = option(flag="", metavar="ENGINE|MODEL", help="an engine or an ONNX model")
    log: Path | None = option(None, metavar="FILE", stage=False, help="the builder's verbose log")
    layers: Path | None = option(None, metavar="FILE", stage=False, help="the engine inspector's JSON")
    trace: Path | None = option(None, metavar="FILE", stage=False, help="a profiler's list of kernels")
    version: str | None = option(
        None,
        metavar="X.Y",
        stage=False,
        help="version that wrote log and layers; default: what they say",
    )
    backend: Literal["trt", "trt-rtx", "ort"] | None = option(
        None, help="judge a model for this builder; default: as nm2trt build"
    )
    targets: str | None = target_list(help="judge a model for these, as in sm80,sm86")
    shapes: tuple[str, ...] = input_shapes(help="shape of a model's input, as in x:8")


@dataclass(frozen=True, slots=True, kw_only=True)
class GainCommand(Tabled):
    """Options of `nm2trt gain`."""

    model: Path = option(flag="", help="the ONNX model, sparse or not")
    table: Path = option(metavar="FILE", help="the gain table")
    shapes: tuple[str, ...] = input_shapes(
        help="shape of an input, as in x:8x3x224x224, or x:8 if only the batch is free; default: batch 1"
    )
    as_dtype: Literal["fp16", "bf16", "int8"] | None = option(
        None,
        flag="--as",
        help="look up this type instead of the model's own: for one that is still to be cast or quantised",
    )
    device: str | None = option(
        None,
        metavar="NAME",
        help="GPU or architecture that the model is for; default: the GPU that is here",
    )
    at_least: float | None = option(
        None, metavar="X", over=0, help="speed-up from which a layer pays; default: 1.05"
    )
    backend: Literal["trt", "trt-rtx"] | None = option(
        None, help="builder that the model is for; default: as nm2trt build"
    )
