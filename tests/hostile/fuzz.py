"""Runs of commands on mutated files: `python -m tests.hostile.fuzz --runs 10000` prints what came of them.

Every run has a command drawn for it, a folder, a memory limit and a time limit of its own. It may answer or refuse
with a sentence. These are faults: an internal error, a crash, a run over its limits, a character that no terminal
should see, something half-written, and a verdict other than that of `tests.hostile.reader`.
"""

import argparse
import collections
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tests.hostile import files, forms, mutants, reader
from tests.hostile.limits import limited

SECONDS, MEGABYTES = 60, 2600
BOUNDS = "--constant-memory 0.25 --constant-time 5 --run-time 2 --run-memory 1 --sample-memory 0.25".split()
# Command, and the file that is left by it; {model} is the mutant.
MODEL_COMMANDS = (
    "verify {model} --json",
    "verify {model} --json --pattern 1:4 --fail-on none",
    "verify {model} --as fp16",
    "info {model}",
    "fuse {model} -o {out}.onnx",
    "permute {model} -o {out}.onnx",
    "prune {model} -o {out}.onnx --min-channels 4",
    "prune {model} --calib x.npz -o {out}.onnx",
    "cast {model} -o {out}.onnx",
    "cast {model} --calib x.npz --to bf16 -o {out}.onnx",
    "quantize {model} --calib x.npz -o {out}.onnx",
    "quantize {model} --calib x.npz --to fp8 --no-compare -o {out}.onnx",
    "build {model} --sparsity --target sm86 -o {out}.rtx",
    "build {model} --precision int8 --calib x.npz --target sm86 --dry-run",
    "build {model} --backend ort -o {out}.ort",
    "infer {model} -o {out}.npz",
    "infer {model} --data x.npz -o {out}.npz",
    "validate {model} --against m.onnx --data x.npz --runs 0",
    "validate m.onnx --against {model} --data x.npz --runs 0 --bisect",
    "bench {model} --runs 1 --warmup 0 -o {out}.json",
    "explain {model}",
    "gain {model} --table gain.json --device sm90",
    "init {model} -o {out}.yaml",
    "deploy {model} --repository models --name mutant --backend python",
)
STATUSES = {0, 2, 3, 4, 5, 6, 7}


@dataclass
class Counts:
    """What came of the runs."""

    runs: collections.Counter = field(default_factory=collections.Counter)
    statuses: collections.Counter = field(default_factory=collections.Counter)
    verdicts: collections.Counter = field(default_factory=collections.Counter)
    faults: list = field(default_factory=list)
    slowest: tuple = (0.0, "")
    largest: tuple = (0, "")

    def add(self, other):
        """Add another's counts."""
        self.runs += other.runs
        self.statuses += other.statuses
        self.verdicts += other.verdicts
        self.faults += other.faults
        self.slowest, self.largest = max(self.slowest, other.slowest), max(self.largest, other.largest)

    def lines(self):
        """Yield them in words."""
        kinds = collections.Counter(kind for kind, *_ in self.faults)
        total = sum(self.runs.values())
        yield f"{total} runs: " + ", ".join(f"{n} {c}" for c, n in sorted(self.runs.items()))
        yield "exit statuses: " + ", ".join(f"{n} of {s}" for s, n in sorted(self.statuses.items()))
        yield f"slowest {self.slowest[0]:.1f} s ({self.slowest[1]}); largest {self.largest[0]} MB ({self.largest[1]})"
        yield f"verdicts beside the reader's: {self.verdicts['same']} the same, {self.verdicts['untraceable']} untraceable, {kinds['wrong verdict']} wrong"
        names = (
            "internal error",
            "crash",
            "over a limit",
            "wrong verdict",
            "unprintable text",
            "left over",
            "bad output",
        )
        yield "faults: " + ", ".join(f"{kinds[name]} {name}" for name in names)


def network(path):
    """Write a model with a convolution and a product."""
    draw = random.Random(0)
    while True:
        proto, _ = forms.sound(draw)
        if any(node.op_type == "Conv" for node in proto.graph.node):
            rng = np.random.default_rng(5)
            for tensor in proto.graph.initializer:
                if tensor.name in ("k", "w"):
                    dense = rng.standard_normal(list(tensor.dims)).astype("f4")
                    tensor.CopyFrom(onnx.numpy_helper.from_array(dense, tensor.name))
            onnx.save(proto, path)
            return


class Fuzzer:
    """Draws runs and makes them, in a folder with sound files.

    Args:
        sound: The folder.
        work: A folder for the runs.
        forms: Forms of `tests.hostile.forms` to draw models of; runs on other files are left out then.
    """

    def __init__(self, sound, work, forms=()):
        self.sound, self.work, self.forms = sound, work, forms
        self.counts = Counts()

    def run(self, number):
        """Make one run."""
        draw = random.Random(number)
        folder = self.work / f"run{number}"
        try:
            if draw.random() < 0.65 or self.forms:
                words, model = self._model_run(folder, draw)
            else:
                words, model = self._file_run(folder, draw), None
            self._judge(number, folder, words, model)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _model_run(self, folder, draw):
        folder.mkdir()
        for name in ("m.onnx", "x.npz", "gain.json"):
            shutil.copy(self.sound / name, folder)
        os.mkfifo(folder / "pipe")
        form = draw.choice(self.forms) if self.forms else None
        proto, external = mutants.mutant(draw, form=form)
        mutants.write(proto, external, folder / "mutant.onnx", draw)
        command = MODEL_COMMANDS[0] if draw.random() < 0.3 else draw.choice(MODEL_COMMANDS)
        return command.format(model="mutant.onnx", out="out"), folder / "mutant.onnx"

    def _file_run(self, folder, draw):
        shutil.copytree(self.sound, folder)
        name = draw.choice(list(files.READERS))
        if name.endswith("*"):
            found = sorted(
                path
                for path in (folder / name[:-2]).rglob("*")
                if path.is_file() and path.suffix in (".json", ".npz", ".jsonl")
            )
            path = draw.choice(found)
        else:
            path = folder / name
        files.spoil(path, draw)
        return f"{draw.choice(files.READERS[name]).format(out='out')} # {path.relative_to(folder)}"

    def _judge(self, number, folder, words, model):
        line = words.partition(" # ")[0].split()
        before = {path: path.read_bytes() for path in _texts(folder)}
        ended = limited(lambda: _command(folder, line), seconds=SECONDS, megabytes=MEGABYTES)
        counts, told = self.counts, f"{number}: {words}"
        counts.runs[line[0]] += 1
        counts.statuses[ended.status] += 1
        counts.slowest = max(counts.slowest, (ended.seconds, told))
        counts.largest = max(counts.largest, (ended.megabytes, told))
        counts.faults += [
            (kind, told, what) for kind, what in self._faults(ended, folder, before, line, model)
        ]

    def _faults(self, ended, folder, before, line, model):
        """Yield what is wrong with a run: a kind of fault, and the evidence."""
        out, err = (
            (folder / f"std{n}").read_text(errors="replace") if (folder / f"std{n}").exists() else ""
            for n in ("out", "err")
        )
        if ended.over:
            yield "over a limit", ended.over
        elif ended.status not in STATUSES or "internal error" in err:
            kind = "internal error" if "internal error" in err else "crash"
            yield kind, f"status {ended.status}: {err[-3000:]}"
        else:
            yield from _text_faults(out, err, ended.status)
            yield from _file_faults(folder, before)
            if "--json" in line and ended.status in (0, 3):
                try:
                    report = json.loads(out)
                except ValueError:
                    yield "bad output", f"no JSON: {out[:200]}"
                    return
                if line[0] == "verify" and "--pattern" not in line and model is not None:
                    yield from self._wrong_verdicts(model, report)

    def _wrong_verdicts(self, model, report):
        if report.get("plan"):
            return
        with warnings.catch_warnings(), contextlib.suppress(Exception):
            warnings.simplefilter("ignore")
            proto = onnx.load(model)
            labels = reader.labels(proto)
            own = list(reader.verdicts(proto))
            for name, position, found in own:
                if labels.count(name) > 1:
                    continue
                said = [
                    row["pattern"]
                    for row in report["weights"]
                    if row["consumer"] == name
                    and (row["facts"] or {}).get("constant_input_index", position) == position
                ]
                if found in said:
                    self.counts.verdicts["same"] += 1
                elif "untraceable" in said:
                    self.counts.verdicts["untraceable"] += 1
                else:
                    yield "wrong verdict", f"{name}: the reader says {found}, verify {said}"


def _text_faults(out, err, status):
    if bad := {c for c in out + err if not (c.isprintable() or c == "\n")}:
        yield "unprintable text", f"{bad} in {out[-500:]}{err[-500:]}"
    if status != 2:
        return
    if not err.strip():
        yield "bad output", "refused without a word"
    elif sum(one.startswith("nm2trt") for one in err.splitlines()) != 1:
        yield "bad output", f"not one sentence: {err[-500:]}"
    elif any(not _own(one) for one in err.splitlines()):
        yield "bad output", f"more than a sentence: {err[-500:]}"


def _file_faults(folder, before):
    for path in folder.rglob("*"):
        if path.name.endswith((".tmp", ".lock")) and path.name not in ("run.lock",):
            yield "left over", str(path.relative_to(folder))
    for path in _texts(folder):
        text = path.read_bytes()
        if text == before.get(path):
            continue
        if bad := {c for c in text.decode(errors="replace") if not (c.isprintable() or c in "\n\t")}:
            yield "unprintable text", f"{bad} in {path.relative_to(folder)}"


def _own(line):
    """Tell whether a line of stderr is a sentence, a note, or the line of a stage that `run` ended."""
    stages, parser = (
        ("✓ ", "= ", "✗ ", "  "),
        "Unsupported ONNX data type",
    )  # TensorRT's, which has no log for it
    return line.startswith(("nm2trt", "note: ", "warning: ", *stages, parser))


def _texts(folder):
    """Return the files in a folder that people read."""
    kinds = (".html", ".md", ".pbtxt", ".yaml")
    return [
        path
        for path in folder.rglob("*")
        if path.suffix in kinds and path.is_file() and not path.is_symlink()
    ]


def _command(folder, words):
    """Run a command in a folder, in this process; return its exit status."""
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)
    from nm2trt.cli import main

    status = 70
    try:
        status = main([*(["-vv"] if "NM2TRT_FUZZ_TRACE" in os.environ else []), *BOUNDS, *words])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


@contextlib.contextmanager
def started(forms=()):
    """Make the sound files, and give a fuzzer; `forms` as it takes them."""
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="nm2trt-fuzz-") as folder:
        sound, work = Path(folder, "sound"), Path(folder, "runs")
        sound.mkdir()
        work.mkdir()
        # In a fork, so that no thread of a library is left here.
        status = limited(lambda: _make(sound, Path(folder, "setup.txt")), seconds=600, megabytes=4000).status
        if status:
            raise RuntimeError(Path(folder, "setup.txt").read_text())
        _import()
        yield Fuzzer(sound, work, forms)


def _make(sound, said):
    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout = sys.stderr = io.TextIOWrapper(io.FileIO(descriptor, "w"), write_through=True)
    try:
        files.make(sound, network)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _import():
    """Import what the commands do, once for all runs."""
    import importlib
    import pkgutil

    import onnxruntime  # noqa: F401
    import pydantic  # noqa: F401
    import tensorrt_rtx  # noqa: F401
    import yaml  # noqa: F401

    import nm2trt

    for module in pkgutil.walk_packages(nm2trt.__path__, "nm2trt."):
        if not any(
            part in module.name
            for part in ("sparsity", "exporter", "gpu_kernels", "__main__", "python_model", "trt", "torch")
        ):
            with contextlib.suppress(ImportError):
                importlib.import_module(module.name)


def part(numbers, forms=()):
    """Make some of the runs; for a process of its own."""
    with started(forms) as fuzzer:
        for number in numbers:
            fuzzer.run(number)
            for fault in fuzzer.counts.faults[:]:
                if fault not in _shown:
                    _shown.append(fault)
                    print("FAULT", *(re.sub(r"(.)\1{30,}", r"\1...", text) for text in fault), flush=True)
    return fuzzer.counts


_shown = []


def main():
    """Make the runs and print the counts; exit with 1 if there is a fault."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument(
        "--first", type=int, default=0, help="number of the first run, e.g. of one to see again"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument(
        "--forms", nargs="+", default=(), choices=list(forms.FORMS), help="only models of these"
    )
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.runs)
    began = time.monotonic()
    import multiprocessing

    jobs = max(1, min(options.jobs, options.runs))
    if jobs == 1:
        parts = [part(numbers, options.forms)]
    else:
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            parts = pool.starmap(
                part, [(numbers[job::jobs], options.forms) for job in range(jobs)], chunksize=1
            )
    total = Counts()
    for counts in parts:
        total.add(counts)
    print(*total.lines(), f"{time.monotonic() - began:.0f} s", sep="\n")
    return 1 if total.faults else 0


if __name__ == "__main__":
    sys.exit(main())
