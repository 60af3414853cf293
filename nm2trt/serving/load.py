"""A round of requests from several clients at a time, each with samples of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.triton import TritonSession
from nm2trt.errors import InputError
from nm2trt.measure import Latency

# A client's answers are kept until the round is over, so that checking them takes no time from it; beyond
# this many bytes it checks at once.
_MOST_KEPT_BYTES = 16 << 20
_MOST_BATCH = 3


@dataclass(frozen=True, slots=True)
class LoadLevel:
    """What a round came to.

    Args:
        requests: Requests that were answered.
        samples: Samples in them.
        latency: From sending to the answer, preparing and checking left out.
        requests_per_s: Throughput.
    """

    requests: int
    samples: int
    latency: Latency
    requests_per_s: float


def run_level(
    connect: Callable[[], TritonSession],
    inputs: Arrays,
    *,
    clients: int,
    requests: int = 0,
    seconds: float = 0.0,
    check: Callable[[Arrays, Array], None],
    seed: int = 0,
) -> LoadLevel:
    """Send requests from several clients at a time.

    Args:
        connect: Opens a session; called once in each client's thread.
        inputs: Samples by input name; each request takes one to three of its own choice, or the whole of a
            fixed batch.
        clients: Clients.
        requests: Requests of all clients together; 0 goes by time.
        seconds: How long to go on, where `requests` is 0.
        check: Called with each answer and the samples that were sent, one call at a time.
        seed: Another gives other choices.

    Raises:
        InputError: Neither requests nor seconds are given, or too few of the latter for one answer.
        Nm2trtError: What the first client that failed met; the others stop.
    """
    if not requests and not seconds > 0:
        raise InputError("a round needs a number of requests, or seconds to go on for")
    shared = _Round(connect, inputs, check, requests, seconds)
    threads = [
        threading.Thread(target=shared.client, args=(np.random.default_rng([seed, number]),), daemon=True)
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        shared.begin(clients)
        for thread in threads:
            thread.join()
    finally:
        shared.stop.set()
    if shared.failure is not None:
        raise shared.failure
    taken = [taken_s for taken_s, _ in shared.done]
    if not taken:
        raise InputError(f"no request was answered within {seconds:g} s; give the round longer")
    return LoadLevel(
        requests=len(taken),
        samples=sum(count for _, count in shared.done),
        latency=Latency.of(taken),
        requests_per_s=len(taken) / shared.elapsed_s,
    )


class _Round:
    """What the clients of a round share."""

    def __init__(
        self,
        connect: Callable[[], TritonSession],
        inputs: Arrays,
        check: Callable[[Arrays, Array], None],
        requests: int,
        seconds: float,
    ) -> None:
        self._connect, self._inputs, self._check = connect, inputs, check
        self._left, self._seconds = requests or None, seconds
        self._pool = len(next(iter(inputs.values())))
        self._lock = threading.Lock()
        self._connected = threading.Semaphore(0)
        self._go = threading.Event()
        self._end = self._last = 0.0
        self.stop = threading.Event()
        self.failure: BaseException | None = None
        self.done: list[tuple[float, int]] = []

    def begin(self, clients: int) -> None:
        """Let all clients start at once, when every one is connected."""
        for _ in range(clients):
            self._connected.acquire()
        self._start = time.perf_counter()
        self._end = self._start + self._seconds
        self._go.set()

    @property
    def elapsed_s(self) -> float:
        """From the start to the last answer."""
        return max(self._last - self._start, 1e-9)

    def client(self, generator: np.random.Generator) -> None:
        """Send requests until the round is over."""
        told = False
        try:
            with self._connect() as session:
                self._connected.release()
                told = True
                self._go.wait()
                self._send(session, generator)
        except BaseException as error:
            with self._lock:
                self.failure = self.failure or error
            self.stop.set()
        finally:
            if not told:
                self._connected.release()

    def _send(self, session: TritonSession, generator: np.random.Generator) -> None:
        fixed = next((spec.shape[0] for spec in session.inputs if isinstance(spec.shape[0], int)), None)
        most = min(_MOST_BATCH, session.max_batch or 1)
        kept: list[tuple[Arrays, Array]] = []
        kept_bytes = 0
        while not self.stop.is_set() and self._another():
            if isinstance(fixed, int):
                picked = generator.integers(self._pool // fixed) * fixed + np.arange(fixed)
            else:
                picked = generator.choice(self._pool, int(generator.integers(1, most + 1)), replace=False)
            feeds = {name: np.ascontiguousarray(array[picked]) for name, array in self._inputs.items()}
            start = time.perf_counter()
            answer = session.run(feeds)
            end = time.perf_counter()
            self.done.append((end - start, len(picked)))
            self._last = max(self._last, end)
            kept.append((answer, picked))
            kept_bytes += sum(array.nbytes for array in answer.values())
            if kept_bytes > _MOST_KEPT_BYTES:
                self._check_all(kept)
                kept, kept_bytes = [], 0
        # The last answer of the round stops the clock, not the checks after it.
        self._check_all(kept)

    def _another(self) -> bool:
        if self._left is None:
            return time.perf_counter() < self._end
        with self._lock:
            self._left -= 1
            return self._left >= 0

    def _check_all(self, kept: list[tuple[Arrays, Array]]) -> None:
        for answer, picked in kept:
            with self._lock:
                self._check(answer, picked)
