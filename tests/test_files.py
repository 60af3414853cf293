"""Files: whole or not at all, inside their folder, and left tidy."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import clear_folder
from nm2trt.files import (
    atomic_path,
    check_input,
    check_output,
    read_regular,
    unnamed_output,
    within,
    write_atomic,
)
from nm2trt.hashes import sha256_file
from nm2trt.locks import one_writer, output_lock
from nm2trt.writer_marks import writer_mark


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
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".tmp"]
    write_atomic(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_what_a_process_left_that_was_killed_while_it_rewrote_its_temporary_file(tmp_path):
    """As an export does that records its plan in the file before it takes its name."""
    target = tmp_path / "m.onnx"
    code = (
        "import sys, os; from nm2trt.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as t, atomic_path(t) as u:\n    u.write_text('half'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(target)], check=False)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".lock", ".tmp", ".tmp"]
    write_atomic(target, "whole")
    assert list(tmp_path.iterdir()) == [target]


def test_a_killed_writers_list_is_followed_only_to_its_own_unused_files(tmp_path):
    target, used, other = (tmp_path / name for name in ("m.onnx", "m.onnx.data", "m.onnx.txt"))
    target.write_text("weights are in m.onnx.0a1b2c3d.data")
    kept = [used, other, tmp_path / "m.onnx.0a1b2c3d.data", tmp_path / "secret"]
    for path in [*kept, tmp_path / ".m.onnx.7-01234567.tmp", tmp_path / "m.onnx.1.data"]:
        path.write_text("x")
    used.write_text("of a model that was renamed, and in nobody's list")
    listed = ["m.onnx.0a1b2c3d.data", ".m.onnx.7-01234567.tmp", "m.onnx.1.data", "m.onnx.txt"]
    listed += ["../secret", "secret", "/etc/passwd", "", "m.onnx"]
    (tmp_path / ".m.onnx.lock").write_text("\n".join(listed))
    os.mkfifo(tmp_path / "..m.onnx.7-01234567.tmp.lock")  # where that of a temporary file would be
    with output_lock(target):
        assert sorted(tmp_path.iterdir()) == sorted([*kept, target, tmp_path / ".m.onnx.lock"])
    assert not (tmp_path / ".m.onnx.lock").exists()


def test_one_thread_at_a_time_holds_an_output(tmp_path):
    inside, most = [0], [0]

    def write(_):
        with output_lock(tmp_path / "x"), output_lock(tmp_path / "x"):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            sum(range(2000))
            inside[0] -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(400)))
    assert most == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["output", "folder"])
def test_a_command_says_what_it_waits_for(tmp_path, what):
    """Deploy waits for its repository; a file with its lock is waited for until the lock is gone."""
    if what == "output":
        held, code = (
            output_lock(tmp_path / "x"),
            "from nm2trt.files import write_atomic; write_atomic({!r}, 'new')",
        )
    else:
        held, code = one_writer(tmp_path), "from nm2trt.locks import one_writer\nwith one_writer({!r}): pass"
    code = "from nm2trt.locks import on_waiting; on_waiting(print)\n" + code
    path = tmp_path / "x" if what == "output" else tmp_path
    with held:
        waiting = subprocess.Popen(
            [sys.executable, "-u", "-c", code.format(str(path))], stdout=subprocess.PIPE, text=True
        )
        said = waiting.stdout.readline()
    assert said in (
        f"another command {did} {path}; waiting until it ends\n" for did in ("writes", "works in")
    )
    assert (waiting.wait(), waiting.stdout.read()) == (0, "")
    waiting.stdout.close()
    assert [one.name for one in tmp_path.iterdir()] == ["x"] * (what == "output")


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_stands_in_the_locks_place_is_left_alone(tmp_path, kind):
    lock = tmp_path / ".x.lock"
    {"folder": lock.mkdir, "pipe": lambda: os.mkfifo(lock), "link": lambda: lock.symlink_to("y")}[kind]()
    write_atomic(tmp_path / "x", "whole")
    assert (tmp_path / "x").read_text() == "whole"
    assert not (tmp_path / "y").exists()


def test_a_replaced_file_keeps_its_mode_and_its_links(tmp_path):
    (tmp_path / "real").mkdir()
    real = tmp_path / "real" / "m.onnx"
    real.write_text("a longer old text")
    real.chmod(0o640)
    (tmp_path / "soft").symlink_to("real/m.onnx")
    (tmp_path / "soft2").symlink_to("soft")
    write_atomic(tmp_path / "soft2", "by link")
    assert (tmp_path / "soft2").is_symlink()
    assert real.read_text() == "by link"
    assert real.stat().st_mode & 0o7777 == 0o640
    (tmp_path / "hard").hardlink_to(real)
    write_atomic(tmp_path / "hard", "both")
    assert (real.read_text(), (tmp_path / "hard").read_text()) == ("both", "both")
    assert real.samefile(tmp_path / "hard")
    write_atomic(real, "a longer text for both")
    assert (tmp_path / "hard").read_text() == "a longer text for both"
    assert real.stat().st_mode & 0o7777 == 0o640
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["hard", "m.onnx", "real", "soft", "soft2"]


@pytest.fixture
def usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("usual_umask")
def test_nobody_else_reads_a_replacement_while_it_is_written(tmp_path):
    target = tmp_path / "m.onnx"
    for old, while_written, mode in ((None, 0o644, 0o644), (0o600, 0o600, 0o600), (0o664, 0o600, 0o664)):
        if old is not None:
            target.chmod(old)
        with atomic_path(target) as temporary:
            assert temporary.stat().st_mode & 0o7777 == while_written
            temporary.write_text("secret")
        assert target.stat().st_mode & 0o7777 == mode
    with atomic_path(tmp_path / "m.onnx.data", like=target.stat()) as temporary:
        assert temporary.stat().st_mode & 0o7777 == 0o600
    assert (tmp_path / "m.onnx.data").stat().st_mode & 0o7777 == 0o664


def test_a_file_system_whose_modes_cannot_be_set_takes_outputs(tmp_path, monkeypatch):
    """As mounts of FAT and of object stores: every file has one mode, and chmod is refused."""

    def refused(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chmod", refused)
    monkeypatch.setattr(Path, "chmod", refused)
    write_atomic(tmp_path / "new", "whole")
    assert (tmp_path / "new").read_text() == "whole"


@pytest.mark.usefixtures("usual_umask")
def test_a_library_that_puts_a_private_file_in_the_place_does_not_decide_the_mode(tmp_path):
    """As safetensors does."""
    other = tmp_path / "other"
    with atomic_path(tmp_path / "new") as temporary:
        other.write_text("whole")
        other.chmod(0o600)
        other.replace(temporary)
    assert (tmp_path / "new").stat().st_mode & 0o7777 == 0o644


def test_a_link_to_a_missing_file_is_written_through_and_a_loop_is_refused(tmp_path):
    (tmp_path / "new").symlink_to("store")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "nowhere").symlink_to("no/store")
    write_atomic(check_output(tmp_path / "new"), "x")
    assert (tmp_path / "store").read_text() == "x"
    for name, told in (("loop", "leads to itself"), ("nowhere", "does not exist")):
        with pytest.raises(OutputError, match=told):
            check_output(tmp_path / name)


def test_a_pipe_or_a_device_is_not_replaced_through_a_link_either(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "cache.npz").symlink_to("pipe")
    for name in ("pipe", "cache.npz"):
        with pytest.raises(OutputError, match=f"{name} is not a regular file, and would be replaced"):
            write_atomic(tmp_path / name, "x")
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_that_nobody_named_is_replaced_and_what_it_leads_to_stays(tmp_path):
    kept = tmp_path / "kept"
    kept.write_text("somebody's")
    kept.chmod(0o604)
    for name, leads_to in (("a", "kept"), ("b", "missing"), ("c", "c")):
        link = tmp_path / name
        link.symlink_to(leads_to)
        write_atomic(link, "new", follow=False)
        assert (link.is_symlink(), link.read_text()) == (False, "new")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == ("somebody's", 0o604)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "kept"]


def test_an_output_that_nobody_named_is_no_link_to_another_folder(tmp_path):
    (tmp_path / "other").mkdir()
    for name, leads_to in (("plain", None), ("near", "plain"), ("far", "other/x"), ("up", "../x")):
        if leads_to:
            (tmp_path / name).symlink_to(leads_to)
        if name in ("plain", "near"):
            assert unnamed_output(tmp_path / name) == tmp_path / name
        else:
            with pytest.raises(OutputError, match=r"is a link to another folder.*name it with --parts"):
                unnamed_output(tmp_path / name, "--parts")


def test_files_of_a_living_process_are_left_alone(tmp_path):
    target = tmp_path / "plan"
    here = writer_mark().partition("-")[0]
    other = tmp_path / f".plan.{here}-{os.getppid()}-0123abcd.tmp"
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
        (lambda p: os.mkfifo(p / "pipe") or (p / "pipe"), "is not a regular file, and would be replaced"),
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


def test_a_folder_is_cleared_but_for_one_entry(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for path in (outside / "kept", folder / "mine" / "a", folder / "other" / "b"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (folder / "file").write_text("x")
    (folder / "link").symlink_to(outside)
    clear_folder(folder, but="mine")
    assert [path.name for path in folder.iterdir()] == ["mine"]
    assert (folder / "mine" / "a").exists()
    (folder / "file").write_text("x")
    clear_folder(folder, but="file")
    assert [path.name for path in folder.iterdir()] == ["file"]
    clear_folder(folder)
    assert not folder.exists()
    assert (outside / "kept").exists()


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


@pytest.mark.parametrize("read", [sha256_file, read_regular])
def test_a_folder_in_the_place_of_a_file_leaves_nothing_open(tmp_path, read):
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises((InputError, OSError), match=r"not a regular file"):
        read(tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_what_another_machine_writes_into_a_shared_folder_stays(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = writer_mark().partition("-")[0]
    there = "0" * 8 if here != "0" * 8 else "1" * 8
    theirs = tmp_path / f".plan.{there}-{gone.pid}-0123abcd.tmp"
    mine = tmp_path / f".plan.{here}-{gone.pid}-0123abcd.tmp"
    for path in (theirs, mine):
        path.write_text("half")
    write_atomic(tmp_path / "plan", "whole")
    assert sorted(tmp_path.iterdir()) == sorted([theirs, tmp_path / "plan"])


def test_an_error_on_another_file_names_that_file(tmp_path):
    absent = tmp_path / "absent.png"

    def copy():
        with atomic_path(tmp_path / "plan") as temporary:
            temporary.write_bytes(absent.read_bytes())

    with pytest.raises(InputError, match=r"absent\.png cannot be used: No such file.*plan was not changed"):
        copy()
    assert list(tmp_path.iterdir()) == []
