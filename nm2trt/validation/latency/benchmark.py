"""Latencies of models that were timed side by side, and their ratios."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.figures import percent
from nm2trt.json_value import JsonValue
from nm2trt.measure import Latency, ServerTime, WarmUp, no_speed
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table

_SERVER_MS = (
    "server ms: the server's own mean time per request, by its statistics; the rest is this client and the "
    "transport"
)


@dataclass(frozen=True, slots=True)
class Timing(JsonValue):
    """One session at one batch size.

    Args:
        name: The session, e.g. its path.
        batch: Samples in a run; None if the source does not say.
        latency: A run, from host to host; if every session has the GPU's clock, the GPU's own time.
        samples_ms: Every timed run, in order.
        source: "measured here", or who took the times.
        server: The server's own time per request, taken after the timed runs; None if no server ran them.
    """

    json_names = "name batch source per_second **latency samples_ms server"

    name: str
    batch: int | None
    latency: Latency
    samples_ms: tuple[float, ...]
    source: str = "measured here"
    server: ServerTime | None = None

    @property
    def per_second(self) -> float | None:
        """Samples a second, one run after another, at the median latency."""
        return None if self.batch is None else 1e3 * self.batch / self.latency.p50_ms


@dataclass(frozen=True, slots=True)
class Ratio(JsonValue):
    """How much longer one session takes than another.

    Args:
        name: The session.
        base: The one that it is divided by.
        batch: Samples in a run.
        p50: Ratio of the medians, over several processes their geometric mean; below 1 is faster than `base`.
        low: Lower end of its 95 % interval; None for one process, whose runs cannot tell what another finds.
        high: Upper end.
        processes: The ratio in each process; () for one.
    """

    name: str
    base: str
    batch: int | None
    p50: float
    low: float | None = None
    high: float | None = None
    processes: tuple[float, ...] = ()

    @property
    def sentence(self) -> str:
        """The ratio with its interval, in words."""
        batch = "" if self.batch is None else f", batch {self.batch}"
        found = f"{self.name} / {self.base}{batch}: p50 ratio {self.p50:.3f}"
        if self.low is None or self.high is None:
            return f"{found}; one process gives no interval: see nm2trt bench --processes 6"
        count = len(self.processes)
        return f"{found}, 95 % interval {self.low:.3f} to {self.high:.3f} over {count} processes"


@dataclass(frozen=True, slots=True, repr=False)
class Benchmark(Result):
    """Latencies taken under the same conditions.

    Args:
        timings: One per session and batch size.
        ratios: Each session over the first, at each batch size.
        warmup: Runs of each before those that were timed, and whether the medians had settled.
        conditions: What the numbers depend on and does not change in a run.
        before: Load, clocks, temperature and power before.
        after: The same, after.
        stopped: Why it ended early, or "".
        notes: What the reader should know.
    """

    timings: tuple[Timing, ...]
    ratios: tuple[Ratio, ...]
    warmup: WarmUp
    conditions: Mapping[str, str]
    before: Mapping[str, str]
    after: Mapping[str, str]
    stopped: str = ""
    notes: tuple[str, ...] = ()

    def label(self, timing: Timing) -> str:
        """Return the timing's name, with the batch if the name does not give it."""
        alike = sum(other.name == timing.name for other in self.timings)
        return timing.name if alike == 1 else f"{timing.name} (batch {timing.batch})"

    def tables(self) -> tuple[Table, ...]:
        """Return percentiles and throughput, one row per session and batch size."""
        served = ("server ms",) if any(timing.server for timing in self.timings) else ()
        headers = ("batch", "p50 ms", "p90 ms", "p95 ms", "p99 ms", *served, "spread", "samples/s", "runs")
        rows = (
            Row(
                (
                    timing.name,
                    "-" if timing.batch is None else str(timing.batch),
                    *(f"{value:.3f}" for value in (t.p50_ms, t.p90_ms, t.p95_ms, t.p99_ms)),
                    *("-" if timing.server is None else f"{timing.server.mean_ms:.3f}" for _ in served),
                    percent(t.spread),
                    "-" if timing.per_second is None else f"{timing.per_second:.1f}",
                    str(t.runs),
                )
            )
            for timing in self.timings
            for t in (timing.latency,)
        )
        # On a narrow terminal the names of served models need the room.
        ranks = {"p95 ms": 2, "p90 ms": 1, "runs": 1}
        columns = (Column("model", "name"), *(Column(h, "number", ranks.get(h, 0)) for h in headers))
        return (Table(columns, tuple(rows), "Latency", "models", apart=True),)

    def remarks(self) -> tuple[str, ...]:
        """Return the ratios, and whether the times say anything about speed on a GPU."""
        warning = no_speed(self.conditions)
        served = (_SERVER_MS,) if any(timing.server for timing in self.timings) else ()
        return (*(ratio.sentence for ratio in self.ratios), *served, *([warning] if warning else []))

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "latencies": {self.label(timing): timing.to_json() for timing in self.timings},
            "batch": {self.label(timing): timing.batch for timing in self.timings},
            "ratios": [ratio.to_json() for ratio in self.ratios],
            "warmup": {"runs": self.warmup.runs, "stable": self.warmup.stable},
            "conditions": dict(self.conditions),
            "state": {"before": dict(self.before), "after": dict(self.after)},
            "stopped": self.stopped,
            "notes": list(self.notes),
        }
