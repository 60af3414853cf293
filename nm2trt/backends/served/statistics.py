"""Statistics of a Triton server: what it counted of a model, and its own time for requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nm2trt.backends._triton_server import TritonServer
from nm2trt.errors import BackendError
from nm2trt.measure import ServerTime

# Parts of a request by the name that Triton's statistics give them.
_PARTS = {
    "mean_ms": "success",
    "queue_ms": "queue",
    "input_ms": "compute_input",
    "infer_ms": "compute_infer",
    "output_ms": "compute_output",
}
_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class ServerCounts:
    """What a server counted of a model, over all versions and clients.

    Args:
        requests: Requests that it answered.
        inferences: Samples in them.
        executions: Runs of the model.
        failures: Requests that it refused.
        nanoseconds: Time by part of a request, by the names of `ServerTime`.
        executions_by_batch: Runs by batch size.
    """

    requests: int
    inferences: int
    executions: int
    failures: int
    nanoseconds: Mapping[str, int]
    executions_by_batch: Mapping[str, int]

    @classmethod
    def of(cls, server: TritonServer, model: str, version: str = "") -> ServerCounts:
        """Ask a server.

        Raises:
            BackendError: The records are not what Triton's are.
            ServerError: The server cannot be reached.
        """
        records = server.statistics(model, version)
        try:
            return cls._read(records)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise BackendError(
                "the server's statistics of the model are not sound; it is not a Triton server"
            ) from error

    @classmethod
    def _read(cls, records: list[dict[str, Any]]) -> ServerCounts:
        def total(part: str, unit: str) -> int:
            every = (record.get("inference_stats", {}) for record in records)
            return sum(int(one.get(part, {}).get(unit, 0)) for one in every)

        by_batch: Counter[str] = Counter()
        for item in (item for record in records for item in record.get("batch_stats", [])):
            by_batch[str(item.get("batch_size"))] += int(item.get("compute_infer", {}).get("count", 0))
        return cls(
            total("success", "count"),
            sum(int(record.get("inference_count", 0)) for record in records),
            sum(int(record.get("execution_count", 0)) for record in records),
            total("fail", "count"),
            {key: total(part, "ns") for key, part in _PARTS.items()},
            by_batch,
        )

    def since(self, before: ServerCounts) -> ServerCounts:
        """Return what was counted after `before`."""
        spent = {key: now - before.nanoseconds[key] for key, now in self.nanoseconds.items()}
        sizes = {*self.executions_by_batch, *before.executions_by_batch}
        now, then = self.executions_by_batch, before.executions_by_batch
        runs = {size: now.get(size, 0) - then.get(size, 0) for size in sizes}
        return ServerCounts(
            self.requests - before.requests,
            self.inferences - before.inferences,
            self.executions - before.executions,
            self.failures - before.failures,
            spent,
            {size: count for size, count in runs.items() if count},
        )


def counted_since(
    before: ServerCounts,
    server: TritonServer,
    model: str,
    version: str = "",
    *,
    requests: int = 0,
    inferences: int = 0,
) -> ServerCounts:
    """Return what a server counted after `before`; it counts a moment after it has answered.

    Args:
        before: What it had counted.
        server: The server.
        model: The model.
        version: Its version, or "" for all.
        requests: Wait until it counts as many requests, at most two seconds.
        inferences: The same of samples.
    """
    limit = time.monotonic() + _WAIT_S
    while True:
        found = ServerCounts.of(server, model, version).since(before)
        complete = found.requests >= requests and found.inferences >= inferences
        if complete or time.monotonic() > limit:
            return found
        time.sleep(0.01)


def server_time(
    server: TritonServer, model: str, work: Callable[[], object], requests: int, version: str = ""
) -> ServerTime | None:
    """Return a server's own time per request while `work` sends requests; see `TritonSession.server_time`."""
    before = ServerCounts.of(server, model, version)
    work()
    found = counted_since(before, server, model, version, requests=requests)
    if found.requests < 1 or min(found.nanoseconds.values()) < 0:
        return None
    means = {key: spent / 1e6 / found.requests for key, spent in found.nanoseconds.items()}
    return ServerTime(found.requests, **means)
