"""What `nm2trt validate` found, as one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nm2trt.backends.protocol import Session
from nm2trt.validation.accuracy import AccuracyComparison, compare_accuracy
from nm2trt.validation.bench import Benchmark, bench_sessions
from nm2trt.validation.data import LabelledSet

__all__ = ["ValidationReport", "validate_sessions"]


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """A candidate held against a reference.

    Args:
        candidate: The candidate's name, e.g. its path.
        reference: The reference's name.
        data: The samples' name.
        n: Samples.
        accuracy: Top-1 of both, the paired interval, and output differences.
        benchmark: Latency of both, or None when it was not asked for.
    """

    candidate: str
    reference: str
    data: str
    n: int
    accuracy: AccuracyComparison
    benchmark: Benchmark | None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "candidate": self.candidate,
            "reference": self.reference,
            "data": self.data,
            "n": self.n,
            "accuracy": self.accuracy.to_json(),
            "benchmark": None if self.benchmark is None else self.benchmark.to_json(),
        }


def validate_sessions(
    candidate: Session,
    reference: Session,
    data: LabelledSet,
    *,
    names: tuple[str, str, str],
    output: str | None = None,
    batch: int | None = None,
    runs: int = 200,
    warmup: int = 20,
    conditions: dict[str, str] | None = None,
) -> ValidationReport:
    """Compare accuracy, outputs and latency of two open sessions on the same samples.

    Args:
        candidate: The model in question.
        reference: The model it is held against.
        data: Labelled samples.
        names: What to call candidate, reference and data.
        output: Output of class scores; see `compare_accuracy`.
        batch: Batch size: for accuracy 64 by default, for latency 1.
        runs: Timed runs of each model; 0 leaves latency out.
        warmup: Runs of each before, not timed.
        conditions: What to add to the benchmark's conditions.

    Raises:
        DataError: The samples do not fit a model.
        DifferenceError: The models cannot be compared, or their scores are NaN.
    """
    accuracy = compare_accuracy(candidate, reference, data, output=output, batch=batch)
    benchmark = None
    if runs:
        benchmark = bench_sessions(
            {"candidate": candidate, "reference": reference},
            data,
            runs=runs,
            warmup=warmup,
            batch=batch or 1,
            conditions=conditions,
        )
    return ValidationReport(*names, len(data), accuracy, benchmark)
