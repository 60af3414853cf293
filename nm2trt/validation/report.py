"""Report of `nm2trt validate`, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import DifferenceError
from nm2trt.figures import counted, percent
from nm2trt.tables.result import Result
from nm2trt.tables.table import Column, Row, Table
from nm2trt.validation.comparison import Comparison, Score
from nm2trt.validation.gate import Gate, guesses, suspicions
from nm2trt.validation.latency.benchmark import Benchmark


@dataclass(frozen=True, slots=True, repr=False)
class ValidationReport(Result):
    """A candidate held against a reference.

    Args:
        candidate: The candidate's name, e.g. its path.
        reference: The reference's name.
        data: The samples' name.
        comparison: Metrics with their paired intervals, and output differences.
        benchmark: Latency of both, or None when it was not asked for.
        gates: Whether each limit was kept; () if none was given.
        bisection: Where the two graphs part, by `nm2trt.graph.execute.bisect`; None when not asked for.
    """

    json_names = "candidate reference data **comparison benchmark gates passed warnings bisection"

    candidate: str
    reference: str
    data: str
    comparison: Comparison
    benchmark: Benchmark | None = None
    gates: tuple[Gate, ...] = ()
    bisection: Mapping[str, Any] | None = None

    @property
    def passed(self) -> bool | None:
        """Whether every gate was passed; None if no gate was set."""
        return all(gate.passed for gate in self.gates) if self.gates else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """What looks wrong and no gate judges, one sentence each."""
        found = () if self.gates else suspicions(self.comparison.differences)
        return (*found, *guesses(self.comparison, self.reference))

    @property
    def verdict(self) -> str:
        """The line that says PASS, FAIL, or that no gate was set."""
        if not self.gates:
            return (
                "no gate set: differences are shown, not judged (--rtol, --atol, --min-cosine, "
                "--min-agreement, --max-drop)"
            )
        failed = sum(not gate.passed for gate in self.gates)
        count = len(self.gates)
        return f"FAIL: {failed} of {count} gates" if failed else f"PASS: {count} of {count} gates"

    def require_passed(self) -> None:
        """Raise when a gate was not passed.

        Raises:
            DifferenceError: One was not; the sentences are those of the gates.
        """
        failed = [gate.sentence for gate in self.gates if not gate.passed]
        if failed:
            raise DifferenceError("; ".join(failed))

    def tables(self) -> tuple[Table, ...]:
        """Return the task metrics of both sides, and how far each output is from the reference's."""
        scored = [metric for metric in self.comparison.metrics if not metric.against_reference]
        columns = (
            Column("metric"),
            Column("model", "name"),
            Column("score", "number"),
            Column("95 % interval"),
            Column("right", "number", fold=True),
        )
        rows = [
            Row((metric.name, name, *_score(score)))
            for metric in scored
            for name, score in ((self.candidate, metric.candidate), (self.reference, metric.reference))
        ]
        found = (
            [Table(columns, tuple(rows), f"Accuracy on {self.data}", "models", apart=True)] if rows else []
        )
        return (*found, _differences(self.comparison))

    def remarks(self) -> tuple[str, ...]:
        """Return the differences with their intervals, then the gates, and the verdict last."""
        comparison = self.comparison
        lines = [metric.sentence for metric in comparison.metrics]
        lines += [f"output {d.name}: {d.remark}" for d in comparison.differences if d.remark]
        lines += [
            f"converted for the {side}: {sentence}"
            for side, sentences in comparison.conversions.items()
            for sentence in sentences
        ]
        if self.bisection is not None:
            lines.append(str(self.bisection["sentence"]))
        lines += [f"{'pass' if gate.passed else 'FAIL'}  {gate.sentence}" for gate in self.gates]
        return (*lines, self.verdict)


def _score(score: Score) -> tuple[str, str, str]:
    right = "-" if score.right is None else str(score.right)
    return percent(score.value, 2), f"{percent(score.low, 2)} to {percent(score.high, 2)}", right


def _differences(comparison: Comparison) -> Table:
    headers = ("max |a-b|", "mean |a-b|", "max relative", "relative L2", "SQNR dB", "KL", "cosine")
    ranks = (0, 2, 0, 3, 4, 5, 0)
    numbers = (Column(header, "number", rank=rank) for header, rank in zip(headers, ranks, strict=True))
    rows = (
        Row(
            (
                d.name,
                d.dtype,
                *(f"{value:.3g}" for value in (d.max_abs, d.mean_abs, d.max_relative, d.relative_l2)),
                "-" if d.sqnr_db is None else f"{d.sqnr_db:.1f}",
                "-" if d.kl is None else f"{d.kl:.3g}",
                d.cosine_text,
            )
        )
        for d in comparison.differences
    )
    title = f"Outputs, candidate against reference, {counted(comparison.n, 'sample')}"
    return Table(
        (Column("output", "name"), Column("dtype", rank=1), *numbers),
        tuple(rows),
        title,
        "outputs",
        apart=True,
    )
