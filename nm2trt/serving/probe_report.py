"""Report of a probe of a served model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import DifferenceError
from nm2trt.json_value import named
from nm2trt.measure import Latency, ServerTime
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table, small_table


@dataclass(frozen=True, slots=True)
class BatchCheck:
    """The outputs of one request.

    Args:
        batch: Samples in it.
        differences: One per output.
        problem: What is wrong, or "".
    """

    batch: int
    differences: tuple[OutputDifference, ...]
    problem: str


@dataclass(frozen=True, slots=True)
class LoadCheck:
    """One round of requests from several clients at a time.

    Args:
        concurrency: Clients.
        requests: Requests that were answered.
        samples: Samples in them.
        wrong: Requests whose answer was not that of their own samples.
        problem: What is wrong with the first of them, or "".
        latency: From sending to the answer.
        requests_per_s: Throughput.
        server: The server's own time per request meanwhile, all clients' together; None if it does not tell.
    """

    concurrency: int
    requests: int
    samples: int
    wrong: int
    problem: str
    latency: Latency
    requests_per_s: float
    server: ServerTime | None


@dataclass(frozen=True, slots=True, repr=False)
class ProbeReport(Result):
    """What a probe found.

    Args:
        url: The server.
        name: The model.
        server: Name and version of the server.
        versions: Versions of the model that are loaded.
        reference: The ONNX model.
        config: Whether the configuration is the deployed one: "same", "other" or "not compared".
        lineage: Whether the masks are the reference's: "same", "other" or "unknown".
        notes: One sentence each.
        batches: Outputs by batch size.
        loads: Rounds by concurrency.
        statistics: What the server counted meanwhile.
    """

    url: str
    name: str
    server: str
    versions: tuple[str, ...]
    reference: str
    config: str
    lineage: str
    notes: tuple[str, ...]
    batches: tuple[BatchCheck, ...]
    loads: tuple[LoadCheck, ...]
    statistics: Mapping[str, Any]

    @property
    def problems(self) -> tuple[str, ...]:
        """What is wrong, one sentence each; () when the probe passed."""
        found = [f"batch {check.batch}: {check.problem}" for check in self.batches if check.problem]
        found += [
            f"{check.wrong:,} of {check.requests:,} answers to {check.concurrency} clients are wrong, the "
            f"first: {check.problem}"
            for check in self.loads
            if check.wrong
        ]
        if self.config == "other":
            found.append("the server's configuration is not the deployed one: load the model again")
        return tuple(found)

    def require_passed(self) -> None:
        """Raise when something is wrong.

        Raises:
            DifferenceError: Outputs or configuration differ.
        """
        if self.problems:
            more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
            raise DifferenceError(
                f"{self.name} at {self.url} is not what {self.reference} is: {self.problems[0]}{more}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values, and what is wrong."""
        return {**named(self, "*"), "passed": not self.problems, "problems": list(self.problems)}

    def tables(self) -> tuple[Table, ...]:
        """Return how far the served outputs are from the reference's, and what happened under load."""
        rows = []
        for check in self.batches:
            verdict = "differs" if check.problem else "agrees"
            rows += [
                (str(check.batch), d.name, d.dtype, f"{d.max_abs:.3g}", f"{d.max_relative:.3g}", verdict)
                for d in check.differences
            ] or [(str(check.batch), "-", "-", "-", "-", verdict)]
        columns = ("batch", "output", "dtype", "max |a-b|", "max relative", "verdict")
        outputs = small_table(columns, rows, "Outputs, served against ONNX Runtime")
        if not self.loads:
            return (outputs,)
        headers = ("clients", "requests", "wrong", "p50 ms", "p90 ms", "p99 ms", "requests/s", "server ms")
        loads = (
            (
                *(str(count) for count in (check.concurrency, check.requests, check.wrong)),
                *(f"{value:.2f}" for value in (t.p50_ms, t.p90_ms, t.p99_ms)),
                f"{check.requests_per_s:.0f}",
                "-" if check.server is None else f"{check.server.mean_ms:.2f}",
            )
            for check in self.loads
            for t in (check.latency,)
        )
        return outputs, small_table(headers, loads, "Under load, every request with samples of its own")

    def remarks(self) -> tuple[str, ...]:
        """Return what was compared with what, what the server counted, and the verdict."""
        counted = self.statistics
        sizes = [int(size) for size in counted["executions_by_batch"]]
        joined = f"; batches of {min(sizes)} to {max(sizes)}" if sizes else ""
        done = f"{counted['inferences']} inferences in {counted['executions']} executions"
        return (
            f"{self.name} version {', '.join(self.versions)} at {self.url} ({self.server})",
            f"reference {self.reference}; masks: {self.lineage}; configuration: {self.config}",
            *self.notes,
            f"server: {done}{joined}; {counted['failures']} failures",
            self.problems[0] if self.problems else "the served model answers like the reference",
        )
