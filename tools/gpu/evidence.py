"""Run every GPU check on this machine and write one folder of figures, logs and a summary.

    make gpu-evidence OUT=DIR          or  python tools/gpu/evidence.py DIR [--minutes 30] [--only NAME ...]

Needs a CUDA GPU. The Python that runs it has PyTorch for CUDA; TensorRT 8.6 to 11 is taken from there too or, if it has
none, from the environment of `make trt-env` (or that of --trt-python), and with TensorRT for RTX its checks run too.
What is missing is told in `summary.md`, and the rest runs. Jobs run one after the other, each with its own limit; one that
fails or takes too long does not stop the next. A job that is done is not run again in the same folder, so a run that was cut
short goes on. Nothing changes the GPU's settings.
`nm2trt report DIR` shows the result. Without a GPU: exit status 4 (2 from `make`, which has its own) and one sentence.
`--adopt` needs no GPU: it makes a folder of results of `queue.sh` one that `nm2trt report` shows.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

try:
    from nm2trt.backends.cuda import Gpu, require_gpu
    from nm2trt.cli.signals import Stopped, signals_stop
    from nm2trt.errors import BackendMissingError, Nm2trtError
    from nm2trt.reporting.folder import RunFolder
    from tools.gpu.ask import NO_GPU
    from tools.gpu.evidence_run import Job, run
except ModuleNotFoundError as error:
    sys.exit(
        f"gpu-evidence: this Python has no {error.name}; call `make gpu-evidence OUT=DIR`, which installs it"
    )

USAGE = 2
NAMES = ("conv-int8", "wide-int8", "wide-fp16", "resnet50-int8", "resnet50-fp16", "minilm-fp16")
_GPU_TESTS = ("tests/nm", "tests/sparsity", "tests/engine/twin", "tests/benchmarks", "tests/backends")
_TRT_TESTS = ("tests/trt/test_trt_real.py",)
_NOT_CHOSEN = "not chosen by --only"
_ASK_TORCH = (
    "import torch; torch.zeros(1, device='cuda'); "
    "print(f'PyTorch {torch.__version__} with CUDA {torch.version.cuda}')"
)
_ASK_TRT = "import tensorrt; print(f'TensorRT {tensorrt.__version__}')"
_ASK_RTX = "import tensorrt_rtx; print(tensorrt_rtx.__version__, *tensorrt_rtx.ComputeCapability.__members__)"


def jobs(
    out: Path,
    *,
    trt_python: str = sys.executable,
    no_torch: str = "",
    no_trt: str = "",
    no_rtx: str = "",
) -> list[Job]:
    """Return what runs here, the most telling first.

    Args:
        out: The folder.
        trt_python: The Python that has TensorRT.
        no_torch: Why PyTorch cannot use the GPU; "" if it can.
        no_trt: Why there is no TensorRT; "" if there is one.
        no_rtx: Why TensorRT for RTX cannot run here; "" if it can.
    """
    python, project = sys.executable, ("--project", str(ROOT))
    kit = {path.stem: str(path) for path in HERE.glob("*.py")}
    models = str(out / "models")
    found = [
        Job("doctor", 60, (python, "-m", "nm2trt", "doctor", "--json"), "doctor.json"),
        Job("tests", 900, _pytest(python, "gpu and not trt", _GPU_TESTS), left_out=no_torch),
        Job("models", 600, (python, kit["models"], models, *NAMES, *project)),
        Job("trt-tests", 120, _pytest(trt_python, "trt", _TRT_TESTS), left_out=no_trt),
        *(_prove(trt_python, "trt", name, out, no_trt) for name in NAMES),
    ]
    twins = (trt_python, kit["twins"], models, str(out / "trt"), *NAMES, *project, "--deadline", "880")
    found.append(Job("twins", 900, twins, left_out=no_trt))
    found += [_prove(python, "trt-rtx", name, out, no_rtx) for name in NAMES]
    probe = (python, kit["rtx_probe"], models, str(out / "rtx.json"), *project)
    found.append(Job("rtx", 300, probe, left_out=no_rtx))
    table = (python, str(ROOT / "benchmarks" / "gpu_gain.py"), "-o", str(out / "gain.json"))
    return [
        *found,
        Job("mask", 120, (python, kit["mask_gpu"], str(out / "mask.json"), *project), left_out=no_torch),
        Job(
            "train",
            300,
            (python, kit["train_gpu"], str(out / "train.json"), *project, "--deadline", "280"),
            left_out=no_torch,
        ),
        Job("solve", 90, (python, kit["solve_gpu"], str(out / "solve.json"), *project), left_out=no_torch),
        Job("gain", 0, table, takes_rest=True, left_out=no_torch),
    ]


def _pytest(python: str, marked: str, parts: Sequence[str]) -> tuple[str, ...]:
    setup = ("-p", "no:cacheprovider", "-q", "-c", str(ROOT / "setup.cfg"), "--rootdir", str(ROOT))
    # A module that needs what is not installed here keeps no other from running.
    words = ("-m", "pytest", *setup, "--continue-on-collection-errors", "-m", marked)
    return (python, *words, *(str(ROOT / part) for part in parts))


def _prove(python: str, backend: str, name: str, out: Path, left_out: str) -> Job:
    folder = out / "models" / name
    pair = (str(folder / "sparse.onnx"), "--dense", str(folder / "dense.onnx"))
    words = (python, "-m", "nm2trt", "prove", *pair, "--backend", backend, "--json")
    return Job(
        f"prove-{name}-{backend}", 600, words, f"stages/prove-{name}-{backend}.json", left_out=left_out
    )


def ask(python: str, code: str) -> tuple[bool, str]:
    """Run a line of Python in a process of its own, since a library that fails may end it.

    Returns:
        Whether it went well, and the last line that it wrote.
    """
    try:
        ran = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    lines = (ran.stdout if ran.returncode == 0 else ran.stderr).strip().splitlines()
    return ran.returncode == 0, lines[-1] if lines else f"{python} ended with {ran.returncode}"


def find_trt(named: str = "") -> tuple[str, str, str]:
    """Find the Python that has TensorRT.

    Args:
        named: The one that the user gave.

    Returns:
        The Python, one sentence on its TensorRT, and the reason if that is missing, else "".
    """
    own = ROOT / os.environ.get("TRT_ENV", ".trt-env") / "bin" / "python"
    pythons = [named] if named else [sys.executable, *([str(own)] if own.exists() else [])]
    for python in pythons:
        there, said = ask(python, _ASK_TRT)
        if there:
            return python, f"{said} in {python}.", ""
        reason = said
    missing = f"no TensorRT ({reason}); pip install tensorrt, or `make trt-env`, or --trt-python PYTHON"
    return pythons[-1], f"There is {missing}.", missing


def why_no_rtx(target: str) -> str:
    """Return why TensorRT for RTX cannot run on a GPU of this architecture; "" if it can."""
    there, said = ask(sys.executable, _ASK_RTX)
    if not there:
        return f"no TensorRT for RTX ({said}); pip install '{ROOT}[rtx]'"
    version, *targets = said.split()
    return "" if target.upper() in targets else f"TensorRT for RTX {version} has no kernels for {target}"


def adopt(out: Path) -> list[str]:
    """Make results of `queue.sh` the folder of a run: its `prove*.json` become stages; the rest stays.

    Returns:
        The names of the stages.
    """
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


def main(words: Sequence[str] | None = None) -> int:
    """Run what this machine can; return 4 without a GPU, 1 if a job failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="the folder, made if it is not there")
    parser.add_argument("--minutes", type=float, default=60.0, help="what all may take; default: 60")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these jobs only")
    parser.add_argument("--trt-python", default="", metavar="PYTHON", help="the Python that has TensorRT")
    parser.add_argument(
        "--adopt", action="store_true", help="only make what queue.sh wrote the folder of a run"
    )
    options = parser.parse_args(words)
    out = options.out.resolve()
    try:
        if options.adopt:
            print(f"{options.out}: {', '.join(adopt(out)) or 'nothing was proved'}")
            return 0
        gpu = require_gpu("gathering evidence")
        with signals_stop():
            return gather(out, options, gpu)
    except BackendMissingError as error:
        print(f"gpu-evidence: {error}", file=sys.stderr)
        return NO_GPU
    except (Nm2trtError, OSError) as error:
        print(f"gpu-evidence: {error}; what ended before is kept, run it again to go on", file=sys.stderr)
        return USAGE
    except Stopped as stopped:
        print(f"gpu-evidence: stopped; {out / 'summary.md'} says how far it came, run it again to go on")
        return stopped.exit_status


def gather(out: Path, options: argparse.Namespace, gpu: Gpu) -> int:
    """See what is here, run the jobs; return 1 if one failed."""
    torch_there, torch_said = ask(sys.executable, _ASK_TORCH)
    no_torch = "" if torch_there else f"PyTorch cannot use the GPU: {torch_said}"
    trt_python, trt_said, no_trt = find_trt(options.trt_python)
    about = [f"{torch_said}." if torch_there else f"{no_torch}.", trt_said]
    if shutil.which("nvidia-smi") is None:
        about.append("nvidia-smi is missing, so clocks and power are not recorded.")
    for sentence in about:
        print(f"gpu-evidence: {sentence}", file=sys.stderr)
    no_rtx = why_no_rtx(gpu.target)
    found = jobs(out, trt_python=trt_python, no_torch=no_torch, no_trt=no_trt, no_rtx=no_rtx)
    unknown = set(options.only) - {job.name for job in found}
    if unknown:
        known = ", ".join(job.name for job in found)
        print(
            f"gpu-evidence: no job is called {', '.join(sorted(unknown))}; there are {known}", file=sys.stderr
        )
        return USAGE
    if options.only:
        found = [job if job.name in options.only else replace(job, left_out=_NOT_CHOSEN) for job in found]
    outcomes = run(found, out, seconds=60 * options.minutes, about=about)
    failed = [one for one, job in zip(outcomes, found, strict=True) if one.status != 0 and not job.left_out]
    done = sum(one.status == 0 for one in outcomes)
    print(f"{out / 'summary.md'}: {done} of {len(found)} jobs done, {len(failed)} failed")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
