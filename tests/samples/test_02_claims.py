"""Sample 02's comparison of claims: processes, resuming, deadline, and the intervals of its tables."""

import gzip
import importlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples" / "02_methods"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four IDX files: classes that differ in brightness."""
    made = tmp_path_factory.mktemp("fashion")
    random = np.random.default_rng(0)
    for part, count in (("train", 256), ("t10k", 100)):
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = (random.integers(0, 30, (count, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
        for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
            head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (made / f"{part}-{kind}.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return made


@pytest.fixture
def table(monkeypatch):
    monkeypatch.syspath_prepend(str(SAMPLE))
    yield importlib.import_module("claims_table")
    for name in ("claims", "claims_table", "claims_run", "claims_jobs"):
        sys.modules.pop(name, None)


def claims(*words):
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, str(SAMPLE / "claims.py"), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture
def one_run(table, monkeypatch):
    """Make one run in this process, which has torch."""

    def run(*words):
        made = importlib.import_module("claims")
        monkeypatch.setattr(sys, "argv", ["claims.py", *map(str, words)])
        torch = pytest.importorskip("torch")
        threads = torch.get_num_threads()
        try:
            return made.main()
        finally:
            torch.set_num_threads(threads)

    return run


def test_it_goes_on_where_it_was_with_a_process_for_each_run(folder, tmp_path, table, one_run):
    globs = ("dense_seed0", "fcpts-learned_90_seed0")
    words = ["--data", folder, "--out", tmp_path, "--jobs", 2, "--steps", 6, "--distill-steps", 2]
    assert one_run(*words, "--one", globs[0]) == 0
    words += [w for glob in globs for w in ("--only", glob)]
    kept = tmp_path / "fcpts-learned_90_seed0.json"
    first = claims(*words)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "minutes of one core" in first.stdout
    records = {glob: json.loads((tmp_path / f"{glob}.json").read_text()) for glob in globs}
    for name, record in records.items():
        assert f"--one {name} --steps 6 " in record["command"]
        assert str(tmp_path) not in record["command"]
    assert records["fcpts-learned_90_seed0"]["rate"] == pytest.approx(0.9, abs=1e-4)
    assert records["dense_seed0"]["versions"].keys() == {"python", "torch", "numpy"}

    before = kept.stat().st_mtime_ns
    again = claims(*words)
    assert "2 of 2 runs" in again.stdout
    assert kept.stat().st_mtime_ns == before
    other = claims(*words, "--batch", 32)
    assert other.returncode != 0
    assert "was made with" in other.stderr

    table.summarise(tmp_path)
    result = json.loads((tmp_path / "claims.json").read_text())
    assert {row["method"] for row in result["accuracies"]} == {"dense", "fcpts-learned"}
    assert all("correct" not in run and run["command"] for run in result["runs"])
    assert (tmp_path / "claims.png").stat().st_size > 1000


@pytest.mark.parametrize("method", ["sr-ste", "lbc", "spre", "magnitude"])
def test_trained_runs_hold_their_pattern(method, folder, table):
    claims_run = importlib.import_module("claims_run")
    jobs = importlib.import_module("claims_jobs")
    settings = jobs.Settings(steps=8, batch=32)
    threads = claims_run.torch.get_num_threads()
    record = claims_run.run(jobs.Job(method, "1:16", 0), claims_run.load(folder), settings, Path("unused"))
    claims_run.torch.set_num_threads(threads)
    assert record["sparsity"] == 15 / 16
    assert len(record["sad_by_quarter"]) == 4
    assert (record.get("efoldings", 0) > 0) == (method in {"sr-ste", "spre"})


def test_the_deadline_leaves_no_unfinished_run(folder, tmp_path):
    found = claims(
        "--data", folder, "--out", tmp_path, "--only", "dense_seed0", "--steps", 100_000, "--minutes", 0.01
    )
    assert found.returncode == 0
    assert "0 of 1 runs" in found.stdout
    assert not list(tmp_path.glob("*.json"))


def test_the_full_form_has_four_more_seeds_of_the_main_comparison():
    default, full = claims("--list").stdout.split(), claims("--list", "--full").stdout.split()
    assert (len(default), len(full)) == (102, 114)
    assert {name.rpartition("_seed")[0] for name in set(full) - set(default)} == {
        f"{method}_1-16" for method in ("sr-ste", "ste", "lbc")
    }


def test_a_further_seed_is_run_by_its_name(folder, tmp_path, one_run):
    listed = claims("--list", "--more-seeds", 1).stdout.split()
    assert "ste_1-16_seed3" in listed
    assert one_run("--data", folder, "--out", tmp_path, "--steps", 4, "--one", "ste_1-16_seed3") == 0
    assert json.loads((tmp_path / "ste_1-16_seed3.json").read_text())["settings"]["steps"] == 4
    assert "there is no run nothing" in claims("--data", folder, "--out", tmp_path, "--one", "nothing").stderr


FAILS = """
import os, pathlib, time
here, until = pathlib.Path(__file__).parent, time.monotonic() + 100
(here / f"{os.getpid()}.came").touch()
while len(list(here.glob("*.came"))) < 2 and time.monotonic() < until:
    time.sleep(0.01)
raise ImportError(f"no torch for {len(list(here.glob('*.came')))}")
"""


def test_two_runs_at_once_that_fail_are_named(folder, tmp_path, monkeypatch):
    """Each waits for the other, so that neither would fail so by itself."""
    (tmp_path / "torch.py").write_text(FAILS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    names = ("dense_seed0", "dense_seed1")
    only = [word for name in names for word in ("--only", name)]
    found = claims("--data", folder, "--out", tmp_path / "out", "--jobs", 2, *only)
    assert found.returncode == 1
    for name in names:
        assert f"{name} failed" in found.stdout
        assert "no torch for 2" in (tmp_path / "out" / f"{name}.log").read_text()


def test_intervals_against_known_values(table):
    # Differences of three runs worked out by hand: mean 1.13, s.d. 0.4116, t = 4.303.
    low, high = table.interval_over_seeds([1.17, 0.70, 1.52])
    assert (low, high) == (pytest.approx(0.1075, abs=2e-3), pytest.approx(2.1525, abs=2e-3))
    assert table.interval_over_seeds([1.0]) is None
    # 30 of 100 images gained and 10 lost: mean 0.2, variance of {-1, 0, 1} with n - 1 is 0.3636.
    row = np.array([1.0] * 30 + [-1.0] * 10 + [0.0] * 60)
    low, high = table.interval_over_images(row[None])
    assert (high - low) / 2 == pytest.approx(1.96 * (0.3636 / 100) ** 0.5, rel=1e-3)


def test_differences_pair_runs_of_one_seed_only(table):
    def run(method, seed, right):
        bits = np.zeros(8, bool)
        bits[:right] = True
        packed = table.base64.b64encode(np.packbits(bits).tobytes()).decode()
        return (method, "1:16", seed), {"correct": packed, "test_images": 8, "sad_by_quarter": [4, 3, 2, 1]}

    runs = dict([run("ste", 0, 4), run("ste", 1, 2), run("sr-ste", 1, 4), run("sr-ste", 2, 8)])
    (row,) = table.differences(runs)
    assert (row["by_seed"], row["over_seeds"]) == ([25.0], None)
    assert [r["second_half_over_ste"] for r in table.divergence(runs)] == [[1.0, 1.0], [1.0]]
