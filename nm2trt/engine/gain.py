"""Gain of 2:4 for each layer of a model on one GPU, by a table that was measured there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from nm2trt.backends.cuda import Gpu
from nm2trt.backends.options import format_shape
from nm2trt.errors import InputError
from nm2trt.figures import counted
from nm2trt.nm.eligibility import NOWHERE, Place, can_run_sparse
from nm2trt.nm.gain_table import Estimate, GainTable
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import Eligible, WeightFacts, WeightVerdict
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table

# A layer pays from this speed-up of its own; below, the pruning costs accuracy for next to nothing.
AT_LEAST = 1.05

_TWO_OF_FOUR = NMPattern(2, 4)


@dataclass(frozen=True, slots=True)
class LayerGain:
    """What the table says of one weight.

    Args:
        weight: Its name.
        consumer: The node that reads it.
        m: Rows of its product at the shapes asked for; None if they are not known.
        n: Output channels.
        k: Products a result.
        dtype: Type that it was looked up in.
        pays: "yes", "no", or "unknown".
        speedup: That of the nearest row; None without one.
        nearest: m, n and k of the nearest row; () without one.
        factor: The largest factor by which these are off; None without one.
        macs: Multiply-accumulates of one inference; None if they are not known.
        sentence: The answer in words.
        eligible: Whether a sparse kernel may run the weight as the file has it, as `nm2trt verify` answers.
    """

    weight: str
    consumer: str
    m: int | None
    n: int
    k: int
    dtype: str
    pays: Literal["yes", "no", "unknown"]
    speedup: float | None
    nearest: tuple[int, ...]
    factor: float | None
    macs: int | None
    sentence: str
    eligible: Eligible = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class GainReport(Result):
    """What a table says of a model.

    Args:
        model: The ONNX file.
        table: The table's file.
        device: The GPU that it was measured on.
        at_least: Speed-up from which a layer pays.
        layers: One entry per weight.
        notes: What limits the answers; one sentence each.
    """

    schema = 1
    json_names = "* schema exclude"

    model: str
    table: str
    device: str
    at_least: float
    layers: tuple[LayerGain, ...]
    notes: tuple[str, ...]

    def tables(self) -> tuple[Table, ...]:
        """Return one row per weight."""
        columns = (
            Column("weight", "name"),
            Column("m x n x k"),
            Column("type", rank=1, fold=True),
            Column("nearest", "number"),
            Column("pays"),
            Column("sparse"),
        )
        rows = []
        for layer in self.layers:
            product = format_shape((layer.m, layer.n, layer.k))
            speedup = "-" if layer.speedup is None else f"{layer.speedup:.2f}x"
            cells = (layer.weight, product, layer.dtype, speedup, layer.pays, layer.eligible)
            rows.append(Row(cells, "good" if layer.pays == "yes" else "no", layer.sentence))
        return (Table(columns, tuple(rows)),)

    def remarks(self) -> tuple[str, ...]:
        """Return how many layers pay, and where."""
        paying = sum(layer.pays == "yes" for layer in self.layers)
        sentence = (
            f"{paying} of {len(self.layers)} layers pay on {self.device} (from {self.at_least:.2f}x), "
            f"{counted(len(self.exclude), 'weight does', 'weights do')} not; --json lists them under "
            "exclude, for sparsify(gain=...)"
        )
        return (sentence,)

    @property
    def exclude(self) -> tuple[str, ...]:
        """Weights that pay nowhere: what `nm2trt.sparsify(exclude=...)` may keep dense."""
        elsewhere = {layer.weight for layer in self.layers if layer.pays != "no"}
        return tuple(dict.fromkeys(layer.weight for layer in self.layers if layer.weight not in elsewhere))


def check_device(table: GainTable, asked: str | None, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Make sure that the table was measured on the GPU that the model is for.

    Args:
        table: The table.
        asked: Name or architecture of that GPU; None takes the GPUs that are here.
        gpus: The GPUs that the driver sees.

    Returns:
        What to tell the user.

    Raises:
        InputError: It was measured on another one.
    """
    wanted = [asked] if asked is not None else [name for gpu in gpus for name in (gpu.name, gpu.target)]
    if not wanted:
        return (f"no GPU is here to compare with: the table was measured on {table.device}",)
    own = {name.lower() for name in (table.device, table.target) if name}
    if own.isdisjoint(name.lower() for name in wanted):
        there = asked if asked is not None else gpus[0].name
        target = f" ({table.target})" if table.target else ""
        raise InputError(
            f"{table.where} was measured on {table.device}{target}, the model is for {there}; measure a "
            "table there with benchmarks/gpu_gain.py"
        )
    exact = table.device.lower() in {name.lower() for name in wanted}
    note = f"the table was measured on {table.device}; other GPUs of {table.target} may gain more or less"
    return () if exact else (note,)


def estimate_gain(
    verdicts: Sequence[WeightVerdict],
    table: GainTable,
    *,
    model: str,
    as_dtype: str | None = None,
    at_least: float = AT_LEAST,
    notes: Sequence[str] = (),
    place: Place = NOWHERE,
) -> GainReport:
    """Look every weight up.

    Args:
        verdicts: What `verify` found out, with the multiply-accumulates at the shapes asked for. Whether a
            weight is sparse yet does not matter.
        table: The table.
        model: The model's path, for the report.
        as_dtype: Type to look up instead of the model's own, e.g. "int8" of a model still to be quantised.
        at_least: Speed-up from which a layer pays.
        notes: Sentences to put in front.
        place: Builder that the model is for; its targets are the table's.

    Raises:
        InputError: The table has no row of that type.
    """
    if as_dtype is not None and as_dtype not in table.dtypes():
        raise InputError(f"{table.where} has no rows of {as_dtype}; it has {', '.join(table.dtypes())}")
    place = replace(place, targets=(table.target,) if table.target else ())
    layers = tuple(
        _layer(v, v.facts, table, as_dtype, at_least, place) for v in verdicts if v.facts is not None
    )
    found = list(notes)
    if "cusparselt" in table.versions and place.builder in ("trt", "trt-rtx"):
        found.append(
            "the table times PyTorch's cuSPARSELt products; TensorRT has kernels of its own, dense "
            "and sparse, so nm2trt prove decides"
        )
    far = [layer for layer in layers if layer.factor is not None and layer.pays == "unknown"]
    if far:
        found.append(
            f"{len(far)} of {len(layers)} layers are more than a factor of two from any measured product: "
            "the table says nothing about them"
        )
    return GainReport(model, table.where, table.device, at_least, layers, tuple(found))


_Answer = tuple[Literal["yes", "no", "unknown"], str]


def _layer(
    verdict: WeightVerdict,
    facts: WeightFacts,
    table: GainTable,
    as_dtype: str | None,
    at_least: float,
    place: Place,
) -> LayerGain:
    n, k = facts.outputs, facts.inputs * facts.positions
    empty = not n * k
    m = None if verdict.macs is None or empty else max(1, round(verdict.macs / (n * k)))
    dtype = as_dtype or facts.dtype
    estimate = None
    answer: _Answer | None = ("no", "it has no elements") if empty else _barred(facts, place)
    if answer is None and m is None:
        answer = ("unknown", "its work is not known; give the shapes of the inputs with --shape")
    if answer is None and m is not None:
        estimate = table.nearest(m, n, k, dtype)
        answer = _looked_up(estimate, f"{m}x{n}x{k}", dtype, table, at_least)
    pays, sentence = answer or ("unknown", "")
    row = None if estimate is None else estimate.row
    return LayerGain(
        weight=verdict.weight,
        consumer=verdict.consumer,
        m=m,
        n=n,
        k=k,
        dtype=dtype,
        pays=pays,
        speedup=None if row is None else row.speedup,
        nearest=() if row is None else (row.m, row.n, row.k),
        factor=None if estimate is None else estimate.factor,
        macs=verdict.macs,
        sentence=sentence,
        eligible=can_run_sparse(facts, place).answer,
    )


def _barred(facts: WeightFacts, place: Place) -> _Answer | None:
    """Return the answer of the rules on shape only: the pattern is to come, the type is the caller's."""
    barred = can_run_sparse(facts, place, rung="shape")
    if barred.answer == "no":
        return "no", barred.sentence
    if barred.code == "operator":
        return "unknown", f"{barred.sentence}, and the table's products are not what it computes"
    if facts.inputs % _TWO_OF_FOUR.m:
        channels = counted(facts.inputs, "input channel is", "input channels are")
        return "no", f"{channels} not a multiple of {_TWO_OF_FOUR.m}"
    return None


def _looked_up(
    estimate: Estimate | None, product: str, dtype: str, table: GainTable, at_least: float
) -> _Answer:
    if estimate is None:
        return "unknown", f"the table has no rows of {dtype}; it has {', '.join(table.dtypes())}"
    row = estimate.row
    where = f"{row.m}x{row.n}x{row.k} on {table.device}"
    if estimate.extrapolated:
        off = f"{estimate.factor:.1f} times off the nearest one, {where}"
        return "unknown", f"extrapolated: {product} is {off}"
    near = "" if estimate.factor < 1.01 else f", the nearest to {product}"
    pays: Literal["yes", "no"] = "yes" if row.speedup >= at_least else "no"
    return pays, f"{row.speedup:.2f}x in {dtype} at {where}{near}"
