"""A tritonserver that runs: the states of its models, and its end, by its pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from nm2trt.errors import BackendError

_LONGEST_INDEX = 1 << 22
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Linux keeps shared memory, not a temporary file


@dataclass(frozen=True, slots=True)
class ModelState:
    """What a server says of one version of a model.

    Args:
        name: The model's name.
        version: Its version; "" if none was loaded.
        state: "READY", "UNAVAILABLE", "LOADING", ..., or "" for a model that nobody asked for.
        reason: Why it is not ready, or "".
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(slots=True)
class RunningServer:
    """A server that is ready; stop it, or use it as a context manager.

    Args:
        repository: Its model repository.
        http: HOST:PORT of HTTP.
        grpc: HOST:PORT of gRPC.
        metrics: HOST:PORT of the metrics.
        process: The process.
    """

    repository: Path
    http: str
    grpc: str
    metrics: str
    process: subprocess.Popen[bytes]
    _exit_timeout_s: int = 10
    _identity: str = field(default="", repr=False)

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.process.pid

    def model_states(self) -> tuple[ModelState, ...]:
        """Return the state of every model, as the server's index of its repository gives it.

        Raises:
            BackendError: The server does not answer, or with something else.
        """
        connection = http.client.HTTPConnection(self.http, timeout=10.0)
        try:
            connection.request("POST", "/v2/repository/index", body=b"{}")
            rows = json.loads(connection.getresponse().read(_LONGEST_INDEX))
            return tuple(
                ModelState(*(str(row.get(key, "")) for key in ("name", "version", "state", "reason")))
                for row in rows
            )
        except (OSError, http.client.HTTPException, ValueError, AttributeError, TypeError) as error:
            raise BackendError(f"the server at {self.http} does not say which models it has") from error
        finally:
            connection.close()

    def answers(self) -> bool:
        """Tell whether the server itself answers on its port, and not another one that was there first."""
        connection = http.client.HTTPConnection(self.http, timeout=2.0)
        try:
            connection.request("GET", "/v2/health/live")
            live = connection.getresponse()
            live.read(_LONGEST_INDEX)
            connection.request("GET", "/v2")
            told = json.loads(connection.getresponse().read(_LONGEST_INDEX))
            return live.status == http.client.OK and told["name"] == self._identity
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, RecursionError):
            return False
        finally:
            connection.close()

    def is_running(self) -> bool:
        """Tell whether the process is there."""
        return self._status(block=False) is None

    def wait(self) -> int:
        """Wait until the server ends by itself, and return its exit status; `kill` ends what is left."""
        status = self._status(block=True)
        return self.process.wait() if status is None else status

    def _status(self, *, block: bool) -> int | None:
        """Return the exit status as Popen has it, or None if the server runs.

        The process stays a zombie until `kill`, so that no other one gets its number before.
        """
        if self.process.returncode is not None:
            return self.process.returncode
        wanted = os.WEXITED | os.WNOWAIT | (0 if block else os.WNOHANG)
        try:
            ended = os.waitid(os.P_PID, self.pid, wanted)
        except ChildProcessError:  # reaped by somebody else
            return self.process.wait()
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    def stop(self) -> int:
        """Stop the server, at first gently, and return its exit status; a second call does nothing."""
        if self.is_running():
            os.kill(self.pid, signal.SIGTERM)
            until = time.monotonic() + self._exit_timeout_s + 10
            while self.is_running() and time.monotonic() < until:
                time.sleep(0.02)
        return self.kill()

    def kill(self) -> int:
        """End the server and its Python models at once, and return its exit status; once is enough."""
        if self.process.returncode is not None:
            return self.process.returncode
        # The group is the server's own; models of a server that has gone are in it too.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        status = self.process.wait()
        if self._identity:
            for left in _SHARED_MEMORY.glob(f"{self._identity}-*"):
                with contextlib.suppress(OSError):
                    left.unlink()
        return status

    def __enter__(self) -> RunningServer:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
