"""The start of a tritonserver of one's own: on free ports, watched until it is ready."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from nm2trt.errors import BackendError, InputError, OutputError
from nm2trt.file_replacement import os_reason
from nm2trt.serving.history import refuse_hanging
from nm2trt.serving.installation import Installation, find_server
from nm2trt.serving.options import ServerOptions
from nm2trt.serving.server.running import RunningServer

_ATTEMPTS = 3
# Of HTTP, gRPC and metrics, as tritonserver itself takes them.
_USUAL_PORTS = (8000, 8001, 8002)
_STDERR = 2
# What a server says of a port that another program has.
_TAKEN = ("failed to bind", "already in use")
# The server must not outlive whoever started it, even one that is killed: Linux then sends it SIGTERM.
_LAUNCHER = (
    "import ctypes, os, signal, sys\n"
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


def start_server(
    repository: str | os.PathLike[str],
    options: ServerOptions | None = None,
) -> RunningServer:
    """Start a tritonserver and wait until it is ready.

    It ends with the thread that started it, so start it in one that lasts.

    Args:
        repository: The model repository.
        options: How; None takes free ports and loads every model.

    Raises:
        InputError: The repository is not a folder, or a model to load is missing in it.
        OutputError: The log cannot be written.
        BackendMissingError: No server is installed.
        BackendError: The server stops or is not ready in time; its last words are in the message.
    """
    options = options or ServerOptions()
    options = replace(options, host=_in_figures(options.host))
    repository = Path(repository).absolute()
    if not repository.is_dir():
        raise InputError(
            f"{repository} is not a folder; give a model repository, e.g. one that nm2trt deploy made"
        )
    if options.control == "explicit":
        for name in options.load:
            if name != "*" and not (repository / name).is_dir():
                raise InputError(f"{repository} holds no model {name!r} to load")
    refuse_hanging(repository, options.load if options.control == "explicit" else ("*",))
    found = find_server()
    fixed = all((options.http_port, options.grpc_port, options.metrics_port))
    attempts = 1 if fixed else _ATTEMPTS
    while True:
        # Between choosing a free port and listening on it, another program may take it.
        server, log_start = _launch(found, repository, options)
        try:
            _wait_until_ready(server, options, log_start)
        except _PortTakenError as error:
            server.kill()
            attempts -= 1
            if not attempts:
                raise BackendError(str(error)) from error
        except BaseException:
            server.stop()
            raise
        else:
            return server


class _PortTakenError(Exception):
    pass


def _launch(found: Installation, repository: Path, options: ServerOptions) -> tuple[RunningServer, int]:
    ports = _free_ports(options)
    # Another server may take the port meanwhile, and would answer in place of this one.
    identity = f"nm2trt-{os.getpid()}-{secrets.token_hex(4)}"
    http_port, grpc_port, metrics_port = ports
    six = ":" in options.host
    http_host, grpc_host = (f"ipv6:{options.host}", f"[{options.host}]") if six else (options.host,) * 2
    words = [
        str(found.binary.absolute()),
        f"--id={identity}",
        "--model-repository=.",
        f"--model-control-mode={options.control}",
        # What nm2trt writes is complete; completing it would start every Python model twice.
        "--disable-auto-complete-config",
        "--exit-on-error=false",
        # Strict readiness is denied while an old version unloads: a load balancer would send nothing.
        "--strict-readiness=false",
        f"--exit-timeout-secs={options.exit_timeout_s}",
        f"--http-address={http_host}",
        f"--http-port={http_port}",
        f"--grpc-address={grpc_host}",
        f"--grpc-port={grpc_port}",
        f"--metrics-address={http_host}",
        f"--metrics-port={metrics_port}",
        f"--backend-config=python,shm-region-prefix-name={identity}-",
    ]
    if found.backends is not None:
        words.append(f"--backend-directory={found.backends}")
    if options.control == "explicit":
        words += [f"--load-model={name}" for name in options.load]
    with contextlib.ExitStack() as stack:
        try:
            log = None if options.log is None else stack.enter_context(options.log.open("ab"))
        except OSError as error:
            raise OutputError(f"{options.log} cannot be written: {os_reason(error)}") from error
        start = 0 if log is None else log.tell()
        process = subprocess.Popen(  # noqa: S603 - a list of words, no shell
            [sys.executable, "-S", "-c", _LAUNCHER, str(os.getpid()), *words],
            stdin=subprocess.DEVNULL,
            stdout=log or _STDERR,
            stderr=log or _STDERR,
            # The Python backend hands the path of a model to a shell, and to a Python that reads only ASCII.
            cwd=repository,
            env=found.variables(),
            # Ctrl-C in a terminal reaches only us; we then stop the server in order.
            start_new_session=True,
        )
    host = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(grpc_host, grpc_host)  # noqa: S104 - a comparison
    http_at, grpc_at, metrics_at = (f"{host}:{port}" for port in ports)
    server = RunningServer(
        repository, http_at, grpc_at, metrics_at, process, options.exit_timeout_s, identity
    )
    return server, start


def _in_figures(host: str) -> str:
    """Return the address of a host: Triton's HTTP knows no names, and given one listens nowhere.

    Of a name with addresses of both kinds, as localhost, it is the IPv4 one, which clients try with either.
    """
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
        return str(min(found, key=lambda one: one[0] != socket.AF_INET)[4][0])
    except (OSError, UnicodeError) as error:
        raise _refused(repr(host), error) from error


def _refused(where: str, error: Exception) -> InputError:
    reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
    return InputError(f"nothing can listen on {where}: {reason}")


def _listen(host: str, port: int) -> socket.socket:
    return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)


def _free_ports(options: ServerOptions) -> list[int]:
    chosen = [options.http_port, options.grpc_port, options.metrics_port]
    with contextlib.ExitStack() as stack:
        # All ports are held until the last is found, so that no two are equal.
        for index, port in enumerate(chosen):
            usual = _USUAL_PORTS[index]
            if options.usual_ports and not port and usual not in chosen:
                with contextlib.suppress(OSError):
                    stack.enter_context(_listen(options.host, usual))
                    chosen[index] = usual
                    continue
            try:
                bound = stack.enter_context(_listen(options.host, port))
            except OSError as error:
                raise _refused(f"port {port} of {options.host}" if port else options.host, error) from error
            chosen[index] = bound.getsockname()[1]
    return chosen


def _wait_until_ready(server: RunningServer, options: ServerOptions, log_start: int) -> None:
    limit = time.monotonic() + options.ready_timeout_s
    while not server.answers():
        if not server.is_running():
            said = _last_words(options.log, log_start)
            if any(words in said.lower() for words in _TAKEN) or _is_taken(server):
                raise _PortTakenError(f"the server cannot listen: {said}")
            raise BackendError(f"the server stopped with status {server.wait()}: {said}")
        if time.monotonic() > limit:
            said = _last_words(options.log, log_start)
            raise BackendError(
                f"the server was not ready within {options.ready_timeout_s:g} s (--timeout): {said}"
            )
        time.sleep(0.05)


def _is_taken(server: RunningServer) -> bool:
    """Tell whether somebody else listens on a port of a server that has ended."""
    for address in (server.http, server.grpc, server.metrics):
        host, _, port = address.rpartition(":")
        try:
            _listen(host.strip("[]"), int(port)).close()
        except OSError:
            return True
    return False


def _last_words(log: Path | None, start: int) -> str:
    """Return the errors that the server wrote last, on one line."""
    if log is None:
        return "its log is above"
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
        errors = [line for line in lines if line.startswith(("E", "error"))] or lines
        # A machine without a GPU always has this one.
        errors = [line for line in errors if "CudaDriverHelper" not in line] or errors
        return " | ".join(line.partition("] ")[2] or line for line in errors[-3:])
    return f"see {log}"
