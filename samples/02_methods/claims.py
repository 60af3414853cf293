"""Do the methods do what their papers claim, on Fashion-MNIST with a network that sparsity hurts?

    python samples/02_methods/claims.py --data FOLDER --jobs 2           # three seeds, a process per run
    python samples/02_methods/claims.py --data FOLDER --jobs 2 --full    # twice the steps, more seeds
    python samples/02_methods/claims.py --summarise                      # the tables and the plot

FOLDER holds the four IDX files of Fashion-MNIST. A run writes one JSON file, so a stopped comparison goes on
from where it was; the runs that tell most come first. `--minutes` stops it in time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from claims_jobs import Job, Settings, jobs

SCRIPT = "samples/02_methods/claims.py"


@dataclass
class Pool:
    """Runs, at most so many at once, until a deadline."""

    options: argparse.Namespace
    settings: Settings
    deadline: float
    running: dict[str, tuple[Job, subprocess.Popen[bytes], float]] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)

    def work(self, todo: list[Job]) -> None:
        """Start and collect runs; those unfinished at the deadline are stopped and leave no file."""
        todo, total = list(todo), len(todo)
        while (todo or self.running) and time.monotonic() < self.deadline:
            while len(self.running) < self.options.jobs:
                job = next((job for job in todo if self._can_start(job)), None)
                if job is None:
                    break
                todo.remove(job)
                self._start(job)
            if not self.running:
                break  # what is left cannot end in time, or lacks its dense network
            self._collect(total)
            time.sleep(0.1)
        self.stop()

    def stop(self) -> None:
        for _, process, _ in self.running.values():
            process.terminate()
        for _, process, _ in self.running.values():
            process.wait()
        self.running.clear()

    def _can_start(self, job: Job) -> bool:
        if job.needs_dense and not path_of(self.options.out, Job("dense", "", job.seed)).is_file():
            return False
        known = self.seconds.get(job.method)
        expected = statistics.mean(known) if known else 0.0
        return time.monotonic() + expected < self.deadline

    def _start(self, job: Job) -> None:
        one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        with (self.options.out / f"{job.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, __file__, *words(job, self.settings, self.options.data, self.options.out)],
                env={**os.environ, **one_thread},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.running[job.name] = job, process, time.monotonic()

    def _collect(self, total: int) -> None:
        for name, (job, process, start) in list(self.running.items()):
            code = process.poll()
            if code is None:
                continue
            del self.running[name]
            took = time.monotonic() - start
            if code:
                self.failed.append(name)
                print(f"{name} failed with exit code {code}; {self.options.out / name}.log says why")
                continue
            self.seconds.setdefault(job.method, []).append(took)
            done = sum(len(times) for times in self.seconds.values())
            top1 = json.loads(path_of(self.options.out, job).read_text())["top1"]
            print(f"{done:3} of {total}  {name:32} {100 * top1:6.2f} %  {took:5.0f} s", flush=True)


def words(job: Job, settings: Settings, data: str | Path, out: str | Path) -> list[str]:
    """Return the arguments that run one job."""
    shared = [w for name, value in asdict(settings).items() for w in (f"--{name.replace('_', '-')}", value)]
    given = ["--one", job.name, *shared, "--data", data, "--out", out]
    return [str(word) for word in given]


def path_of(out: Path, job: Job) -> Path:
    return out / f"{job.name}.json"


def is_done(path: Path, settings: Settings) -> bool:
    """Whether a run's file is there and was made with these settings."""
    if not path.is_file():
        return False
    made_with = json.loads(path.read_text())["settings"]
    if made_with != asdict(settings):
        raise SystemExit(f"{path} was made with {made_with}; name another --out, or remove it")
    return True


def run_one(job: Job, settings: Settings, options: argparse.Namespace) -> None:
    from claims_run import load, run

    from nm2trt.files import write_atomic

    record = run(job, load(options.data), settings, options.out / f"dense_seed{job.seed}.pt")
    command = shlex.join(["python", SCRIPT, *words(job, settings, "FOLDER", "OUT")])
    write_atomic(path_of(options.out, job), json.dumps({"command": command, **record}, indent=1) + "\n")


@contextlib.contextmanager
def stopped_by_signals(pool: Pool) -> Iterator[None]:
    """Stop the runs with this process."""

    def leave(*_: Any) -> None:
        raise SystemExit("stopped; the same command goes on where this one was")

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except KeyboardInterrupt:
        leave()
    finally:
        pool.stop()
        signal.signal(signal.SIGTERM, before)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the four IDX files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, default=Path("results", "02_methods_claims"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, each with one thread")
    parser.add_argument("--minutes", type=float, default=24 * 60, help="stop after that many")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--more-seeds", type=int, default=0, help="at the end, for sr-ste, ste, lbc at 1:16")
    parser.add_argument("--full", action="store_true", help="twice the steps, and four more seeds")
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--only", action="append", help="glob on names of runs; see --list")
    parser.add_argument("--list", action="store_true", help="print the names of the runs")
    parser.add_argument("--one", metavar="NAME", help="make this run, here")
    parser.add_argument(
        "--summarise", action="store_true", help="make tables and plot from the runs in --out"
    )
    options = parser.parse_args(words)
    if min(options.jobs, options.seeds, options.steps) < 1 or options.minutes <= 0:
        parser.error("--jobs, --seeds, --steps and --minutes must be positive")
    if options.data is None and not (options.list or options.summarise):
        parser.error("name the folder of the four IDX files with --data")
    return options


def main() -> int:
    options = arguments()
    if options.summarise:
        from claims_table import summarise

        summarise(options.out)
        return 0
    settings = Settings(**{name: getattr(options, name) for name in asdict(Settings())})
    if options.full:
        settings, options.more_seeds = replace(settings, steps=2 * settings.steps), max(4, options.more_seeds)
    everything = jobs(options.seeds, options.more_seeds)
    if options.list:
        print(*(job.name for job in everything), sep="\n")
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        seed = options.one.rpartition("seed")[2]
        found = [j for j in jobs(int(seed) + 1 if seed.isdigit() else 0, 0) if j.name == options.one]
        if not found:
            raise SystemExit(f"there is no run {options.one}; --list names them")
        job = found[0]
        run_one(job, settings, options)
        return 0
    globs = options.only or ["*"]
    wanted = [job for job in everything if any(fnmatchcase(job.name, glob) for glob in globs)]
    todo = [job for job in wanted if not is_done(path_of(options.out, job), settings)]
    pool = Pool(options, settings, time.monotonic() + 60 * options.minutes)
    with stopped_by_signals(pool):
        pool.work(todo)
    left = [job.name for job in todo if not path_of(options.out, job).is_file()]
    print(f"{len(wanted) - len(left)} of {len(wanted)} runs are in {options.out}; left: {len(left)}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"this call used {(used.ru_utime + used.ru_stime) / 60:.1f} minutes of one core")
    return 1 if pool.failed else 0


if __name__ == "__main__":
    sys.exit(main())
