"""Report of a twin build, as values; `nm2trt.engine.twin.compare` makes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nm2trt.engine.ladder.forecast import Forecast
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.engine.ladder.ladder_table import ladder_table
from nm2trt.figures import percent, size
from nm2trt.measure import Latency
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table

_MOST_LAYERS = 10


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the three engines.

    Args:
        name: "dense", "sparse-off" or "sparse-on".
        sparsity: What was asked of the builder.
        engine: The file; "" if it was not kept.
        engine_bytes: Its size.
        engine_sha256: Its hash.
        build_ms: Wall time of the builder.
        latency: Latency of one inference by the report's clock; None if it was not measured.
    """

    name: str
    sparsity: str
    engine: str
    engine_bytes: int
    engine_sha256: str
    build_ms: float
    latency: Latency | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """One engine's speed over another's.

    Args:
        name: The engine.
        against: The other.
        speedup: Median over the blocks of the other's median over this one's.
        low: The smallest of the blocks.
        high: The largest of the blocks.
    """

    name: str
    against: str
    speedup: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether every block agrees on which is faster."""
        return self.low > 1.0 or self.high < 1.0

    @property
    def sentence(self) -> str:
        """The speed in words."""
        sure = "" if self.certain else "; the blocks disagree on which is faster"
        return (
            f"{self.name} over {self.against}: {self.speedup:.3f}x ({self.low:.3f} to {self.high:.3f}){sure}"
        )


@dataclass(frozen=True, slots=True)
class ClockReport:
    """The same engines by a second clock.

    Args:
        clock: "graph" or "host".
        time: What it measures, in words.
        latencies: Latency of one inference, by the engine's name.
        comparisons: The engines' speeds.
    """

    clock: str
    time: str
    latencies: Mapping[str, Latency]
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True, slots=True)
class LayerDelta:
    """One layer of the engine built with the flag on, against the same layer without.

    Args:
        layer: Its name in the engine.
        off_ms: Its time in `sparse-off`.
        on_ms: Its time in `sparse-on`.
    """

    layer: str
    off_ms: float
    on_ms: float

    @property
    def saved_ms(self) -> float:
        """What the flag saves; negative if it costs."""
        return self.off_ms - self.on_ms


@dataclass(frozen=True, slots=True, repr=False)
class TwinReport(Result):
    """What a twin build found.

    Args:
        model: The sparse ONNX model.
        dense_model: The dense one, or "" if the sparse one's zeros were filled in.
        backend: Name of the builder.
        backend_version: Its version.
        measured: Whether anything was timed.
        why_not: One sentence if nothing was; "" otherwise.
        device: Name of the GPU; "" without one.
        clocks_before: The GPU's clocks, power and temperature before timing; {} if not known.
        clocks_after: The same after.
        conditions: How it was timed.
        feeds: Shape by input.
        variants: The engines.
        comparisons: Their speeds, by the report's clock.
        layers: Times of layers that both engines have, by what they save; () if not measured.
        ladder: One row per weight, of `sparse-on`.
        sparse_share: Share of the eligible work that runs sparse kernels; None if it is not known.
        forecast: Which share of the work may run sparse.
        notes: What the user should know; one sentence each.
        clock: "device" (the GPU's own time, without copies) or "host" (wall time with copies); "" if nothing
            was timed.
        other_clocks: The same engines by other clocks.
    """

    model: str
    dense_model: str
    backend: str
    backend_version: str
    measured: bool
    why_not: str
    device: str
    clocks_before: Mapping[str, str]
    clocks_after: Mapping[str, str]
    conditions: Mapping[str, str]
    feeds: Mapping[str, tuple[int, ...]]
    variants: tuple[Variant, ...]
    comparisons: tuple[Comparison, ...]
    layers: tuple[LayerDelta, ...]
    ladder: tuple[LadderRow, ...]
    sparse_share: float | None
    forecast: Forecast
    notes: tuple[str, ...]
    clock: str = ""
    other_clocks: tuple[ClockReport, ...] = ()

    def tables(self) -> tuple[Table, ...]:
        """Return the ladder, the engines, and the layers by what the flag saves."""
        tables = [ladder_table(self.ladder), _engines(self.variants)]
        if self.layers:
            columns = (Column("layer", "name"), *(Column(h, "number") for h in ("off ms", "on ms", "saved")))
            rows = (
                Row((x.layer, f"{x.off_ms:.4f}", f"{x.on_ms:.4f}", f"{x.saved_ms:+.4f}"))
                for x in self.layers[:_MOST_LAYERS]
            )
            tables.append(Table(columns, tuple(rows), "layers, by what the flag saves", "layers"))
        return tuple(tables)

    def remarks(self) -> tuple[str, ...]:
        """Return the speeds, by each clock, and what was not measured."""
        lines = [self.conditions.get("time", "")] if self.measured else []
        lines += [pair.sentence for pair in self.comparisons]
        for other in self.other_clocks:
            p50 = ", ".join(f"{name} {latency.p50_ms:.3f} ms" for name, latency in other.latencies.items())
            lines += [f"{other.time}: {p50}", *(pair.sentence for pair in other.comparisons)]
        share = "not measured" if self.sparse_share is None else percent(self.sparse_share, 0)
        lines.append(f"eligible work that runs sparse kernels: {share}")
        if self.measured:
            state = ", ".join(f"{name} {value}" for name, value in self.clocks_after.items())
            lines.append(f"on {self.device or 'this machine'}{f', after: {state}' if state else ''}")
        return tuple(lines)


def _engines(variants: tuple[Variant, ...]) -> Table:
    headers = ("size", "build", "p50 ms", "p99 ms", "spread")
    columns = (Column("engine"), *(Column(header, "number", fold=True) for header in headers))
    rows = []
    for variant in variants:
        latency = variant.latency
        times: tuple[str, ...] = ("not measured",) * 3
        if latency is not None:
            times = (f"{latency.p50_ms:.3f}", f"{latency.p99_ms:.3f}", percent(latency.spread))
        made = (size(variant.engine_bytes), f"{variant.build_ms / 1e3:.1f} s")
        rows.append(Row((variant.name, *made, *times)))
    return Table(columns, tuple(rows), noun="engines")
