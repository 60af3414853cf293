"""What `nm2trt validate` found, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.errors import DifferenceError
from nm2trt.validation.comparison import Comparison
from nm2trt.validation.gate import Gate
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
        gates: Whether a larger loss than allowed is excluded, by metric; () when none was asked for.
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
    def passed(self) -> bool:
        """Whether every gate was passed."""
        return all(gate.passed for gate in self.gates)

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
            "bisection": None if self.bisection is None else dict(self.bisection),
        }
