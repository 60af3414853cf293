"""What `nm2trt validate` found, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import DifferenceError
from nm2trt.validation.comparison import Comparison
from nm2trt.validation.gate import Gate, suspicions
from nm2trt.validation.latency.bench import Benchmark

__all__ = ["ValidationReport"]


@dataclass(frozen=True, slots=True)
class ValidationReport:
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
        """What no gate judged and looks wrong, one sentence each."""
        return () if self.gates else suspicions(self.comparison.differences)

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

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "candidate": self.candidate,
            "reference": self.reference,
            "data": self.data,
            **self.comparison.to_json(),
            "benchmark": None if self.benchmark is None else self.benchmark.to_json(),
            "gates": [gate.to_json() for gate in self.gates],
            "passed": self.passed,
            "warnings": list(self.warnings),
            "bisection": None if self.bisection is None else dict(self.bisection),
        }
