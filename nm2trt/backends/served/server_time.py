"""A server's own time for requests, from the statistics of Triton."""

from __future__ import annotations

import time
from collections.abc import Callable
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
_STATISTICS_S = 2.0


def server_time(
    server: TritonServer, model: str, work: Callable[[], object], requests: int, version: str = ""
) -> ServerTime:
    """Return a server's own time per request while `work` sends requests; see `TritonSession.server_time`."""
    before = _spent(server.statistics(model, version))
    work()
    limit = time.monotonic() + _STATISTICS_S
    while True:
        # The server counts a moment after it has answered.
        spent = {key: now - before[key] for key, now in _spent(server.statistics(model, version)).items()}
        count = spent.pop("requests")
        if count >= requests or time.monotonic() > limit:
            return ServerTime(count, **{key: ns / 1e6 / max(count, 1) for key, ns in spent.items()})
        time.sleep(0.01)


def _spent(records: list[dict[str, Any]]) -> dict[str, int]:
    """Return how many requests a server answered, and nanoseconds per part of its work, for all versions."""
    try:
        every = [record.get("inference_stats", {}) for record in records]
        spent = {
            key: sum(int(one.get(part, {}).get("ns", 0)) for one in every) for key, part in _PARTS.items()
        }
        return {"requests": sum(int(one.get("success", {}).get("count", 0)) for one in every), **spent}
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        raise BackendError(
            "the server's statistics of the model are not sound; it is not a Triton server"
        ) from error
