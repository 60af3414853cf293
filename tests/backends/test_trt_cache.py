"""The timing cache's file: merged by many builds at once, and never half-written."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from nm2trt.backends import _trt_cache
from nm2trt.errors import InputError, OutputError


class Cache:
    """Timings as a set of words; what the library's own cache does with kernels."""

    def __init__(self, data):
        self.words = set(data.decode().split())

    def combine(self, other, ignore_mismatch):
        if "other-gpu" in self.words:
            return False
        self.words |= other.words
        return True

    def serialize(self):
        return " ".join(sorted(self.words)).encode()


class Config:
    def create_timing_cache(self, data):
        return None if data.startswith(b"\0") else Cache(data)

    def set_timing_cache(self, cache, ignore_mismatch):
        return "other-gpu" not in cache.words


@pytest.fixture
def path(tmp_path):
    return tmp_path / "kernels.cache"


def test_a_file_that_is_not_there_yet_is_made(path):
    with _trt_cache.shared("TensorRT", Config(), path, []) as cache:
        cache.words = {"conv"}
    assert path.read_bytes() == b"conv"


def test_what_others_added_meanwhile_is_kept(path):
    path.write_bytes(b"old")
    with _trt_cache.shared("TensorRT", Config(), path, []) as cache:
        path.write_bytes(b"old theirs")
        cache.words.add("mine")
    assert path.read_bytes() == b"mine old theirs"


@pytest.mark.parametrize("data", [b"\0garbage", b"other-gpu"], ids=["damaged", "other-gpu"])
def test_a_file_that_does_not_fit_is_refused_before_the_build(path, data):
    path.write_bytes(data)
    told = r"kernels\.cache is damaged, or of another GPU or version.*name another"
    with pytest.raises(InputError, match=told), _trt_cache.shared("TensorRT", Config(), path, []):
        pytest.fail("the builder began")
    assert path.read_bytes() == data


@pytest.mark.parametrize("data", [b"\0garbage", b"other-gpu"], ids=["damaged", "other-gpu"])
def test_a_file_that_was_replaced_meanwhile_is_left_alone(path, data):
    """The engine is built by then: it must not be lost for the sake of its timings."""
    log = []
    with _trt_cache.shared("TensorRT", Config(), path, log):
        path.write_bytes(data)
    assert path.read_bytes() == data
    said = "it is damaged, or of another GPU or version by now"
    assert log == [f"warning: the timing cache {path} was not updated: {said}"]


def test_a_file_that_has_grown_too_large_meanwhile_is_left_alone(path):
    log = []
    with _trt_cache.shared("TensorRT", Config(), path, log), path.open("wb") as file:
        file.truncate((1 << 28) + 1)  # takes no room on the disk
    assert path.stat().st_size == (1 << 28) + 1
    (warning,) = log
    assert warning.startswith(f"warning: the timing cache {path} was not updated: it cannot be read: ")


def test_a_folder_that_is_gone_is_told(path):
    with pytest.raises(OutputError, match=r"kernels\.cache cannot be written"):
        _trt_cache.merge(path.parent / "gone" / path.name, b"mine", lambda theirs, mine: mine)


ADD = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from nm2trt.backends._trt_cache import merge

    def combine(theirs, mine):
        return b" ".join(sorted({*theirs.split(), *mine.split()}))

    for number in range(int(sys.argv[3])):
        merge(Path(sys.argv[1]), f"{sys.argv[2]}{number}".encode(), combine)
    """
)


def test_many_writers_lose_nothing(path):
    command = [sys.executable, "-c", ADD, str(path)]
    writers = [subprocess.Popen([*command, name, "30"]) for name in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert set(path.read_text().split()) == {f"{name}{number}" for name in "abc" for number in range(30)}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_killed_writer_leaves_a_whole_file(path):
    command = [sys.executable, "-c", ADD, str(path)]
    writer = subprocess.Popen([*command, "k", "100000"])
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.2)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    words = path.read_text().split()
    assert sorted(words) == sorted(f"k{number}" for number in range(len(words)))
    assert subprocess.run([*command, "z", "1"], check=False).returncode == 0
    assert [file.name for file in path.parent.iterdir()] == [path.name], "the next run clears what was left"
