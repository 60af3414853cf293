"""The garbage collector starts late in a command's process, and then works as usual."""

import json
import os
import subprocess
import sys

import pytest

from nm2trt.cli import garbage, main

CODE = """
import gc, json
from nm2trt.cli.garbage import collected_late

usual, told = gc.get_threshold(), {}
count = lambda: sum(generation["collections"] for generation in gc.get_stats())
with collected_late():
    before = count()
    kept = [[] for _ in range(20_000)]
    told["early"] = count() - before
    for _ in range(200_000):
        cycle = []
        cycle.append(cycle)
    told["late"] = count() - before
    told["usual again"] = gc.get_threshold() == usual
    cycles = [held for held in gc.get_objects() if type(held) is list and len(held) == 1 and held[0] is held]
    told["unfreed"] = len(cycles)
told["frozen"] = gc.get_freeze_count() > 20_000
print(json.dumps(told))
"""


def test_garbage_is_collected_late_and_then_as_usual():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["early"] == 0
    assert told["late"] > 10
    assert told["usual again"]
    assert told["unfreed"] < 2_000
    assert told["frozen"]


RARELY = """
import gc
from nm2trt.cli.garbage import collect_rarely, collected_late

usual = gc.get_threshold()
with collected_late():
    collect_rarely()
    kept = [[] for _ in range(150_000)]
    print(gc.get_threshold() == (50_000, *usual[1:]))
"""


def test_a_command_of_many_small_objects_has_garbage_collected_rarely():
    done = subprocess.run([sys.executable, "-c", RARELY], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_fuse_has_garbage_collected_rarely(monkeypatch, tmp_path):
    monkeypatch.setattr(garbage, "_rarely", False)
    assert main(["fuse", str(tmp_path / "a.onnx")]) == 2
    assert garbage._rarely


ENDING = """
import atexit, sys, tempfile, threading, time
from nm2trt import cli
{before}
sys.argv = ["nm2trt", *{words}]
cli.main()
print("returned")
"""


def ended(before, *words, stderr="", python=()):
    """Return what a process prints that runs a command, and its exit status."""
    code = ENDING.format(before=before, words=list(words or ["--version"]))
    # Unbuffered, nothing would wait for the end of the process.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *python, "-c", code],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert stderr in done.stderr if stderr else done.stderr == ""
    return done.stdout.splitlines(), done.returncode


def test_a_command_ends_its_process_after_what_asked_to_be_called():
    said, status = ended("atexit.register(print, 'called', end='')")
    assert (said[0].startswith("nm2trt "), said[1:], status) == (True, ["called"], 0)


def test_the_process_ends_with_the_status_of_the_command(tmp_path):
    assert ended("", "verify", str(tmp_path / "a.onnx"), stderr="a.onnx does not exist") == ([], 2)


def test_what_a_library_printed_is_not_lost():
    said, _ = ended("import ctypes; atexit.register(ctypes.CDLL(None).printf, b'from C\\n')")
    assert said[1:] == ["from C"]


def test_python_goes_on_if_it_was_asked_to():
    said, _ = ended("", python=["-i"], stderr=">>>")
    assert said[1:] == ["returned"]


def test_a_temporary_folder_goes_with_the_process(tmp_path):
    said, _ = ended(
        f"folder = tempfile.TemporaryDirectory(dir={str(tmp_path)!r}, ignore_cleanup_errors=True)"
    )
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_thread_that_works_is_waited_for():
    said, _ = ended("threading.Thread(target=lambda: (time.sleep(0.5), print('worked'))).start()")
    assert said[1:] == ["returned", "worked"]


@pytest.mark.parametrize(
    "watch",
    [
        "sys.setprofile(lambda *event: None)",
        "import types; sys.monitoring = types.SimpleNamespace(get_tool={2: 'cProfile'}.get)",
    ],
    ids=["profile", "monitoring"],
)
def test_whoever_watches_sees_the_process_end_as_usual(watch):
    said, _ = ended(watch)
    assert said[1:] == ["returned"]


@pytest.mark.parametrize(("given", "seen"), [(None, "20"), ("26", "26")])
def test_threads_of_numpy_s_blas_sleep_soon_unless_the_user_says_otherwise(given, seen):
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    environment |= {} if given is None else {"OPENBLAS_THREAD_TIMEOUT": given}
    code = ENDING.format(
        before="import os; atexit.register(lambda: print(os.environ['OPENBLAS_THREAD_TIMEOUT']))",
        words=["--version"],
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.splitlines()[-1] == seen
