"""Limits on what a server may answer over HTTP: time for the whole answer, and bytes.

The client's own timeout begins anew with every piece that arrives, so a server that sends a byte now and then
would hold it for ever, and one that never ends would fill the memory.
"""

from __future__ import annotations

import time
from typing import Any

from nm2trt.errors import BackendError
from nm2trt.limits.bounds import bounds

# Of JSON: it takes up to 27 times its size in memory. Metadata of hundreds of tensors takes 100 KB.
MOST_JSON_BYTES = 1 << 26
_HEAD = "Inference-Header-Content-Length"


class AnswerLimits:
    """Limits on each answer to one client.

    Args:
        timeout_s: Longest time for a whole answer.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.begin()

    def begin(self) -> None:
        """Start with a new request."""
        self._end = time.monotonic() + self._timeout_s
        self._most = self._left = bounds().answer_bytes
        self._json_only = False

    def watch(self, client: Any) -> None:
        """Put the limits on the sockets that a tritonclient will open, and refuse packed answers."""
        stub = client._client_stub
        pool = stub._connection_pool
        connect = pool._connect_socket
        pool._connect_socket = lambda *place: _LimitedSocket(connect(*place), self)
        for name in ("get", "post"):
            setattr(stub, name, self._checked(getattr(stub, name), answers_json=name == "get"))

    def receive(self, socket: Any, count: int) -> bytes:
        """Receive bytes, within the limits.

        Raises:
            TimeoutError: The answer took too long.
            BackendError: It is too large.
        """
        wait = self._end - time.monotonic()
        if wait <= 0:
            raise TimeoutError
        socket.settimeout(wait)
        data: bytes = socket.recv(count)
        self._left -= len(data)
        if self._left < 0 and self._json_only:
            raise BackendError(
                f"the server sent more than {self._most >> 20} MB of JSON, and reading it was stopped: check "
                "that the address is a Triton server's"
            )
        if self._left < 0:
            raise BackendError(
                f"the server's answer is larger than {self._most / (1 << 30):g} GB; if it should be, raise "
                "nm2trt --answer-memory"
            )
        return data

    def _checked(self, send: Any, *, answers_json: bool) -> Any:
        """Bound the JSON of an answer, and refuse one that is compressed: it may unpack to anything."""

        def checked(*arguments: Any, **options: Any) -> Any:
            if answers_json:
                self._bound_json()
            response = send(*arguments, **options)
            if response.get("Content-Encoding") is not None:
                response.release()
                raise BackendError(
                    "the server compressed its answer, which was not asked for; nothing was read"
                )
            head = response.get(_HEAD)  # bytes of JSON before those of tensors
            if head is None:
                self._bound_json()
            elif not str(head).isdigit() or int(head) > MOST_JSON_BYTES:
                response.release()
                raise BackendError(f"the server's answer states {head} bytes of JSON; nothing was read")
            return response

        return checked

    def _bound_json(self) -> None:
        if self._most > MOST_JSON_BYTES:
            self._left -= self._most - MOST_JSON_BYTES
            self._most, self._json_only = MOST_JSON_BYTES, True


class _LimitedSocket:
    def __init__(self, socket: Any, limits: AnswerLimits) -> None:
        self._socket, self._limits = socket, limits

    def recv(self, count: int) -> bytes:
        return self._limits.receive(self._socket, count)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)
