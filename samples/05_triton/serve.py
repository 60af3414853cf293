"""Serve the digits of sample 01 from a real tritonserver, check what is served, and let a bad version fail.

    make serve-env                              # once: a tritonserver that runs Python models on the CPU
    python samples/01_digits/train.py           # or: make demo
    python samples/05_triton/serve.py

Everything is what you would type; the script prints the commands.
"""

from __future__ import annotations

import argparse
import contextlib
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from nm2trt.backends.triton import TritonServer, open_triton
from nm2trt.pipeline.serve import serve
from nm2trt.serving.options import ServerOptions

DIFFERS = 5  # exit status of nm2trt where outputs differ


def command(*words: str, expect: int = 0) -> None:
    """Run `nm2trt` as it would be typed, and stop where its status is another than expected."""
    line = shlex.join(("nm2trt", *words))
    print(f"\n$ {line}", flush=True)
    script = Path(sys.executable).with_name("nm2trt")
    program = [str(script)] if script.is_file() else [sys.executable, "-m", "nm2trt"]
    status = subprocess.run([*program, *words], check=False, stderr=subprocess.STDOUT).returncode
    if status != expect:
        raise SystemExit(f"{line} ended with exit status {status}, not {expect}")


def top1(url: str, name: str, data: Path) -> float:
    """Share of the test images that the served model names right."""
    with np.load(data) as test, open_triton(url, name) as session:
        images, labels = test["image"], test["labels"]
        scores = [session.run({"image": part})["output"] for part in np.array_split(images, 40)]
    return float((np.concatenate(scores).argmax(1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("results/01_digits"), help="results of sample 01")
    parser.add_argument("--out", type=Path, default=Path("results/05_triton"), help="repository and log")
    parser.add_argument("--requests", type=int, default=200, help="requests of a round (default: 200)")
    options = parser.parse_args()
    names = ("sparse_fp32.onnx", "dense_fp32.onnx", "test.npz")
    sparse, dense, test = (options.models / name for name in names)
    for path in (sparse, dense, test):
        if not path.is_file():
            raise SystemExit(f"{path} is not there; run samples/01_digits/train.py first, or use --models")
    repository = options.out / "models"
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    (options.out / "digits.txt").write_text("\n".join(map(str, range(10))) + "\n")

    to = ["--repository", str(repository), "--name", "digits"]
    place = ["deploy", str(sparse), *to, "--backend", "python"]
    command(*place, "--sample", str(test), "--labels", str(options.out / "digits.txt"))
    print((repository / "digits" / "config.pbtxt").read_text())

    with serve(repository, ServerOptions(log=options.out / "server.log")) as server:
        print(f"tritonserver {server.pid}: http {server.http}, grpc {server.grpc}, metrics {server.metrics}")
        probe = ["--name", "digits", "--reference", str(sparse), "--data", str(test)]
        probe += ["--requests", str(options.requests)]
        command("probe", "--url", server.http, *probe, "--repository", str(repository))
        command("probe", "--url", f"grpc://{server.grpc}", *probe)
        url = f"http://{server.http}"
        print(f"\ntop-1 of the served model on the test images: {top1(url, 'digits', test):.2%}")

        print("\nA version that answers otherwise than its reference goes back by itself:")
        worse = ["deploy", str(dense), *place[2:], "--canary", server.http, "--reference", str(sparse)]
        command(*worse, expect=DIFFERS)
        with TritonServer(url) as client:
            print(f"served now: version {client.model_metadata('digits')['versions'][0]}")

        print("\nOne that answers as it should is taken, and can be left again:")
        command(*place, "--canary", server.http)
        command("rollback", *to, "--url", server.http)
        command("probe", "--url", server.http, *probe, "--concurrency", "8")
    print("\nthe server has stopped")


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
