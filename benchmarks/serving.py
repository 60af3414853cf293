"""A served model beside bare ONNX Runtime, and many clients with a reload in the middle, in one run.

    python benchmarks/serving.py [--model results/01_digits/sparse_fp32.onnx] [--seconds 60] [--clients 50]
                                 [--runs 500] [--json FILE]

Latency: one client, in turn ONNX Runtime in this process and the same model served by the Python backend over
HTTP and gRPC, with and without shared memory, all with one thread. The server's own time per request is from
its statistics over as many requests again, one after another: the rest is the client and the transport.

Load: every request carries samples of its own and is checked, and half-way the next version (the same
function) is deployed as a canary, loaded and probed. It needs a tritonserver: make serve-env.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bytecode import compile_package

from nm2trt.backends.ort import open_onnx
from nm2trt.backends.triton import open_triton
from nm2trt.compare.outputs import compare_outputs, require_close
from nm2trt.errors import DifferenceError
from nm2trt.measure import interleaved
from nm2trt.pipeline.deploy import deploy
from nm2trt.pipeline.serve import serve
from nm2trt.serving.load import run_level
from nm2trt.serving.options import DeployOptions, ProbeOptions, ServerOptions
from nm2trt.serving.samples import random_samples
from nm2trt.serving.server.running import RunningServer

NAME = "digits"
OPTIONS = DeployOptions(backend="python", max_batch=128)


def latency(server: RunningServer, model: Path, runs: int, batches: list[int]) -> dict[str, Any]:
    """Time one client, batch by batch."""
    rows: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(open_onnx(model, threads=1))
        served = {
            protocol: stack.enter_context(open_triton(f"{protocol}://{address}", NAME))
            for protocol, address in (
                ("http", server.http),
                ("grpc", server.grpc),
                ("http+shm", server.http),
                ("grpc+shm", server.grpc),
            )
        }
        names = "  ".join(f"{name:>8}" for name in served)
        print(f"{'batch':>5}  {'ONNX Runtime':>12}  {names}   p50 in ms; over bare; the server's own")
        for batch in batches:
            feeds = random_samples(bare.inputs, batch)
            calls: dict[str, Callable[[], object]] = {
                name: partial(session.run, feeds) for name, session in served.items()
            }
            taken = interleaved({"onnxruntime": partial(bare.run, feeds), **calls}, runs=runs, warmup=20)
            own = {
                name: session.server_time(partial(repeat, calls[name], runs), runs)
                for name, session in served.items()
            }
            floor = taken["onnxruntime"].p50_ms
            ratios = {name: taken[name].p50_ms / floor for name in served}
            p50 = "  ".join(f"{taken[name].p50_ms:8.3f}" for name in served)
            over = ", ".join(f"{ratio:.2f}x" for ratio in ratios.values())
            within = ", ".join(f"{one.mean_ms:.3f}" for one in own.values())
            print(f"{batch:5}  {floor:12.3f}  {p50}   {over}; {within}")
            rows[str(batch)] = {
                "latency": {name: value.to_json() for name, value in taken.items()},
                "server": {name: value.to_json() for name, value in own.items()},
                "p50_ratio": ratios,
            }
    return rows


def repeat(call: Callable[[], object], times: int) -> None:
    """Call one after another."""
    for _ in range(times):
        call()


def load(server: RunningServer, model: Path, clients: int, seconds: float) -> dict[str, Any]:
    """Send from many clients; half-way, deploy the next version as a canary."""
    with open_onnx(model, threads=1) as bare:
        inputs = random_samples(bare.inputs, 256)
        expected = bare.run(inputs)
    wrong = 0

    def check(answer: Mapping[str, Any], picked: Any) -> None:
        nonlocal wrong
        try:
            require_close(compare_outputs(answer, {n: a[picked] for n, a in expected.items()}), what="load")
        except DifferenceError:
            wrong += 1

    told: dict[str, Any] = {}

    def reload() -> None:
        time.sleep(seconds / 2)
        start = time.perf_counter()
        try:
            canary = ProbeOptions(concurrency=(2,), requests=50, timeout_s=60)
            there = {"canary": server.http, "reference": model, "probe_options": canary}
            placed = deploy(model, server.repository, NAME, OPTIONS, **there)
            told.update(version=placed.version, seconds=time.perf_counter() - start)
        except Exception as error:  # told with the rest
            told.update(error=f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=reload)
    thread.start()
    failure = ""
    try:
        level = run_level(
            lambda: open_triton(f"http://{server.http}", NAME, timeout_s=60),
            inputs,
            clients=clients,
            seconds=seconds,
            check=check,
        )
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
    thread.join()
    if failure:
        raise SystemExit(f"a request failed: {failure}")
    result = {
        "clients": clients,
        "seconds": seconds,
        "requests": level.requests,
        "samples": level.samples,
        "errors": 0,
        "wrong": wrong,
        "latency": level.latency.to_json(),
        "requests_per_s": level.requests_per_s,
        "reload": told,
    }
    print(
        f"\n{clients} clients for {seconds:g} s: {level.requests:,} requests ({level.samples:,} samples), "
        f"0 errors, {wrong} wrong; p50 {level.latency.p50_ms:.1f}, p99 {level.latency.p99_ms:.1f} ms; "
        f"{level.requests_per_s:.0f} requests/s; reload: {told}"
    )
    return result


def main() -> None:
    compile_package()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=Path("results/01_digits/sparse_fp32.onnx"))
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128])
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not arguments.model.is_file():
        parser.error(f"{arguments.model} is not there; run make demo first")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder, "models")
        deploy(arguments.model, repository, NAME, OPTIONS)
        with serve(repository, ServerOptions(log=Path(folder, "log.txt"))) as server:
            rows = latency(server, arguments.model, arguments.runs, arguments.batches)
            soak = None
            if arguments.seconds:
                soak = load(server, arguments.model, arguments.clients, arguments.seconds)
    if arguments.json is not None:
        record = {
            "command": " ".join(sys.argv),
            "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
            "versions": {
                name: importlib.metadata.version(name) for name in ("numpy", "onnxruntime", "tritonclient")
            },
            "latency": rows,
            "load": soak,
        }
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")
    if soak is not None and (soak["wrong"] or "error" in soak["reload"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
