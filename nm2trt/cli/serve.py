"""`nm2trt serve`: a tritonserver on a model repository, until it is interrupted."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from nm2trt.errors import BackendError

if TYPE_CHECKING:
    from nm2trt.serving.server import RunningServer

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--repository", required=True, metavar="FOLDER", help="model repository, e.g. models/"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    for name in ("http", "grpc", "metrics"):
        parser.add_argument(
            f"--{name}-port",
            type=int,
            default=0,
            metavar="PORT",
            help=f"port of {name} (default: a free one)",
        )
    parser.add_argument(
        "--model-control",
        choices=("explicit", "none", "poll"),
        default="explicit",
        help="explicit (default): loads on request; none: loads at the start; poll: follows the files",
    )
    parser.add_argument(
        "--load", action="append", metavar="NAME", help="model to load at the start (default: all of them)"
    )
    parser.add_argument("--log", type=Path, metavar="FILE", help="the server's log (default: stderr)")
    parser.add_argument("--json", action="store_true", help="print the addresses as JSON, on one line")


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from nm2trt.pipeline.serve import serve
    from nm2trt.serving.options import ServerOptions

    options = ServerOptions(
        host=arguments.host,
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
        control=arguments.model_control,
        load=tuple(arguments.load or ("*",)),
        log=arguments.log,
    )
    # A supervisor's SIGTERM stops the server in order, like Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    with serve(arguments.repository, options) as server:
        _print(server, arguments.json)
        try:
            status = server.process.wait()
        except KeyboardInterrupt:
            print("stopping", file=sys.stderr)
            server.stop()
            return 0
    raise BackendError(f"the server stopped by itself, with status {status}; see its log")


def _print(server: RunningServer, as_json: bool) -> None:
    addresses = {"http": server.http, "grpc": server.grpc, "metrics": server.metrics, "pid": str(server.pid)}
    if as_json:
        print(json.dumps(addresses), flush=True)
        return
    for name, value in addresses.items():
        print(f"{name:8} {value}", flush=True)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
