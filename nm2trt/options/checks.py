"""Options of the commands that run models: infer, validate, bench."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nm2trt.options.field import LARGEST, option
from nm2trt.options.shared import (
    Reported,
    input_shapes,
    merge_option,
    parts_option,
    refuse_shard_and_merge,
    report_file,
    rounds,
    shard_option,
)

_WHAT = "ONNX model, engine, .pt2 program, http://HOST:PORT/MODEL or grpc://..."
_THREADS = "threads of ONNX Runtime (default: its own choice)"


@dataclass(frozen=True, slots=True, kw_only=True)
class InferCommand(Reported):
    """Options of `nm2trt infer`."""

    artefact: str = option(flag="", help=_WHAT)
    output: Path | None = option(
        None,
        short="-o",
        metavar="FILE",
        help="outputs by their names (default: ARTEFACT.outputs.npz beside it)",
    )
    data: str | None = option(
        None,
        metavar="FILE",
        help=".npz, .npy, Polygraphy's .json or a recipe (default: random inputs of the declared shapes)",
    )
    batch: int | None = option(None, metavar="N", at_least=1, help="samples to draw, or to run at once")
    shapes: tuple[str, ...] = input_shapes(
        metavar="NAME:SIZES", help="whole shape of a random input, as in x:1x3x224x224"
    )
    seed: int = option(0, metavar="N", at_least=0, at_most=LARGEST, help="seed of random inputs (default: 0)")
    threads: int = option(0, metavar="N", at_least=0, at_most=1024, help=_THREADS)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidateCommand(Reported):
    """Options of `nm2trt validate`."""

    model: str = option(flag="", help=f"{_WHAT}, e.g. the sparse one")
    against: str = option(
        metavar="MODEL",
        help="what to compare with, of any of these kinds, or outputs that Polygraphy saved (.json)",
    )
    data: str = option(
        metavar="FILE",
        help=".npz with inputs by their names and 'labels', a recipe (.yaml), or Polygraphy's inputs (.json)",
    )
    metrics: tuple[str, ...] = option(
        (),
        flag="--metric",
        metavar="NAME",
        help="a task metric; may be repeated (default: top-1 and agreement if there are labels)",
    )
    metric_options: tuple[str, ...] = option(
        (), flag="--metric-option", metavar="KEY=VALUE", help="an option of a metric"
    )
    max_drop: str | None = option(
        None,
        metavar="DROP",
        help="exit 5 unless the interval excludes a larger loss, as in 0.5pt (percentage points)",
    )
    rtol: float | None = option(
        None, metavar="R", at_least=0, help="exit 5 if |a-b| > atol + R |b| anywhere (default: 0)"
    )
    atol: float | None = option(
        None, metavar="A", at_least=0, help="exit 5 if |a-b| > A + rtol |b| anywhere (default: 0)"
    )
    min_cosine: float | None = option(
        None,
        metavar="C",
        at_least=-1,
        at_most=1,
        help="exit 5 if an output's cosine is under C, or undefined",
    )
    min_agreement: float | None = option(
        None,
        metavar="SHARE",
        at_least=0,
        at_most=1,
        help="exit 5 if both name the same class for less than this share of the samples, as in 0.99",
    )
    bisect: bool = option(False, help="also name the first tensor inside that differs; both ONNX models")
    output: str | None = option(
        None, metavar="NAME", help="output that the metrics read (default: the only one of its rank)"
    )
    batch: int | None = option(
        None, metavar="N", at_least=1, help="batch size (default: 64 for metrics, 1 for latency)"
    )
    runs: int = rounds(200, at_least=0, help="timed runs of each model; 0: no timing (default: 200)")
    warmup: int = rounds(20, at_least=0, help="fewest runs before, not timed (default: 20)")
    threads: int = option(0, metavar="N", at_least=0, at_most=1024, help=_THREADS)
    data_root: str | None = option(
        None, metavar="FOLDER", stage=False, help="folder of a recipe's paths (default: its own)"
    )
    allow_functions: bool = option(False, stage=False, help="run a recipe's source of kind function")
    shard: str | None = shard_option()
    merge: bool = merge_option()
    parts: str | None = parts_option()
    report: Path | None = report_file("-o")

    def __post_init__(self) -> None:
        refuse_shard_and_merge(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchCommand(Reported):
    """Options of `nm2trt bench`."""

    artefacts: tuple[str, ...] = option(
        flag="",
        metavar="ARTEFACT",
        help="ONNX model, engine, .pt2, http://HOST:PORT/MODEL, grpc://... or trtexec's times (.json)",
    )
    data: str | None = option(
        None, metavar="FILE", help="real samples, as for validate (default: random ones)"
    )
    batches: tuple[int, ...] = option(
        (1,),
        flag="--batch",
        comma=True,
        metavar="LIST",
        at_least=1,
        help="batch sizes, as in 1,8,32 (default: 1)",
    )
    shapes: tuple[str, ...] = input_shapes(
        metavar="NAME:SIZES", help="whole shape of an input of free size, as in x:1x3x224x224"
    )
    runs: int = rounds(200, at_least=1, help="timed runs of each (default: 200)")
    warmup: int = rounds(
        20, at_least=0, help="fewest runs before, up to ten times as many until medians settle (default: 20)"
    )
    processes: int = rounds(
        1,
        at_least=1,
        help="processes that share the runs; 2 or more give each ratio an interval, 6 is a good number "
        "(default: 1)",
    )
    threads: int = option(0, metavar="N", at_least=0, at_most=1024, help=_THREADS)
    seed: int = option(
        0, metavar="N", at_least=0, at_most=LARGEST, stage=False, help="seed of random inputs (default: 0)"
    )
    compare: str | None = option(
        None, metavar="FILE", stage=False, help="JSON of an earlier benchmark, to compare with"
    )
    anyway: bool = option(False, stage=False, help="compare although the conditions differ or are not known")
    report: Path | None = report_file("-o")
