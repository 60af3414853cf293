"""Options that several commands share, as base classes of their dataclasses, and the help texts of others."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from nm2trt.errors import InputError
from nm2trt.options.field import option

ALLOW_FUNCTIONS = "run a source of kind function"
BATCH = "samples of a batch (default: few)"
CALIB = "samples: INPUTS.npz with an array per input, or a RECIPE.yaml"
DATA_ROOT = "folder that the recipe's paths are relative to (default: its own)"
MAX_LOSS = (
    "search ranges, and leave layers in float, until at most this share of held-out samples changes its "
    "answer, as in 2% (of an output without scores: until this share of its variance is lost); replaces "
    "--method and --percentile"
)
_SHARDS = "several processes"
_PARTS = "folder of the shards' files (default: beside the model, with the suffix .parts)"
METHOD = "how ranges of activations are chosen (default: minmax)"
PERCENTILE = "percent of magnitudes inside a range, for --method percentile (default: 99.99)"
SERVER = "the server"
BUDGET = "accuracy budget, with --calib"
PRECISION = "precision, brought into a float32 model before it is built"

MOST_ROUNDS = 1_000_000  # of what takes time each: runs, clients, processes

# An option of a group, under the group's title.
budgeted = partial(option, group=BUDGET)
lowered = partial(option, group=PRECISION, stage=False)
served = partial(option, group="how it is served (what is left out follows from the model)")
on_server = partial(option, group=SERVER)
in_cluster = partial(
    option, group="a Kubernetes cluster (writes manifests; nothing is applied)", stage=False, keyword=False
)
# An option under the name that it bears in several commands.
target_list = partial(option, None, flag="--target", stage="target", metavar="LIST")
input_shapes = partial(option, (), flag="--shape", metavar="NAME:SHAPE")
rounds = partial(option, metavar="N", at_most=MOST_ROUNDS)
longest_wait = partial(option, flag="--timeout", metavar="S", over=0, at_most=86_400)


def bound(flag: str, metavar: str, words: str) -> Any:
    """Return the option that raises or lowers a bound."""
    return option(None, flag=flag, metavar=metavar, over=0, at_most=MOST_ROUNDS, stage=False, help=words)


def output_file(default: str) -> Any:
    """Return the option `-o` of a command that writes one file."""
    return option(None, short="-o", metavar="FILE", stage=False, help=f"file to write (default: {default})")


def report_file(short: str = "") -> Any:
    """Return the option of a command that also writes its result to a file."""
    return option(
        None,
        flag="--report",
        short=short,
        metavar="FILE",
        stage=False,
        keyword=False,
        help="write the JSON there too",
    )


def shard_option() -> Any:
    """Return the option of a command that runs one part of the samples."""
    return option(
        None,
        group=_SHARDS,
        metavar="I/N",
        stage=False,
        keyword=False,
        help="run only shard I of N, counted from 0, and write what it finds into --parts, as in 0/8",
    )


def merge_option() -> Any:
    """Return the option of a command that joins what all shards found."""
    return option(
        False,
        group=_SHARDS,
        stage=False,
        help="merge what all shards found, as if one process had run all samples",
    )


def parts_option() -> Any:
    """Return the option that names the folder of the shards' files."""
    return option(None, group=_SHARDS, metavar="DIR", stage=False, help=_PARTS)


def refuse_shard_and_merge(options: Any) -> None:
    """Raise InputError if both a shard and the merge are asked for."""
    if options.shard is not None and options.merge:
        raise InputError(
            "--shard runs one part and --merge joins all of them; run every shard first, then give --merge "
            "without --shard"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounded:
    """Flags before a command, as keywords of `nm2trt.limits.bounds.use`; docs/limits.md says more."""

    constant_gb: float | None = bound(
        "--constant-memory",
        "GB",
        "memory for constants that a model computes, beyond what it stores (default: 2)",
    )
    constant_seconds: float | None = bound(
        "--constant-time", "SECONDS", "time for constants that a model computes (default: 60)"
    )
    run_seconds: float | None = bound(
        "--run-time", "SECONDS", "time for one run of a model in ONNX Runtime (default: 600)"
    )
    run_gb: float | None = bound(
        "--run-memory",
        "GB",
        "memory for one run of a model in ONNX Runtime (default: what the machine has free)",
    )
    sample_gb: float | None = bound(
        "--sample-memory", "GB", "memory for samples, beyond four times their file (default: 2)"
    )
    answer_gb: float | None = bound("--answer-memory", "GB", "size of one answer of a server (default: 1)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reported:
    """A command that prints its result."""

    json: bool = option(False, stage=False, keyword=False, help="print the result as JSON")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tabled(Reported):
    """A command whose result has tables."""

    every_row: bool = option(
        False,
        flag="--all",
        stage=False,
        keyword=False,
        help="show every row and every reason; rows that are equal are one row otherwise",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted(Tabled):
    """A command from an ONNX file to an ONNX file."""

    model: str = option(flag="", help="ONNX file, in float")
    output: str | None = output_file("beside the model")
