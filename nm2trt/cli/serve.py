"""`nm2trt serve`: a tritonserver on a model repository, until it is interrupted."""

from __future__ import annotations

import re
import signal
from dataclasses import asdict
from types import FrameType
from typing import TYPE_CHECKING

from nm2trt.cli.output import plain_table, print_json_line, print_verdict, say, tell
from nm2trt.errors import BackendError
from nm2trt.options.field import filled
from nm2trt.options.serving import ServeCommand
from nm2trt.terminal_text import shell_path, shell_word

if TYPE_CHECKING:
    from nm2trt.serving.server.running import RunningServer

OPTIONS = ServeCommand

EPILOG = """examples:
  nm2trt serve --repository models
  nm2trt serve --repository models --load ocr --log server.log
"""

# What Triton says of a model whose backend is not among its own.
_NO_BACKEND = re.compile(r"unable to find backend library for backend '(\w+)'")


def run(options: ServeCommand) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.serve import serve
    from nm2trt.serving.options import ServerOptions

    started = filled(ServerOptions, options, load=options.load or ("*",), usual_ports=True)
    # A supervisor's SIGTERM stops the server in order, like Ctrl-C; and a shell that starts a command in the
    # background of a script lets it ignore SIGINT, which should stop a server all the same.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with serve(options.repository, started) as server:
        try:
            _print(server, options)
            status = server.wait()
        except KeyboardInterrupt:
            tell("stopping")
            server.stop()
            return 0
    raise BackendError(f"the server stopped by itself, with status {status}; see its log")


def _print(server: RunningServer, options: ServeCommand) -> None:
    addresses = {"http": server.http, "grpc": server.grpc, "metrics": server.metrics, "pid": str(server.pid)}
    states = server.model_states()
    if options.json:
        print_json_line({**addresses, "models": [asdict(state) for state in states]})
        return
    for name, value in addresses.items():
        say(f"{name:8} {value}")
    plain_table(
        ("model", "version", "state", "reason"),
        # What follows the first line is the trace of a Python model, which the log has too.
        [
            (state.name, state.version, state.state or "not loaded", state.reason.partition("\n")[0])
            for state in states
        ],
    )
    if absent := sorted({state.name for state in states if state.state == "UNAVAILABLE"}):
        say(f"not available: {', '.join(absent)}; the server's log says more", "bad")
    for backend in sorted({match[1] for state in states if (match := _NO_BACKEND.search(state.reason))}):
        instead = "deploy the model again with --backend python, or " if backend == "onnxruntime" else ""
        say(f"this server has no backend {backend}: {instead}start a server that has it")
    if ready := next((state.name for state in states if state.state == "READY"), ""):
        where = f"--url {shell_word(server.http)} --name {shell_word(ready)}"
        whose = f"--reference MODEL.onnx --repository {shell_path(options.repository)}"
        print_verdict("", f"nm2trt probe {where} {whose}  # in another terminal")
    say("READY; Ctrl-C stops it")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
