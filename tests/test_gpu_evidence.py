"""`make gpu-evidence`: refused without a GPU; with one, a failing job stops no other and leaves nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import nm2trt
from nm2trt.backends.cuda import probe_gpus
from tools.gpu import evidence
from tools.gpu.evidence import Job

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
    outcomes = evidence.run(found, tmp_path, seconds=60)
    assert [one.status for one in outcomes] == [1, None, 0]
    assert [path.name for path in (tmp_path / "stages").iterdir()] == ["prove-conv.json"]
    text = (tmp_path / "summary.md").read_text()
    assert "| wrong | status 1 |" in text
    assert "the engine is gone" in text
    assert "| hangs | not finished | 1 | stopped after 1 s |" in text
    assert "| prove-conv | sparse-on over dense | 1.250x | 1.200 to 1.300 |" in text


def test_what_is_done_is_not_run_again(tmp_path):
    job = Job("once", 60, python("open('runs', 'a').write('x')"))
    evidence.run([job], tmp_path, seconds=60)
    (outcome,) = evidence.run([job], tmp_path, seconds=60)
    assert outcome.status == 0
    assert (tmp_path / "runs").read_text() == "x"


def test_no_time_is_told(tmp_path):
    (outcome,) = evidence.run([Job("late", 60, python(""))], tmp_path, seconds=0.0)
    assert (outcome.status, outcome.last) == (None, "no time was left")


@pytest.mark.parametrize("modules", [(), ("tensorrt",), ("tensorrt", "tensorrt_rtx")], ids=str)
def test_every_job_is_there_and_has_its_own_name(tmp_path, modules):
    found = evidence.jobs(tmp_path, minutes=30, modules=modules)
    names = [job.name for job in found]
    assert len(set(names)) == len(names)
    assert ("twins" in names) == ("tensorrt" in modules)
    for job in found:
        scripts = [word for word in job.command if word.endswith(".py")]
        assert [word for word in scripts if not Path(word).is_file()] == []


def test_the_report_shows_the_folder(tmp_path, capsys):
    from nm2trt.cli import main

    job = Job("prove", 60, python(f"import json; print(json.dumps({REPORT!r}))"), "stages/prove-conv.json")
    evidence.run([job], tmp_path, seconds=60)
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
