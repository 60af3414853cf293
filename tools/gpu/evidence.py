"""Run every GPU check on this machine and write one folder of figures, logs and a summary.

    make gpu-evidence OUT=DIR          or  python tools/gpu/evidence.py DIR [--minutes 30] [--only NAME ...]

Needs a CUDA GPU and PyTorch; with TensorRT 8.6 to 11, and with TensorRT for RTX, their checks run too. Jobs run one after the
other, each with its own limit; one that fails or takes too long is told in `summary.md` and does not stop the next. A job
that is done is not run again in the same folder, so a run that was cut short goes on. Nothing changes the GPU's settings.
`nm2trt report DIR` shows the result. Without a GPU: exit status 4 and one sentence.
`--adopt` needs no GPU: it makes a folder of results of `queue.sh` one that `nm2trt report` shows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

NO_GPU = 4
NAMES = ("conv-int8", "wide-int8", "wide-fp16", "resnet50-int8", "resnet50-fp16", "minilm-fp16")
_GPU_TESTS = ("tests/nm", "tests/sparsity", "tests/engine/twin", "tests/benchmarks", "tests/backends")


@dataclass(frozen=True)
class Job:
    """One check.

    Args:
        name: Its name, which its log has too.
        limit_s: Longest time, in seconds.
        command: Its words.
        json: File below the folder that takes its standard output, as JSON; "" if it writes its own.
    """

    name: str
    limit_s: int
    command: tuple[str, ...]
    json: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        name: Its name.
        status: Exit status; None if it was stopped at its limit, or there was no time left for it.
        seconds: Wall time.
        last: Last line of its log.
    """

    name: str
    status: int | None
    seconds: float
    last: str


def jobs(out: Path, *, minutes: float, modules: Sequence[str]) -> list[Job]:
    """Return what runs here, the most telling first.

    Args:
        out: The folder.
        minutes: What all may take; the table of gains takes what is left of it.
        modules: The engine libraries that are installed: "tensorrt", "tensorrt_rtx".
    """
    python, project = sys.executable, ("--project", str(ROOT))
    kit = {path.stem: (python, str(path)) for path in HERE.glob("*.py")}
    models = str(out / "models")
    tests = (
        "-p",
        "no:cacheprovider",
        "-q",
        "-m",
        "gpu",
        "-c",
        str(ROOT / "setup.cfg"),
        "--rootdir",
        str(ROOT),
    )
    found = [
        Job("doctor", 60, (python, "-m", "nm2trt", "doctor", "--json"), "doctor.json"),
        Job("tests", 600, (python, "-m", "pytest", *tests, *(str(ROOT / part) for part in _GPU_TESTS))),
        Job("models", 600, (*kit["models"], models, *NAMES, *project)),
    ]
    for backend, module in (("trt", "tensorrt"), ("trt-rtx", "tensorrt_rtx")):
        if module in modules:
            found += [_prove(python, backend, name, out) for name in NAMES]
    if "tensorrt" in modules:
        found.append(Job("twins", 900, (*kit["twins"], models, str(out / "trt"), *NAMES, *project)))
    if "tensorrt_rtx" in modules:
        found.append(Job("rtx", 300, (*kit["rtx_probe"], models, str(out / "rtx.json"), *project)))
    found += [
        Job("mask", 120, (*kit["mask_gpu"], str(out / "mask.json"), *project)),
        Job("train", 300, (*kit["train_gpu"], str(out / "train.json"), *project)),
    ]
    spent = sum(job.limit_s for job in found) / 60
    left = max(4.0, minutes - spent)
    table = (python, str(ROOT / "benchmarks" / "gpu_gain.py"), "-o", str(out / "gain.json"))
    gain = (*table, "--minutes", f"{left:.1f}")
    return [*found, Job("gain", int(60 * left) + 60, gain)]


def _prove(python: str, backend: str, name: str, out: Path) -> Job:
    folder = out / "models" / name
    pair = (str(folder / "sparse.onnx"), "--dense", str(folder / "dense.onnx"))
    words = (python, "-m", "nm2trt", "prove", *pair, "--backend", backend, "--json")
    return Job(f"prove-{name}-{backend}", 600, words, f"stages/prove-{name}-{backend}.json")


def run(found: Sequence[Job], out: Path, *, seconds: float) -> list[Outcome]:
    """Run the jobs that are not done yet, and write the summary after each."""
    from nm2trt.reporting.folder import RunFolder

    begun, outcomes = time.perf_counter(), []
    RunFolder(out).start(
        "gpu-evidence", [Path(job.json).stem for job in found if job.json.startswith("stages/")]
    )
    (out / "logs").mkdir(exist_ok=True)
    for job in found:
        left = seconds - (time.perf_counter() - begun)
        done = out / "logs" / f"{job.name}.done.json"
        if done.exists():
            outcomes.append(Outcome(**json.loads(done.read_text())))
        elif left < 1:
            outcomes.append(Outcome(job.name, None, 0.0, "no time was left"))
        else:
            outcomes.append(_run(job, out, min(job.limit_s, left)))
            if outcomes[-1].status == 0:
                done.write_text(json.dumps(asdict(outcomes[-1])) + "\n")
        print(f"{job.name}: {_ended(outcomes[-1])}, {outcomes[-1].seconds:.0f} s", flush=True)
        (out / "summary.md").write_text(summary(outcomes, out))
    return outcomes


def _run(job: Job, out: Path, limit_s: float) -> Outcome:
    log, start = out / "logs" / f"{job.name}.log", time.perf_counter()
    taken = out / f"{job.json}.part" if job.json else None
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))}
    with contextlib.ExitStack() as stack:
        errors = stack.enter_context(log.open("wb"))
        output = errors if taken is None else stack.enter_context(taken.open("wb"))
        process = subprocess.Popen(
            job.command, stdout=output, stderr=errors, cwd=out, env=environment, start_new_session=True
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                # Its own group: what a job has started ends with it.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if taken is not None:
        # Whole or not at all: a report reads what lies there.
        if status == 0:
            taken.replace(out / job.json)
        else:
            taken.unlink()
    lines = log.read_text(errors="replace").strip().splitlines()
    last = f"stopped after {limit_s:.0f} s" if status is None else (lines or [""])[-1]
    return Outcome(job.name, status, round(time.perf_counter() - start, 1), last[:200])


def summary(outcomes: Sequence[Outcome], out: Path) -> str:
    """Return what ran here, with the proved speeds, as Markdown."""
    from nm2trt.backends.cuda import probe_gpus

    gpus, driver = probe_gpus()
    names = ", ".join(f"{gpu.name} ({gpu.target})" for gpu in gpus) or "no GPU"
    lines = [
        "# Evidence from a GPU",
        "",
        f"{names}; {driver}.",
        "",
        "| job | ended | s | last line |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {_ended(one)} | {one.seconds:.0f} | {one.last.replace('|', '/')} |"
        for one in outcomes
    ]
    proved = sorted((out / "stages").glob("prove-*.json"))
    if proved:
        lines += ["", "| twin | pair | speed | range |", "|---|---|---|---|"]
    for path in proved:
        report = json.loads(path.read_text())
        if not report["measured"]:
            lines.append(f"| {path.stem} | not measured | | {report['why_not']} |")
        for pair in report["comparisons"]:
            speed, span = f"{pair['speedup']:.3f}x", f"{pair['low']:.3f} to {pair['high']:.3f}"
            lines.append(f"| {path.stem} | {pair['name']} over {pair['against']} | {speed} | {span} |")
    lines += ["", "Logs: `logs/`. Raw figures: `*.json`, `trt/`. `nm2trt report` shows the twins as a page."]
    return "\n".join(lines) + "\n"


def adopt(out: Path) -> list[str]:
    """Make results of `queue.sh` the folder of a run: its `prove*.json` become stages; the rest stays.

    Returns:
        The names of the stages.
    """
    from nm2trt.reporting.folder import RunFolder

    found = {
        f"prove-{path.stem.removeprefix('prove').strip('-') or 'engine'}": path
        for path in out.glob("prove*.json")
    }
    names = sorted({*found, *(path.stem for path in (out / "stages").glob("prove-*.json"))})
    folder = RunFolder(out)
    folder.start("gpu-evidence", names)
    for name, path in found.items():
        path.replace(folder.stage_path(name))
    return names


def _ended(one: Outcome) -> str:
    return "not finished" if one.status is None else "done" if one.status == 0 else f"status {one.status}"


def main(words: Sequence[str] | None = None) -> int:
    """Run what this machine can; return 4 without a GPU, 1 if a job failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder, made if it is not there")
    parser.add_argument("--minutes", type=float, default=60.0, help="what all may take; default: 60")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these jobs only")
    parser.add_argument(
        "--adopt", action="store_true", help="only make what queue.sh wrote the folder of a run"
    )
    options = parser.parse_args(words)
    if options.adopt:
        print(f"{options.out}: {', '.join(adopt(options.out)) or 'nothing was proved'}")
        return 0
    from nm2trt.backends.cuda import require_gpu
    from nm2trt.errors import BackendMissingError

    try:
        require_gpu("gathering evidence")
    except BackendMissingError as error:
        print(f"gpu-evidence: {error}", file=sys.stderr)
        return NO_GPU
    if shutil.which("nvidia-smi") is None:
        print("gpu-evidence: nvidia-smi is missing, so clocks and power are not recorded", file=sys.stderr)
    out = options.out.resolve()
    modules = [name for name in ("tensorrt", "tensorrt_rtx") if importlib.util.find_spec(name)]
    found = [
        job
        for job in jobs(out, minutes=options.minutes, modules=modules)
        if not options.only or job.name in options.only
    ]
    outcomes = run(found, out, seconds=60 * options.minutes)
    print(f"{out / 'summary.md'}: {sum(one.status == 0 for one in outcomes)} of {len(outcomes)} jobs done")
    return int(any(one.status != 0 for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
