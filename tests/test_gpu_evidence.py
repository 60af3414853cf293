"""`make gpu-evidence`: refused without a GPU; with one, a failing job stops no other and leaves nothing half-written."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nm2trt
from nm2trt.backends.cuda import Gpu, probe_gpus
from nm2trt.errors import InputError
from tools.gpu import evidence, evidence_run
from tools.gpu.evidence_run import Job

ROOT = Path(__file__).parents[1]
REPORT = {
    "measured": True,
    "why_not": "",
    "comparisons": [{"name": "sparse-on", "against": "dense", "speedup": 1.25, "low": 1.2, "high": 1.3}],
}


def python(code):
    return (sys.executable, "-c", code)


@pytest.mark.skipif(bool(probe_gpus()[0]), reason="there is a GPU")
def test_without_a_gpu_it_is_exit_4_and_one_sentence(tmp_path):
    script = str(ROOT / "tools" / "gpu" / "evidence.py")
    ran = subprocess.run(
        [sys.executable, script, str(tmp_path / "out")], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 4
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("gpu-evidence: gathering evidence takes a GPU, and there is none here")
    assert ran.stdout == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(bool(probe_gpus()[0]), reason="there is a GPU")
def test_make_asks_for_a_gpu_before_it_fetches_anything(tmp_path):
    """A bare Python, without numpy, has to be enough."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec {sys.base_prefix}/bin/python3 -S -E -B "$@"\n')
    bare.chmod(0o755)
    words = ["gpu-evidence", f"OUT={tmp_path / 'out'}", f"PYTHON={bare}", f"VENV={tmp_path / 'venv'}"]
    ran = subprocess.run(["make", "-C", ROOT, *words], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("gpu-evidence: gathering evidence takes a GPU, and there is none here")
    assert "Error 4" in ran.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_a_job_that_fails_or_hangs_stops_no_other(tmp_path):
    found = [
        Job(
            "wrong",
            60,
            python("print('{'); raise SystemExit('the engine is gone')"),
            "stages/prove-wrong.json",
        ),
        Job("hangs", 1, python("import time; time.sleep(60)")),
        Job("prove", 60, python(f"import json; print(json.dumps({REPORT!r}))"), "stages/prove-conv.json"),
    ]
    outcomes = evidence_run.run(found, tmp_path, seconds=60)
    assert [one.status for one in outcomes] == [1, None, 0]
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["prove-conv.json"]
    text = (tmp_path / "summary.md").read_text()
    assert "| wrong | status 1 |" in text
    assert "the engine is gone" in text
    assert "| hangs | not finished | 1 | stopped after 1 s |" in text
    assert "| prove | done | 0 | its result is in stages/prove-conv.json |" in re.sub(
        r"\| \d+ \|", "| 0 |", text
    )
    assert "| prove-conv | sparse-on over dense | 1.250x | 1.200 to 1.300 |" in text


def test_what_is_done_is_not_run_again(tmp_path):
    job = Job("once", 60, python("open('runs', 'a').write('x')"))
    evidence_run.run([job], tmp_path, seconds=60)
    (outcome,) = evidence_run.run([job], tmp_path, seconds=60)
    assert outcome.status == 0
    assert (tmp_path / "runs").read_text() == "x"


def test_a_job_finds_what_the_caller_finds(tmp_path, monkeypatch):
    """A TensorRT that only PYTHONPATH leads to is found by the jobs too."""
    (tmp_path / "only_here.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (outcome,) = evidence_run.run(
        [Job("imports", 60, python("import only_here, nm2trt"))], tmp_path, seconds=60
    )
    assert outcome.status == 0, outcome.last


def test_no_time_is_told(tmp_path):
    (outcome,) = evidence_run.run([Job("late", 60, python(""))], tmp_path, seconds=0.0)
    assert (outcome.status, outcome.last, outcome.ended) == (None, "no time was left", "not run")


@pytest.mark.parametrize(
    "ending", ["os.kill(os.getpid(), 9)", "os.abort()", "os.write(os.open('/dev/full', 1), b'x')"]
)
def test_a_job_that_something_ends_is_told_and_the_next_one_runs(tmp_path, ending):
    found = [Job("ends", 60, python(f"import os; {ending}")), Job("next", 60, python(""))]
    ended, after = evidence_run.run(found, tmp_path, seconds=60)
    assert after.status == 0
    words = {-9: "killed, as the system does where memory runs out", -6: "ended by SIGABRT", 1: "status 1"}
    assert f"| ends | {words[ended.status]} |" in (tmp_path / "summary.md").read_text()
    assert ended.status != 1 or "No space left on device" in ended.last


def test_a_program_that_is_missing_stops_no_other(tmp_path):
    found = [Job("gone", 60, ("/no/such/python", "-V")), Job("next", 60, python(""))]
    assert [one.status for one in evidence_run.run(found, tmp_path, seconds=60)] == [127, 0]
    assert "/no/such/python cannot be run: No such file" in (tmp_path / "summary.md").read_text()


def test_what_a_job_has_started_ends_with_it(tmp_path):
    child = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(99)']).pid)"
    evidence_run.run([Job("leaves", 60, python(child))], tmp_path, seconds=60)
    pid = int((tmp_path / "logs" / "leaves.log").read_text())
    deadline = time.monotonic() + 30  # what was killed may still be ending
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_running(pid)


def is_running(pid):
    """Tell whether a process is neither gone nor dead and not yet taken by the system's first process."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_run_that_is_stopped_ends_its_job_and_goes_on_later(tmp_path, monkeypatch, capsys, number):
    out = tmp_path / "out"
    slow = f"import os, time; os.kill({os.getpid()}, {int(number)}); time.sleep(60)"
    found = [Job("first", 60, python("")), Job("slow", 60, python(slow)), Job("last", 60, python(""))]
    monkeypatch.setattr(evidence, "require_gpu", lambda _: Gpu("Test GPU", "sm86", True))
    monkeypatch.setattr(evidence, "ask", lambda *_: (True, "it is here"))
    monkeypatch.setattr(evidence, "jobs", lambda *_, **__: found)
    assert evidence.main([str(out)]) == 128 + number
    assert capsys.readouterr().out.endswith("says how far it came, run it again to go on\n")
    text = (out / "summary.md").read_text()
    assert "| first | done |" in text
    assert "the user stopped it |" in text
    assert "| last | not run | 0 | not reached; run it again" in text
    found[1] = Job("slow", 60, python(""))
    assert evidence.main([str(out)]) == 0
    assert (out / "summary.md").read_text().count("| done |") == 3
    assert evidence.main([str(out), "--only", "last"]) == 0
    assert (out / "summary.md").read_text().count("| done |") == 3
    assert evidence.main([str(out), "--only", "lost"]) == 2
    assert "no job is called lost; there are first, slow, last" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch, capsys):
    (tmp_path / "out").write_text("")
    monkeypatch.setattr(evidence, "require_gpu", lambda _: Gpu("Test GPU", "sm86", True))
    monkeypatch.setattr(evidence, "ask", lambda *_: (True, "it is here"))
    assert evidence.main([str(tmp_path / "out")]) == 2
    assert "gpu-evidence: " in capsys.readouterr().err.splitlines()[-1]


def test_the_evidence_of_two_machines_is_not_mixed(tmp_path, monkeypatch):
    evidence_run.run([], tmp_path, seconds=60)
    monkeypatch.setattr(
        evidence_run, "probe_gpus", lambda: ((Gpu("Another", "sm90", True, "GPU-1"),), "a driver")
    )
    with pytest.raises(InputError, match=r"holds evidence from other GPUs .*name another folder"):
        evidence_run.run([], tmp_path, seconds=60)


def test_a_record_that_was_cut_short_is_made_again(tmp_path):
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "once.done.json").write_text('{"name": "on')
    job = Job("once", 60, python("open('runs', 'a').write('x')"))
    assert evidence_run.run([job], tmp_path, seconds=60)[0].status == 0
    assert (tmp_path / "runs").exists()


def test_what_prove_found_before_the_gpu_failed_is_kept_and_an_error_is_not(tmp_path):
    lost = {"measured": False, "why_not": "the third | engine\nfinds no memory", "comparisons": []}
    found = [
        Job(
            "lost", 60, python(f"print({json.dumps(lost)!r}); raise SystemExit(4)"), "stages/prove-lost.json"
        ),
        Job("bad", 60, python("print('{\"error\": 1}'); raise SystemExit(4)"), "stages/prove-bad.json"),
    ]
    assert [one.status for one in evidence_run.run(found, tmp_path, seconds=60)] == [4, 4]
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["prove-lost.json"]
    text = (tmp_path / "summary.md").read_text()
    assert "| prove-lost | not measured | | the third / engine finds no memory |" in text


def test_the_last_job_takes_the_time_that_is_left(tmp_path):
    job = Job("gain", 0, python("import sys; print(*sys.argv[1:])"), takes_rest=True)
    word, minutes = evidence_run.run([job], tmp_path, seconds=600)[0].last.split()
    assert word == "--minutes"
    assert 8 < float(minutes) <= 9


def test_tensorrt_is_taken_from_the_environment_that_has_it(tmp_path, monkeypatch):
    other = tmp_path / "bin" / "python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho TensorRT 8.6.0\n")
    other.chmod(0o755)
    monkeypatch.setenv("TRT_ENV", str(tmp_path))
    monkeypatch.setattr(evidence, "_ASK_TRT", "raise ImportError('no tensorrt here')")
    assert evidence.find_trt() == (str(other), f"TensorRT 8.6.0 in {other}.", "")
    other.write_text("#!/bin/sh\necho 'it does not load' >&2; exit 1\n")
    python, _, missing = evidence.find_trt()
    assert (
        missing
        == "no TensorRT (it does not load); pip install tensorrt, or `make trt-env`, or --trt-python PYTHON"
    )
    prove = next(
        job for job in evidence.jobs(tmp_path, trt_python=python, no_trt=missing) if job.name == "twins"
    )
    outcome, summary = (
        evidence_run.run([prove], tmp_path, seconds=60)[0],
        (tmp_path / "summary.md").read_text(),
    )
    assert outcome.status is None
    assert "| twins | not run | 0 | no TensorRT (it does not load)" in summary


def test_tensorrt_for_rtx_is_left_out_where_it_has_no_kernels(monkeypatch):
    monkeypatch.setattr(evidence, "ask", lambda *_: (True, "1.7.1.116 SM75 SM86 CURRENT"))
    assert evidence.why_no_rtx("sm86") == ""
    assert evidence.why_no_rtx("sm90") == "TensorRT for RTX 1.7.1.116 has no kernels for sm90"
    monkeypatch.setattr(evidence, "ask", lambda *_: (False, "No module named 'tensorrt_rtx'"))
    assert evidence.why_no_rtx("sm86").startswith(
        "no TensorRT for RTX (No module named 'tensorrt_rtx'); pip install"
    )


def test_every_job_is_there_and_has_its_own_name(tmp_path):
    found = evidence.jobs(tmp_path, no_rtx="it has no kernels here")
    names = [job.name for job in found]
    assert len(set(names)) == len(names)
    assert all(bool(job.left_out) == ("rtx" in job.name) for job in found)
    for job in found:
        scripts = [word for word in job.command if word.endswith(".py")]
        assert [word for word in scripts if not Path(word).is_file()] == []


def test_the_report_shows_the_folder(tmp_path, capsys):
    from nm2trt.cli import main

    job = Job("prove", 60, python(f"import json; print(json.dumps({REPORT!r}))"), "stages/prove-conv.json")
    evidence_run.run([job], tmp_path, seconds=60)
    assert main(["report", str(tmp_path), "-o", str(tmp_path / "report.md")]) == 0
    assert "sparse-on is 1.25x dense" in (tmp_path / "report.md").read_text()


def test_results_of_the_queue_become_a_run_that_report_shows(tmp_path):
    (tmp_path / "summary.md").write_text("kept")
    (tmp_path / "prove-net.json").write_text(json.dumps(REPORT))
    (tmp_path / "prove86.json").write_text(json.dumps(REPORT))
    assert evidence.main([str(tmp_path), "--adopt"]) == 0
    assert evidence.adopt(tmp_path) == ["prove-86", "prove-net"]
    assert sorted(path.name for path in (tmp_path / "stages").iterdir()) == [
        "prove-86.json",
        "prove-net.json",
    ]
    assert (tmp_path / "summary.md").read_text() == "kept"


@pytest.mark.parametrize("folder", ["h200", "h200_second"])
def test_report_shows_what_an_h200_measured(folder, tmp_path):
    page = tmp_path / "page.md"
    nm2trt.report(ROOT / "benchmarks" / "results" / "gpu" / folder, output=page)
    assert "NVIDIA H200" in page.read_text()
    if folder == "h200_second":
        assert "sparse-on is 1.06x sparse-off" in page.read_text()
        assert (
            "**1.01x to 1.06x** speed (of 2 models, sparse-on against sparse-off on NVIDIA H200)"
            in page.read_text()
        )
