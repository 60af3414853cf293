"""Files: whole or not at all, inside their folder, and left tidy."""

import os
import subprocess
import sys

import pytest

from nm2trt.errors import InputError, OutputError
from nm2trt.files import atomic_path, check_input, check_output, sha256_file, within, write_atomic


def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path):
    target = tmp_path / "model.onnx"
    target.write_text("old")

    def write_half():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_write_replaces(tmp_path):
    target = tmp_path / "a.json"
    write_atomic(target, "one")
    write_atomic(target, b"two")
    assert target.read_bytes() == b"two"


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    target = tmp_path / "plan"
    code = (
        "import sys, os; from nm2trt.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t:\n    t.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    left = list(tmp_path.iterdir())
    assert len(left) == 1
    assert left[0].name.endswith(".tmp")
    write_atomic(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_files_of_a_living_process_are_left_alone(tmp_path):
    target = tmp_path / "plan"
    other = tmp_path / f".plan.{os.getppid()}-0123abcd.tmp"
    other.write_text("in work")
    write_atomic(target, "whole")
    assert other.exists()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "no.onnx", "does not exist; give the path of an ONNX model file"),
        (lambda p: p, "is a folder"),
        (lambda p: (p / "e").write_bytes(b"") or (p / "e"), "is empty"),
        (lambda p: "/dev/null", "is not a regular file"),
        (lambda p: "a\0b", "does not exist|cannot be read"),
    ],
    ids=["missing", "folder", "empty", "device", "nul"],
)
def test_unreadable_inputs(tmp_path, make, message):
    with pytest.raises(InputError, match=message):
        check_input(make(tmp_path), "an ONNX model")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "no" / "x", "the folder .*no does not exist; create it"),
        (lambda p: p, "is a folder"),
        (lambda p: (p / "f").write_bytes(b"") or (p / "f" / "x"), "does not exist"),
        (lambda p: "/proc/x.onnx", "cannot be written"),
        (lambda p: os.mkfifo(p / "pipe") or (p / "pipe"), "is no regular file, and would be replaced"),
    ],
    ids=["no-folder", "folder", "file-as-folder", "read-only", "pipe"],
)
def test_unwritable_outputs(tmp_path, make, message):
    with pytest.raises(OutputError, match=message):
        check_output(make(tmp_path))


def test_checking_an_output_leaves_nothing(tmp_path):
    check_output(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence():
    # A file-size limit of the process stands in for a full disk: the write itself fails half-way.
    code = (
        "import resource, signal, tempfile, pathlib\nfrom nm2trt.files import write_atomic\n"
        "from nm2trt.errors import OutputError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "d = pathlib.Path(tempfile.mkdtemp())\n"
        "try: write_atomic(d / 'x', b'0' * 5000)\nexcept OutputError as e: print(e)\n"
        "assert list(d.iterdir()) == []; d.rmdir()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cannot be written: File too large; nothing was changed" in done.stdout


def test_within_keeps_to_its_folder(tmp_path):
    model, outside = tmp_path / "model", tmp_path / "outside"
    model.mkdir()
    outside.write_text("secret")
    (model / "w.data").write_text("w")
    (model / "link").symlink_to(outside)
    assert within(model, "w.data") == (model / "w.data").resolve()
    for path in ("../outside", "/etc/passwd", "link", "", "a/../../outside"):
        with pytest.raises(InputError, match="leaves the folder"):
            within(model, path)


def test_within_follows_a_linked_cache(tmp_path):
    real = tmp_path / "blobs"
    real.mkdir()
    (real / "w.data").write_text("w")
    (tmp_path / "cache").symlink_to(real)
    assert within(tmp_path / "cache", "w.data") == real / "w.data"


def test_hash(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_file(tmp_path / "x").startswith("ba7816bf8f01cfea")
