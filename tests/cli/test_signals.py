"""Ctrl-C and SIGTERM: the exit status, and imports that are never cut short."""

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nm2trt.cli.signals import Stopped, runs_end, signals_stop
from nm2trt.limits import run_watch
from tests.engine.nets import conv_net, endless_net
from tests.graph.reconstruct.test_reconstruct_model import network, samples

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_during_an_import_waits_until_it_has_ended(tmp_path, monkeypatch, number):
    name = f"interrupted_{number.name.lower()}"
    (tmp_path / f"{name}.py").write_text(
        f"import os, time\nos.kill(os.getpid(), {int(number)})\ntime.sleep(0.1)\nwhole = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def import_it():
        with signals_stop():
            __import__(name)
            time.sleep(60)

    before = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    outside = signal.signal(number, before)  # nohup ignores SIGHUP
    try:
        with pytest.raises(Stopped) as stopped:
            import_it()
        assert signal.getsignal(number) == before
    finally:
        signal.signal(number, outside)
    assert sys.modules.pop(name).whole
    assert stopped.value.exit_status == (130 if number == signal.SIGINT else 128 + number)


def test_a_signal_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_stop():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def interrupt(after):
    """Start a command, interrupt it after some seconds, and return its exit status."""
    command = subprocess.Popen(
        [sys.executable, "-m", "nm2trt", "verify", "missing.onnx"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    time.sleep(after)
    command.send_signal(signal.SIGINT)
    command.communicate()
    return command.returncode


# Nothing but the end of the process interrupts a wait for a lock of C, as with an operator at work.
STUCK = """
import ctypes, importlib, os, signal, threading, time

def stuck(*_, **__):
    print("begun", file=sys.stderr, flush=True)
    if "HANDED" in os.environ:
        time.sleep(0.5)  # until the main thread waits
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(256)
    lock(mutex), lock(mutex)

module, name = os.environ["STUCK"].split(":")
setattr(importlib.import_module(f"nm2trt.graph.{module}"), name, stuck)
from nm2trt.cli import main
main()
"""


def stopped_where_it_is_stuck(folder, stuck, *words, handed=False):
    """Start a command of which one function never ends, and interrupt it; check what it says and leaves."""
    temporary = folder / "temporary"
    temporary.mkdir()
    before = sorted(path.name for path in folder.iterdir())
    more = {"STUCK": stuck, "TMPDIR": str(temporary), **({"HANDED": "1"} if handed else {})}
    command = subprocess.Popen(
        [sys.executable, "-c", f"import sys\n{STUCK}", *words, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
    )
    try:
        assert command.stderr.readline() == "begun\n"
        if not handed:  # the system chooses a thread
            command.send_signal(signal.SIGINT)
        out, err = command.communicate(timeout=60)
    finally:
        command.kill()
    assert (command.returncode, json.loads(out)["exit_status"]) == (130, 130)
    assert err == "nm2trt: interrupted; nothing was left half-written\n"
    assert sorted(path.name for path in folder.iterdir()) == before
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    ("bound", "handed"),
    [((), False), (("--run-memory", "8"), False), ((), True)],
    ids=["beside", "by itself", "given to the session's thread"],
)
def test_ctrl_c_does_not_wait_for_a_session_that_works(tmp_path, bound, handed):
    conv_net(tmp_path / "net.onnx")
    stuck = "execute.output_comparison:_run_reference"
    stopped_where_it_is_stuck(tmp_path, stuck, *bound, "fuse", "net.onnx", handed=handed)


@pytest.mark.parametrize(
    ("stuck", "more"),
    [
        ("saliency:_layer_saliency", ()),
        ("sensitivity:fit_layer", ("--no-permute", "--share", "50%")),
        ("layer_walk:fit_layer", ("--no-permute",)),
    ],
)
def test_ctrl_c_does_not_wait_for_a_layer_that_is_solved(tmp_path, stuck, more):
    network(tmp_path / "net.onnx")
    samples(tmp_path / "s.npz")
    words = ("prune", "net.onnx", "--calib", "s.npz", *more)
    stopped_where_it_is_stuck(tmp_path, f"reconstruct.{stuck}", *words)


# Says that it runs a second after a session has been asked to, which none of these models has ended by then.
RUNS = """
import sys, threading
from onnxruntime import InferenceSession
run = InferenceSession.run

def begun(*given):
    threading.Timer(1.0, lambda: print("begun", file=sys.stderr, flush=True)).start()
    return run(*given)

InferenceSession.run = begun
from nm2trt.cli import main
main()
"""


@pytest.mark.parametrize(
    ("line", "closed"),
    [("infer endless.onnx", ()), ("prune endless.onnx --calib x.npz", ()), ("infer endless.onnx", (0, 1))],
    ids=["infer", "prune", "without stdin and stdout"],
)
def test_ctrl_c_ends_the_run_of_a_model(tmp_path, line, closed):
    endless_net(tmp_path / "endless.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((4, 16), np.float32))
    command = subprocess.Popen(
        [sys.executable, "-c", RUNS, *line.split()],
        preexec_fn=lambda: [os.close(number) for number in closed],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        assert "begun" in command.stderr.readline()
        command.send_signal(signal.SIGINT)
        _, err = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 130
    assert err == "nm2trt: interrupted; nothing was left half-written\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["endless.onnx", "x.npz"]


def test_ctrl_c_before_a_command_takes_signals_is_told_in_one_sentence(tmp_path):
    stops = """
import os, signal, sys

class Stops:
    def find_spec(self, name, *_):
        if name == "nm2trt.options.shared":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Stops())
from nm2trt.cli import main
main()
"""
    command = [sys.executable, "-c", stops, "doctor"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr == "nm2trt: interrupted; nothing was left half-written\n"


def test_a_signal_for_a_forked_child_ends_no_run_of_its_parent():
    with signals_stop(), runs_end():
        child = os.fork()
        if child == 0:  # runs models too, and reads no signal of its parent's
            with run_watch.watched(lambda: None), contextlib.suppress(KeyboardInterrupt):
                time.sleep(60)
            os._exit(run_watch._stopped is not None)
        time.sleep(0.3)
        os.kill(child, signal.SIGTERM)
        assert os.waitpid(child, 0)[1] == 0
        assert not run_watch._stopped()
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        assert run_watch._stopped()
    assert run_watch._stopped is None


def test_a_command_in_an_event_loop_leaves_it_its_signals():
    async def called():
        arrived = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, arrived.set)
        with signals_stop(), runs_end():
            os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(arrived.wait(), 60)

    asyncio.run(called())


def test_a_command_within_a_command_leaves_the_outer_one_its_signals():
    with signals_stop(), runs_end():
        outer = run_watch._stopped
        with signals_stop(), runs_end():
            pass
        assert run_watch._stopped is outer
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        assert outer()


@pytest.mark.parametrize("within", [False, True])
def test_a_command_in_a_thread_takes_no_signals(within):
    def called():
        with signals_stop(), runs_end():
            return signal.getsignal(signal.SIGINT)

    with signals_stop() if within else contextlib.nullcontext(), ThreadPoolExecutor(1) as threads:
        before = signal.getsignal(signal.SIGINT)
        assert threads.submit(called).result() is before


@pytest.mark.slow
def test_two_hundred_ctrl_c_at_random_times_of_a_start():
    rng = random.Random(0)
    began = time.monotonic()
    assert interrupt(30) == 2
    longest = min(time.monotonic() - began, 3)
    ended = [interrupt(longest * rng.random()) for _ in range(200)]
    # 1 and -2: before the command's own first line ran.
    assert set(ended) <= {2, 130, 1, -signal.SIGINT}
    assert 130 in ended
