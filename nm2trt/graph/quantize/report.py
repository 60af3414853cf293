"""Options and report of `quantize`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from nm2trt.calibration.collectors import Method
from nm2trt.calibration.ranges import Ranges
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import InputError
from nm2trt.figures import counted
from nm2trt.graph.analysis.qdq_islands import Island, island_table
from nm2trt.graph.pass_report import PassReport
from nm2trt.graph.quantize.number_formats import FORMATS, Format
from nm2trt.graph.quantize.search_report import RangeSearch, WorkShares
from nm2trt.json_value import JsonValue
from nm2trt.nm.lineage import relation_in_words
from nm2trt.tables.table import Column, Row, Table

# Fewer samples than this are named in the report as few.
_FEW = 8


@dataclass(frozen=True, slots=True)
class QuantizeOptions:
    """How to quantise.

    Args:
        to: "int8" or "fp8" (E4M3FN).
        method: How ranges are chosen: "minmax", "percentile" or "entropy".
        percentile: Share of magnitudes inside a range, in percent, for "percentile".
        exclude: Globs on names of nodes and weights that stay float.
        float_weights: Keep weights in float, followed by a Q/DQ pair as older parsers ask for, instead of
            storing the quantised numbers.
        float_depthwise: Leave depthwise convolutions in float: they never have sparse kernels, and one scale
            for channels of very different ranges costs accuracy.
        max_loss: Search for ranges, and for layers to leave in float, until at most this share of held-out
            samples has another answer than in float (of an output without scores: until at most this share
            of its variance is lost); None searches nothing.

    Raises:
        InputError: `to` is an unknown format, or `max_loss` is out of range.
    """

    to: Literal["int8", "fp8"] = "int8"
    method: Method = "minmax"
    percentile: float = 99.99
    exclude: tuple[str, ...] = ()
    float_weights: bool = False
    float_depthwise: bool = False
    max_loss: float | None = None

    def __post_init__(self) -> None:
        if self.max_loss is not None and not 0 <= self.max_loss < 1:
            raise InputError(f"a loss of {self.max_loss:g} is out of range; write a share, as in 2% or 0.02")
        if self.to not in FORMATS:
            raise InputError(f"cannot quantise to {self.to!r}; choose {' or '.join(FORMATS)}")

    @property
    def form(self) -> Format:
        """The number format."""
        return FORMATS[self.to]


@dataclass(frozen=True, slots=True)
class QuantizedLayer(JsonValue):
    """What became of one layer.

    Args:
        layer: Its node.
        operator: The node's type.
        weight: Its weight.
        quantised: Whether it computes in the new format.
        reason: Why not, or "".
        lost: Non-zero weights that rounding made zero; those of a shared weight count once.
        parameters: Elements of its weight, counted as `lost` is.
        whole: Whether it computes so from end to end, its input and output too.
    """

    layer: str
    operator: str
    weight: str
    quantised: bool
    reason: str
    lost: int
    parameters: int
    whole: bool = False


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class QuantizeReport(PassReport):
    """What `quantize_model` did.

    Args:
        options: How.
        layers: Every layer with a weight.
        scales: Scale of each value that is quantised.
        ranges: What calibration found.
        islands: Layers that are not quantised from end to end, and why.
        differences: How far each output is from the float model's on the first calibration batch.
        not_measured: Why outputs were not compared, or "".
        work: Work by what it computes in.
        search: What was tried, if `max_loss` asked for a search.
    """

    json_names = (
        "model output options layers scales calibration=ranges islands differences not_measured notes "
        "parent_mask_sha256 mask_sha256 relation work search"
    )

    options: QuantizeOptions
    layers: tuple[QuantizedLayer, ...]
    scales: Mapping[str, float]
    ranges: Ranges
    islands: tuple[Island, ...]
    differences: tuple[OutputDifference, ...]
    not_measured: str
    work: WorkShares
    search: RangeSearch | None = None

    def tables(self) -> tuple[Table, ...]:
        """Return the layers that stay float, and those that are quantised in part."""
        left = [layer for layer in self.layers if not layer.quantised]
        names = {layer.layer for layer in left}
        part = [item for item in self.islands if item.consumer not in names]
        found = []
        if left:
            columns = (Column("left in float", "name"), Column("op"), Column("weight", "name", rank=1))
            rows = (Row((x.layer, x.operator, x.weight), "doubt", x.reason) for x in left)
            found.append(Table(columns, tuple(rows), noun="layers"))
        if part:
            found.append(island_table(part))
        return tuple(found)

    def remarks(self) -> tuple[str, ...]:
        """Return what was done, how far the outputs moved, and where the file is."""
        quantised, whole = (sum(getattr(x, key) for x in self.layers) for key in ("quantised", "whole"))
        lost, parameters = (sum(getattr(x, key) for x in self.layers) for key in ("lost", "parameters"))
        ranges, count = self.ranges, len(self.layers)
        layers = f"{quantised} of {count} layers compute in {self.options.to}, {whole} of them in and out"
        reused = f", {ranges.reused} of them from the cache" if ranges.reused else ""
        few = "; values that no sample reaches are cut off: give about 100" if ranges.samples < _FEW else ""
        return (
            f"{layers}; {counted(len(self.scales), 'value')} quantised",
            f"ranges by {ranges.method} over {counted(ranges.samples, 'sample')}{reused}{few}",
            self._searched,
            self.work.sentence(self.options.to),
            (
                f"{lost:,} of {parameters:,} weights were rounded to zero; "
                f"masks: {relation_in_words(self.relation)}"
            ),
            *(item.sentence for item in self.differences),
            *((self.not_measured,) if self.not_measured else ()),
            *self.written,
        )

    @property
    def _searched(self) -> str:
        """What a search of ranges and placement found, or what one would do."""
        if self.search is not None:
            return self.search.sentence
        return (
            "placement was not searched; with --max-loss 2% layers are left in float until at most 2% of "
            f"held-out samples get another answer in {self.options.to}"
        )
