"""Builds of two models to one path, killed at random times or run at once: the pair is valid at every instant."""

import json
import random
import signal
import threading
import time

import pytest

from nm2trt.cli import main
from nm2trt.manifest import read_manifest
from tests.engine.nets import conv_net

pytest.importorskip("tensorrt_rtx")


def build(model):
    return ["build", model, "--sparsity", "-o", "net.rtx", "--target", "sm86"]


def finish(forks, model):
    """Build to the end; return how long that took."""
    began = time.monotonic()
    assert forks.run(build(model)) == [0], forks.last_words()
    return time.monotonic() - began


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


def kill_at_random(forks, folder, kills, signal_number):
    """Kill builds at random times; return how they ended. A last one is left to end by itself."""
    rng, models, ended = random.Random(kills), ("one.onnx", "two.onnx"), []
    engine = folder / "net.rtx"
    longest = max(finish(forks, model) for model in models)
    with Watcher(engine) as watcher:
        for number in range(kills):
            # The end of a build, where its files are written, is short: half of the kills aim at it. Each
            # other one has a part of the time of its own; the first of them comes early at any load.
            early = 1.1 * (number // 2 + rng.random()) / (kills // 2)
            after = longest * (early if number % 2 else rng.uniform(0.6, 1.1))
            ended += forks.run(build(models[number % 2]), after=after, signal=signal_number)
            fit = read_manifest(engine)
            assert fit.status == "fits", fit.sentence
            assert fit.manifest.model in models
    left = leftovers(folder)
    finish(forks, "two.onnx")
    assert watcher.wrong == []
    assert watcher.reads > kills
    assert leftovers(folder) == [], "the next run clears what was left"
    assert json.loads((folder / "net.rtx.json").read_text())["model"] == "two.onnx"
    return ended, left


def test_a_valid_pair_wherever_a_build_is_killed(forking, folder):
    ended, _ = kill_at_random(forking.at(folder), folder, 8, signal.SIGKILL)
    assert -signal.SIGKILL in ended


@pytest.mark.slow
def test_two_hundred_kills(forking, folder):
    ended, _ = kill_at_random(forking.at(folder), folder, 200, signal.SIGKILL)
    assert ended.count(-signal.SIGKILL) > 50, "most builds had ended before they were killed"


@pytest.mark.slow
def test_fifty_ctrl_c(forking, folder):
    before = forking.said.stat().st_size
    ended, left = kill_at_random(forking.at(folder), folder, 50, signal.SIGINT)
    said = forking.said.read_bytes()[before:].decode()
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


def test_two_builds_to_one_path_at_once(forking, folder):
    with Watcher(folder / "net.rtx") as watcher:
        for _ in range(2):
            assert forking.at(folder).run(build("one.onnx"), build("two.onnx")) == [0, 0], (
                forking.last_words()
            )
    assert watcher.wrong == []
    assert read_manifest(folder / "net.rtx").status == "fits"
    assert leftovers(folder) == []
