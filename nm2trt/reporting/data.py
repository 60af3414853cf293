"""Data of a report, as values: independent of the commands that found it out and of the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nm2trt.json_value import JsonValue
from nm2trt.reporting.curves import Curve
from nm2trt.reporting.lineage import LineageNode
from nm2trt.reporting.rebuilt import Rebuilt

REPORT_SCHEMA = 1
# The ladder's rungs, lowest first: key in a row's JSON, and what the table calls it.
RUNGS = {
    "pattern": "pattern",
    "fits": "shape, groups",
    "dtype": "dtype",
    "listed": "builder lists it",
    "chosen": "sparse tactic",
    "gain": "gain",
}


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage of the run.

    Args:
        name: Its name.
        stage: Its kind.
        status: "done", "failed", "running" (it was killed) or "not run".
        seconds: Wall time, or None.
        sentence: Its result in one line.
        command: The command that does the same, or "".
        lost: Whether it is done and shows a loss of accuracy.
    """

    name: str
    stage: str
    status: str
    seconds: float | None
    sentence: str
    command: str
    lost: bool = False


@dataclass(frozen=True, slots=True)
class AccuracyRow:
    """One model's score on labelled data.

    Args:
        stage: Where in the pipeline the model stands, e.g. "PyTorch", "cast", "engine", "served".
        model: Its name.
        metric: What is counted, e.g. "top-1".
        value: The score; a share if `share`.
        low: Lower end of its interval, or None.
        high: Upper end, or None.
        n: Samples, or None.
        share: Whether the score is a share, shown in percent.
        reference: What `difference` is against, or "".
        difference: Paired difference from the reference, or None.
        difference_low: Lower end of its interval, or None.
        difference_high: Upper end, or None.
        confidence: Level of the intervals.
    """

    stage: str
    model: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int | None
    share: bool = True
    reference: str = ""
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    confidence: float = 0.95

    @property
    def lost(self) -> bool:
        """Whether the comparison shows a loss: its interval, or its difference without one, is below zero."""
        if self.difference is None:
            return False
        return self.difference < 0 if self.difference_high is None else self.difference_high < 0


@dataclass(frozen=True, slots=True)
class Answer:
    """One rung of the ladder for one weight.

    Args:
        answer: "yes", "no", "unknown", "not measured", "not reached", or "" if nothing is known.
        detail: The answer in a few words.
    """

    answer: str
    detail: str


@dataclass(frozen=True, slots=True)
class WeightRow:
    """One weight: how sparse it is, and how far up the ladder it gets.

    Args:
        weight: Its name.
        operator: Operator that reads it.
        shape: Its shape.
        dtype: Its type, or "".
        status: "holds", "broken", "dense-by-plan", "not-groupable", "untraceable" or "".
        wanted: The pattern asked for, or "".
        zero_share: Share of zeros, 0..1, or None.
        parameters: Elements, or None.
        macs: Multiply-accumulates at batch 1, or None.
        rungs: Answer by the keys of `RUNGS`.
        sentence: What decided.
    """

    weight: str
    operator: str
    shape: tuple[int, ...]
    dtype: str
    status: str
    wanted: str
    zero_share: float | None
    parameters: int | None
    macs: int | None
    rungs: Mapping[str, Answer]
    sentence: str

    @property
    def planned_dense(self) -> bool:
        """Whether it is dense on purpose, which does not count as a failure."""
        return self.status == "dense-by-plan"


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Latency of one model under one set of conditions.

    Args:
        group: What was measured together: only rows of one group may be compared.
        name: The model.
        batch: Samples in a run, or None.
        percentiles: Milliseconds by percentile, e.g. {50: 1.2, 99: 1.9}.
        runs: Timed runs, or None.
        conditions: What the figures depend on.
        samples_ms: Single runs, if they were kept.
    """

    group: str
    name: str
    batch: int | None
    percentiles: Mapping[float, float]
    runs: int | None
    conditions: str
    samples_ms: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """One reason why an engine is not faster.

    Args:
        rung: Where on the ladder.
        sentence: The reason.
        weights: Number of weights it applies to; 0 for the whole engine.
        share: Their share of the work, 0..1, or None.
        remedy: What to do.
    """

    rung: str
    sentence: str
    weights: int
    share: float | None
    remedy: str


@dataclass(frozen=True, slots=True)
class SparseWork:
    """How much of the work can run sparse kernels.

    Args:
        share: Share of the multiply-accumulates, 0..1.
        place: Targets and builder, e.g. "sm80, sm86 with trt-rtx".
    """

    share: float
    place: str


@dataclass(frozen=True, slots=True)
class SpeedRow:
    """A speed-up with its interval, of an engine that can run sparse kernels.

    Args:
        name: What was timed.
        against: What it was timed against.
        speedup: Ratio of the times; above 1 is faster.
        low: Lower end of its 95 % interval.
        high: Upper end.
        device: The GPU, or "".
    """

    name: str
    against: str
    speedup: float
    low: float
    high: float
    device: str


@dataclass(frozen=True, slots=True)
class ReportData(JsonValue):
    """Everything that a report shows.

    Args:
        name: The run's name.
        created: When it began.
        stages: Its stages, in order.
        accuracy: Scores, in the order of the pipeline.
        weights: One row per weight.
        weights_of: The model that `weights` are of.
        reasons: Why an engine is not faster, as `nm2trt explain` orders them.
        latency: Latencies, by group.
        curves: What training logged.
        lineage: Artefacts, parents first.
        versions: Version by product.
        notes: What the user was told, and what is missing.
        outlook: How much can run sparse, and if nothing can, what would; "" if no stage answered.
        sparse_work: The same as a share, or None if no stage answered.
        speed: Speed-ups, only of engines that can run sparse kernels.
        files: Files that a next command names, by what they are: "model", "engine", "dense",
            "candidate", "reference", "data".
        rebuilt: Reconstructions from samples, in order.
    """

    schema = REPORT_SCHEMA
    json_names = "schema *"

    name: str
    created: str
    stages: tuple[StageRow, ...]
    accuracy: tuple[AccuracyRow, ...]
    weights: tuple[WeightRow, ...]
    weights_of: str
    reasons: tuple[ReasonRow, ...]
    latency: tuple[LatencyRow, ...]
    curves: tuple[Curve, ...]
    lineage: tuple[LineageNode, ...]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = field(default=())
    outlook: str = ""
    sparse_work: SparseWork | None = None
    speed: tuple[SpeedRow, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    rebuilt: tuple[Rebuilt, ...] = ()
