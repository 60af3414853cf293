"""Two models on the same samples: task metrics with paired intervals, and how far the outputs differ."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nm2trt.backends.protocol import Session
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import DifferenceError, Nm2trtError, restated
from nm2trt.figures import percent
from nm2trt.json_value import JsonValue
from nm2trt.progress import bar
from nm2trt.validation.metrics.scoring import SampleScores, Scores
from nm2trt.validation.metrics.table import MetricSpec
from nm2trt.validation.samples.feeder import Feeder, common_batch
from nm2trt.validation.samples.samples import SampleBatch, Samples
from nm2trt.validation.statistics.bootstrap import BootstrapDifference, bootstrap_intervals
from nm2trt.validation.statistics.paired import PairedDifference, wilson_interval
from nm2trt.validation.tally import SIDES, Tally


@dataclass(frozen=True, slots=True)
class Score(JsonValue):
    """One model's score.

    Args:
        value: The metric.
        low: Lower end of its 95 % interval.
        high: Upper end.
        right: Samples that are right, if each is right or wrong; else None.
    """

    value: float
    low: float
    high: float
    right: int | None


@dataclass(frozen=True, slots=True)
class MetricComparison(JsonValue):
    """One metric of two models on the same samples.

    Args:
        name: The metric, e.g. "top-1".
        summary: What it scores.
        higher_is_better: Whether more of it is better.
        against_reference: The reference's score is then 1 by definition.
        candidate: The candidate's score.
        reference: The reference's.
        paired: Their difference, candidate minus reference, with its interval.
    """

    name: str
    summary: str
    higher_is_better: bool
    against_reference: bool
    candidate: Score
    reference: Score
    paired: PairedDifference | BootstrapDifference

    @property
    def loss(self) -> float:
        """How much worse the candidate is, in the metric's own unit; below 0 if it is better."""
        return -self.paired.difference if self.higher_is_better else self.paired.difference

    @property
    def sentence(self) -> str:
        """The difference with its interval, in words."""
        score, paired = self.candidate, self.paired
        interval = f"95 % interval {percent(score.low, 2)} to {percent(score.high, 2)}"
        if self.against_reference and self.name == "agreement":
            return f"both name the same class for {percent(score.value, 2)} of the samples ({interval})"
        if self.against_reference:
            return f"{self.name}: {percent(score.value, 4)} ({interval}): {self.summary}"
        counts = paired.method
        if isinstance(paired, PairedDifference):
            moved = f"{paired.gained:,} gained, {paired.lost:,} lost"
            counts = f"{moved}; exact McNemar p = {paired.p_value:.3g}"
        interval = (
            f"{percent(paired.confidence, 0)} interval {100 * paired.low:+.2f} to {100 * paired.high:+.2f}"
        )
        found = f"{self.name}: difference {100 * paired.difference:+.2f} points, {interval}"
        return f"{found} (paired, n = {paired.n:,}: {counts})"


@dataclass(frozen=True, slots=True)
class Comparison(JsonValue):
    """What a run over samples found.

    Args:
        n: Samples that were run.
        metrics: One per metric.
        differences: How far each output is from the reference's.
        conversions: What was converted to feed each side, by "candidate" and "reference".
        batch: Samples in a batch.
        stopped: Why the run ended before the last sample, or "".
    """

    n: int
    metrics: tuple[MetricComparison, ...]
    differences: tuple[OutputDifference, ...]
    conversions: Mapping[str, tuple[str, ...]]
    batch: int
    stopped: str = ""


def default_metrics(samples: Samples) -> tuple[str, ...]:
    """Return the metrics to take if none is named: top-1 and agreement if there are labels."""
    return ("top-1", "agreement") if "labels" in samples.truth else ()


def compare_sessions(candidate: Session, reference: Session, samples: Samples, **settings: Any) -> Comparison:
    """Run all samples through both models, one batch at a time, and compare scores and outputs.

    Args:
        candidate: The model in question.
        reference: The model it is held against; the same inputs and outputs by name.
        samples: What to run; floating inputs are converted to each model's dtype.
        **settings: The other arguments of `ComparisonJob.of`.

    Raises:
        DataError: Samples, labels or outputs do not fit.
        InputError: A metric is unknown or fails.
        DifferenceError: The outputs have other names or shapes, or are NaN.
        BackendError: A model fails.
        ServerError: A model's server is gone.
        Interrupted: The user stopped it.

    An error that comes after the first batch carries what was found so far, as `error.partial`.
    """
    job = ComparisonJob.of(candidate, reference, samples, **settings)
    tally = job.tally
    try:
        with bar("comparing", len(samples)) as shown:
            for one in samples.batches(job.batch):
                job.add(one)
                shown.update(tally.n)
        return job.found()
    except (Nm2trtError, KeyboardInterrupt) as error:
        if not tally.n:
            raise
        why = str(error) or "stopped by the user"
        raised = restated(error, f"{why}; {tally.n} of {len(samples)} samples were compared before")
        # A few samples may be too few for a metric; then only the error is given.
        with contextlib.suppress(Nm2trtError):
            raised.partial = job.found(str(raised))
        if raised is error:
            raise
        raise raised from error


@dataclass(frozen=True, slots=True, eq=False)
class ComparisonJob:
    """Two models set up to be fed the same samples, and what was added up so far.

    Args:
        feeders: By "candidate" and "reference".
        tally: Scores and differences.
        batch: Samples of a batch.
    """

    feeders: Mapping[str, Feeder]
    tally: Tally
    batch: int

    @classmethod
    def of(
        cls,
        candidate: Session,
        reference: Session,
        samples: Samples,
        *,
        metrics: Sequence[str] = (),
        options: Mapping[str, str] | None = None,
        output: str | None = None,
        batch: int | None = None,
        tolerance: tuple[float, float] | None = None,
    ) -> ComparisonJob:
        """Return a job that has run nothing; its errors are those of `compare_sessions`.

        Args:
            candidate: As `compare_sessions` takes it.
            reference: As `compare_sessions` takes it.
            samples: As `compare_sessions` takes them.
            metrics: Names in `METRICS`, or `module:function`.
            options: Options of the metrics.
            output: Output that the metrics read; by default the only one of a fitting rank.
            batch: Batch size; by default the models' own, or 64.
            tolerance: (atol, rtol): count the elements that are farther than atol + rtol * |reference|.
        """
        shared = _shared_outputs(candidate, reference, output)
        sessions = dict(zip(SIDES, (candidate, reference), strict=True))
        feeders = {side: Feeder(session, samples, what=side) for side, session in sessions.items()}
        size = common_batch(list(feeders.values()), batch, len(samples))
        return cls(feeders, Tally(sessions, metrics, options or {}, output, shared, tolerance), size)

    def add(self, batch: SampleBatch) -> None:
        """Run a batch through both models."""
        self.tally.add(batch, {side: feeder.run(batch.inputs) for side, feeder in self.feeders.items()})

    def found(self, stopped: str = "") -> Comparison:
        """Return what was added up; `stopped` says why it ends early."""
        conversions = {side: feeder.conversions for side, feeder in self.feeders.items()}
        metrics = tuple(
            _compared(name, self.tally.specs[name], *scores) for name, *scores in self.tally.scores()
        )
        n, differences = self.tally.n, self.tally.differences()
        return Comparison(n, metrics, differences, conversions, self.batch, stopped)


def _shared_outputs(candidate: Session, reference: Session, output: str | None) -> set[str]:
    """Return the outputs to compare: all, or those that both have if the metrics read one of them."""
    own, other = ({spec.name for spec in session.outputs} for session in (candidate, reference))
    if own == other or output in own & other:
        return own & other
    raise DifferenceError(
        f"the candidate's outputs are {sorted(own)}, the reference's {sorted(other)}; only equal names can "
        "be compared: name one that both have with --output"
    )


def _compared(name: str, spec: MetricSpec, candidate: Scores, reference: Scores) -> MetricComparison:
    paired: PairedDifference | BootstrapDifference
    if (
        isinstance(candidate, SampleScores)
        and isinstance(reference, SampleScores)
        and candidate.binary
        and reference.binary
    ):
        a, b = candidate.values > 0, reference.values > 0
        paired = PairedDifference.of(n=len(a), gained=int((a & ~b).sum()), lost=int((b & ~a).sum()))
        own, other = (_share(int(side.sum()), len(side)) for side in (a, b))
    else:
        intervals = bootstrap_intervals(candidate, reference)
        paired = intervals.paired
        own, other = (
            Score(one.value(), *ends, right=None)
            for one, ends in ((candidate, intervals.candidate), (reference, intervals.reference))
        )
    return MetricComparison(
        name, spec.summary, spec.higher_is_better, spec.against_reference, own, other, paired
    )


def _share(right: int, n: int) -> Score:
    return Score(right / n, *wilson_interval(right, n), right=right)
