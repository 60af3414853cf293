"""Run jobs one after the other, each with its own limit, and tell in `summary.md` how each ended.

The summary is there from the beginning and is written again after every job, so whatever ends the run, it says how far it came.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nm2trt.backends.cuda import probe_gpus
from nm2trt.errors import InputError
from nm2trt.files import write_atomic
from nm2trt.reporting.folder import RunFolder

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_TAIL_BYTES = 1 << 16
_NOT_REACHED = "not reached; run it again in this folder to go on"


@dataclass(frozen=True)
class Job:
    """One check.

    Args:
        name: Its name, which its log has too.
        limit_s: Longest time, in seconds.
        command: Its words.
        json: File below the folder that takes its standard output, as JSON; "" if it writes its own.
        takes_rest: Whether it may use all the time that is left, and is told how much by `--minutes`.
        left_out: Why it cannot run here, in a sentence; "" if it can.
    """

    name: str
    limit_s: int
    command: tuple[str, ...]
    json: str = ""
    takes_rest: bool = False
    left_out: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        name: Its name.
        status: Exit status, negative if a signal ended it; None if it was stopped, or never began.
        seconds: Wall time; 0 if it never began.
        last: Last line of its log, or why it did not end by itself.
    """

    name: str
    status: int | None
    seconds: float
    last: str

    @property
    def ended(self) -> str:
        """How it ended, in words."""
        if self.status is None:
            return "not finished" if self.seconds else "not run"
        if self.status == -signal.SIGKILL:
            return "killed, as the system does where memory runs out"
        if self.status < 0:
            return f"ended by {signal.Signals(-self.status).name}"
        return f"status {self.status}" if self.status else "done"


def run(found: Sequence[Job], out: Path, *, seconds: float, about: Sequence[str] = ()) -> list[Outcome]:
    """Run the jobs that are not done yet, and write the summary before the first and after each.

    Args:
        found: The jobs.
        out: The folder, made if it is not there.
        seconds: What all may take.
        about: What the summary says of the machine, one sentence each.

    Raises:
        InputError: The folder holds another machine's evidence.
        OutputError, OSError: It cannot be written.
    """
    begun, outcomes = time.perf_counter(), list[Outcome]()
    RunFolder(out).start(
        "gpu-evidence", [Path(job.json).stem for job in found if job.json.startswith("stages/")]
    )
    _claim(out)
    (out / "logs").mkdir(exist_ok=True)

    def tell() -> None:
        waiting = [Outcome(job.name, None, 0.0, _NOT_REACHED) for job in found[len(outcomes) :]]
        write_atomic(out / "summary.md", summary([*outcomes, *waiting], out, about))

    tell()
    for job in found:
        left = seconds - (time.perf_counter() - begun)
        done, start = out / "logs" / f"{job.name}.done.json", time.perf_counter()
        try:
            outcome = _earlier(done) or (_run(job, out, left) if left >= 1 else None)
        except BaseException as error:
            why = "the user stopped it" if isinstance(error, KeyboardInterrupt) else str(error)
            outcomes.append(Outcome(job.name, None, round(time.perf_counter() - start, 1), why))
            tell()
            raise
        outcomes.append(outcome or Outcome(job.name, None, 0.0, "no time was left"))
        if outcomes[-1].status == 0:
            write_atomic(done, json.dumps(asdict(outcomes[-1])) + "\n")
        print(f"{job.name}: {outcomes[-1].ended}, {outcomes[-1].seconds:.0f} s", flush=True)
        tell()
    return outcomes


def _claim(out: Path) -> None:
    """Keep which GPUs the folder is about: figures of two machines are not to be mixed in it."""
    here = "\n".join(f"{gpu.name} {gpu.target} {gpu.uuid}" for gpu in probe_gpus()[0]) + "\n"
    path = out / "gpus.txt"
    if path.exists() and path.read_text() != here:
        raise InputError(f"{out} holds evidence from other GPUs ({path.name}); name another folder")
    write_atomic(path, here)


def _earlier(done: Path) -> Outcome | None:
    """Return how a job ended in an earlier call, if it is done."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Outcome(**json.loads(done.read_text()))
    return None


def _run(job: Job, out: Path, left: float) -> Outcome:
    if job.left_out:
        return Outcome(job.name, None, 0.0, job.left_out)
    limit_s = left if job.takes_rest else min(job.limit_s, left)
    # The job's own time box ends before it is stopped, so that it can write what it has.
    box = ("--minutes", f"{max(limit_s - 60, limit_s / 2) / 60:.2f}") if job.takes_rest else ()
    log, start = out / "logs" / f"{job.name}.log", time.perf_counter()
    taken = out / f"{job.json}.part" if job.json else None
    # What was there before stays: TensorRT may be found through it.
    paths = (str(ROOT), str(HERE), os.environ.get("PYTHONPATH", ""))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        with contextlib.ExitStack() as stack:
            errors = stack.enter_context(log.open("wb"))
            output = errors if taken is None else stack.enter_context(taken.open("wb"))
            status = _wait(
                (*job.command, *box), limit_s, out, environment, (output.fileno(), errors.fileno())
            )
        if taken is not None and _is_result(taken, status):
            # Whole or not at all: a report reads what lies there.
            taken.replace(out / job.json)
    finally:
        if taken is not None:
            taken.unlink(missing_ok=True)
    last = f"stopped after {limit_s:.0f} s" if status is None else _last_line(log)
    if not last:
        last = f"its result is in {job.json}" if status == 0 and job.json else "it printed nothing"
    return Outcome(job.name, status, round(time.perf_counter() - start, 1), last[:200])


def _wait(
    command: Sequence[str],
    limit_s: float,
    folder: Path,
    environment: dict[str, str],
    streams: tuple[int, int],
) -> int | None:
    """Run a command in a group of its own, which ends with it; return None if it took too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=streams[0],
            stderr=streams[1],
            cwd=folder,
            env=environment,
            start_new_session=True,
        )
    except OSError as error:
        os.write(streams[1], f"{command[0]} cannot be run: {error.strerror}\n".encode())
        return 127
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        # What the job has started ends with it, also where the job itself has ended.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _is_result(path: Path, status: int | None) -> bool:
    """Tell whether a job's output is worth keeping: a whole result, or what `prove` found before the GPU failed."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return False
    return status == 0 or (isinstance(found, dict) and "measured" in found)


def _last_line(log: Path) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def summary(outcomes: Sequence[Outcome], out: Path, about: Sequence[str] = ()) -> str:
    """Return what ran here, with the proved speeds, as Markdown."""
    gpus, driver = probe_gpus()
    names = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in gpus) or "no GPU"
    of = ", the first of them is used" if len(gpus) > 1 else ""
    lines = ["# Evidence from a GPU", "", f"{names}{of}; {driver}.", *about, ""]
    lines += ["| job | ended | s | last line |", "|---|---|---|---|"]
    lines += [f"| {one.name} | {one.ended} | {one.seconds:.0f} | {_cell(one.last)} |" for one in outcomes]
    proved = sorted((out / "stages").glob("prove-*.json"))
    if proved:
        lines += ["", "| twin | pair | speed | range |", "|---|---|---|---|"]
    for path in proved:
        report = json.loads(path.read_text())
        if not report["measured"]:
            lines.append(f"| {path.stem} | not measured | | {_cell(report['why_not'])} |")
        for pair in report["comparisons"]:
            speed, span = f"{pair['speedup']:.3f}x", f"{pair['low']:.3f} to {pair['high']:.3f}"
            lines.append(f"| {path.stem} | {pair['name']} over {pair['against']} | {speed} | {span} |")
    lines += ["", "Logs: `logs/`. Raw figures: `*.json`, `trt/`. `nm2trt report` shows the twins as a page."]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())
