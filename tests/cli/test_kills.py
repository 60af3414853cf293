"""Builds of two models to one path, killed at random times or run at once: the pair is valid at every instant."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import pytest

from nm2trt.cli import main
from nm2trt.manifest import read_manifest
from tests.engine.nets import conv_net

pytest.importorskip("tensorrt_rtx")

# Imports once; then, for every line on stdin, a process of its own builds that model. So what is killed is a
# build and not an import. Prints the process's number, and its status once it has ended.
NURSERY = """
import gc, os, signal, sys
import onnx, tensorrt_rtx
import nm2trt.graph.verify.verify_model, nm2trt.engine.build, nm2trt.graph.storage.save
from nm2trt.cli import main
null, said = os.open(os.devnull, os.O_WRONLY), os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
gc.disable(), gc.collect(), gc.freeze()  # a collection in a child would copy every page that it looks through
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(null, 1)
        os.dup2(said, 2)
        os._exit(main(["-vv", "build", line.strip(), "--sparsity", "-o", "net.rtx", "--target", "sm86"]))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """A process that bears builds."""

    def __init__(self, folder):
        self.said = folder.parent / f"{folder.name}-stderr.txt"
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, str(self.said)],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        assert self.read() == "ready"

    def read(self):
        return self.process.stdout.readline().strip()

    def start(self, model):
        """Start a build; return its process's number."""
        self.process.stdin.write(f"{model}\n")
        self.process.stdin.flush()
        return int(self.read())

    def ended(self):
        """Wait for the build; return its exit status, or minus the signal that ended it."""
        return int(self.read())

    def finish(self, model):
        """Build to the end; return how long that took."""
        began = time.monotonic()
        self.start(model)
        assert self.ended() == 0, self.said.read_text()[-2000:]
        return time.monotonic() - began

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.communicate()


@pytest.fixture
def folder(tmp_path):
    conv_net(tmp_path / "one.onnx", layers=2)
    conv_net(tmp_path / "two.onnx", layers=6, channels=32, shape=("n", 32, 8, 8))
    return tmp_path


class Watcher(threading.Thread):
    """Reads the pair again and again, as a server would, and keeps what it ever found wrong."""

    def __init__(self, engine):
        super().__init__()
        self.engine, self.wrong, self.reads, self.stop = engine, [], 0, threading.Event()

    def run(self):
        while not self.stop.is_set():
            if self.engine.exists():
                fit = read_manifest(self.engine)
                self.reads += 1
                if fit.status != "fits":
                    self.wrong.append(fit.sentence)
            time.sleep(0.001)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *error):
        self.stop.set()
        self.join()


def leftovers(folder):
    kept = {"one.onnx", "two.onnx", "net.rtx", "net.rtx.json"}
    return [path.name for path in folder.iterdir() if path.name not in kept]


def kill_at_random(folder, kills, signal_number):
    """Kill builds at random times; return how they ended. A last one is left to end by itself."""
    rng, models, ended = random.Random(kills), ("one.onnx", "two.onnx"), []
    engine = folder / "net.rtx"
    with Nursery(folder) as nursery:
        longest = max(nursery.finish(model) for model in models)
        with Watcher(engine) as watcher:
            for number in range(kills):
                child = nursery.start(models[number % 2])
                # The end of a build, where its files are written, is short: half of the kills aim at it. Each
                # other one has a part of the time of its own; the first of them comes early at any load.
                early = 1.1 * (number // 2 + rng.random()) / (kills // 2)
                time.sleep(longest * (early if number % 2 else rng.uniform(0.6, 1.1)))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal_number)
                ended.append(nursery.ended())
                fit = read_manifest(engine)
                assert fit.status == "fits", fit.sentence
                assert fit.manifest.model in models
        left = leftovers(folder)
        nursery.finish("two.onnx")
    assert watcher.wrong == []
    assert watcher.reads > kills
    assert leftovers(folder) == [], "the next run clears what was left"
    assert json.loads((folder / "net.rtx.json").read_text())["model"] == "two.onnx"
    return ended, left


def test_a_valid_pair_wherever_a_build_is_killed(folder):
    ended, _ = kill_at_random(folder, 8, signal.SIGKILL)
    assert -signal.SIGKILL in ended


@pytest.mark.slow
def test_two_hundred_kills(folder):
    ended, _ = kill_at_random(folder, 200, signal.SIGKILL)
    assert ended.count(-signal.SIGKILL) > 50, "most builds had ended before they were killed"


@pytest.mark.slow
def test_fifty_ctrl_c(folder):
    ended, left = kill_at_random(folder, 50, signal.SIGINT)
    said = (folder.parent / f"{folder.name}-stderr.txt").read_text()
    assert "internal error" not in said, said[-3000:]
    # -SIGINT: before Python had set its handler in the new process.
    assert set(ended) <= {0, 130, -signal.SIGINT}, "a traceback, or another status than the one for Ctrl-C"
    assert left == [], "Ctrl-C leaves nothing behind, without a next run"


def test_ctrl_c_inside_a_hook_that_wraps_it_is_still_ctrl_c(folder, capsys, monkeypatch):
    """Before Python 3.12, what `__set_name__` raises arrives as a RuntimeError; an import has many of them."""

    class Hook:
        def __set_name__(self, owner, name):
            raise KeyboardInterrupt

    def stopped(*arguments, **options):
        try:
            type("Stopped", (), {"hook": Hook()})
        except KeyboardInterrupt as error:
            raise RuntimeError("as before 3.12") from error

    monkeypatch.setattr("nm2trt.pipeline.build.build", stopped)
    assert main(["build", str(folder / "one.onnx")]) == 130
    assert capsys.readouterr().err == "nm2trt: interrupted; nothing was left half-written\n"


def test_two_builds_to_one_path_at_once(folder):
    with Nursery(folder) as one, Nursery(folder) as two, Watcher(folder / "net.rtx") as watcher:
        for _ in range(2):
            one.start("one.onnx")
            two.start("two.onnx")
            assert (one.ended(), two.ended()) == (0, 0)
    assert watcher.wrong == []
    assert read_manifest(folder / "net.rtx").status == "fits"
    assert leftovers(folder) == []
