"""What a twin build found, as values; `nm2trt.engine.twin.compare` finds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nm2trt.engine.ladder.forecast import Forecast
from nm2trt.engine.ladder.ladder import LadderRow
from nm2trt.measure import Latency

__all__ = ["ClockReport", "Comparison", "LayerDelta", "TwinReport", "Variant"]


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the three engines.

    Args:
        name: "dense", "sparse-off" or "sparse-on".
        sparsity: What was asked of the builder.
        engine: The file; "" where it was not kept.
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
        """What the flag saves; negative where it costs."""
        return self.off_ms - self.on_ms


@dataclass(frozen=True, slots=True)
class TwinReport:
    """What a twin build found.

    Args:
        model: The sparse ONNX model.
        dense_model: The dense one, or "" where the sparse one's zeros were filled in.
        backend: Name of the builder.
        backend_version: Its version.
        measured: Whether anything was timed.
        why_not: One sentence where nothing was; "" otherwise.
        device: Name of the GPU; "" without one.
        clocks_before: The GPU's clocks, power and temperature before timing; {} where not known.
        clocks_after: The same after.
        conditions: How it was timed.
        feeds: Shape by input.
        variants: The engines.
        comparisons: Their speeds, by the report's clock.
        layers: Times of layers that both engines have, by what they save; () where not measured.
        ladder: One row a weight, of `sparse-on`.
        sparse_share: Share of the eligible work that runs sparse kernels; None where it is not known.
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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)
