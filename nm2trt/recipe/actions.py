"""What each kind of stage does: which function of the pipeline it calls, and what it says of the result."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nm2trt import pipeline
from nm2trt.errors import DifferenceError, InputError, Nm2trtError, SparsityError
from nm2trt.recipe import schema

__all__ = ["ACTIONS", "Job", "Outcome"]


@dataclass(frozen=True, slots=True)
class Job:
    """What a stage is given.

    Args:
        name: The stage's name.
        options: What the recipe says.
        sources: What it reads, by key: a path, or a URL as text.
        files: Files and folders that its options name, by key.
        artefacts: Folder for what it makes.
        run: The run's folder.
        base: Folder that the recipe's paths are relative to.
        allow_functions: Whether it may run code that a recipe names.
    """

    name: str
    options: Any
    sources: Mapping[str, Path | str]
    files: Mapping[str, Path]
    artefacts: Path
    run: Path
    base: Path
    allow_functions: bool

    @property
    def source(self) -> Path:
        """The file that it starts from.

        Raises:
            InputError: It is a URL.
        """
        source = self.sources["from"]
        if isinstance(source, str):
            raise InputError(f"{self.name} needs a file to start from, not {source}")
        return source

    def artefact(self, suffix: str) -> Path:
        """Return where the stage's own file goes."""
        return self.artefacts / f"{self.name}{suffix}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a stage did.

    Args:
        result: What its command prints with `--json`.
        command: The command that does the same, in words.
        outputs: Files and folders that it wrote, the one for later stages first.
        failure: Why the run stops here although there is a result, or None.
        sentence: The result in one line, where the result itself does not tell.
    """

    result: Mapping[str, Any]
    command: Sequence[str]
    outputs: tuple[Path, ...] = ()
    failure: Nm2trtError | None = None
    sentence: str = ""

    def line(self) -> str:
        """Return the command as it would be typed."""
        return shlex.join(("nm2trt", *self.command)) if self.command else ""


@dataclass
class _Words:
    """A command line in the making; options that say nothing are left out."""

    words: list[str] = field(default_factory=list)

    def add(self, flag: str, value: object, *, unless: object = None) -> _Words:
        if isinstance(value, bool):
            if value and value != unless:
                self.words.append(flag)
        elif isinstance(value, list):
            self.words += [word for item in value for word in (flag, str(item))]
        elif value is not None and value != unless:
            self.words += [flag, str(value)]
        return self


def _sparsify(job: Job) -> Outcome:
    done = pipeline.sparsify_file(job.files["recipe"], job.artefact(""), allow_functions=job.allow_functions)
    command = ["sparsify", str(job.files["recipe"]), "-o", str(job.artefact(""))]
    return Outcome(done.to_json(), command, (done.onnx, done.weights))


def _export(job: Job) -> Outcome:
    options: schema.ExportOptions = job.options
    done = pipeline.export_file(
        options.model,
        job.files["weights"],
        job.artefact(".onnx"),
        inputs=options.inputs,
        arguments=options.arguments,
        dtype=options.dtype,
        opset=options.opset,
        folder=job.base,
    )
    return Outcome(done.to_json(), (), (job.artefact(".onnx"),))


def _fuse(job: Job) -> Outcome:
    options: schema.FuseOptions = job.options
    target = job.artefact(".onnx")
    done = pipeline.fuse(job.source, target, allow_broken=options.allow_broken, compare=options.compare)
    words = _Words(["fuse", str(job.source), "-o", str(target)]).add("--allow-broken", options.allow_broken)
    return Outcome(done.to_json(), words.words, _model_files(target))


def _prune(job: Job) -> Outcome:
    options: schema.PruneOptions = job.options
    target = job.artefact(".onnx")
    done = pipeline.prune(
        job.source,
        target,
        pattern=options.pattern,
        include=options.include,
        exclude=options.exclude,
        min_channels=options.min_channels,
    )
    result = done.to_json()
    words = _Words(["prune", str(job.source), "-o", str(target)])
    words.add("--pattern", options.pattern, unless="2:4").add("--include", options.include)
    words.add("--exclude", options.exclude).add("--min-channels", options.min_channels, unless=16)
    return Outcome(result, words.words, _model_files(target), sentence=f"{options.pattern} by magnitude")


def _cast(job: Job) -> Outcome:
    options: schema.CastOptions = job.options
    target = job.artefact(".onnx")
    done = pipeline.cast(
        job.source,
        target,
        to=options.to,
        keep=options.keep,
        io=options.io,
        calib=job.files.get("calib"),
        batch=options.batch,
        allow_functions=job.allow_functions,
    )
    words = _Words(["cast", str(job.source), "--to", options.to, "-o", str(target)])
    words.add("--keep", options.keep).add("--io", options.io).add("--calib", job.files.get("calib"))
    words.add("--batch", options.batch)
    return Outcome(done.to_json(), words.words, _model_files(target))


def _quantize(job: Job) -> Outcome:
    options: schema.QuantizeOptions = job.options
    target = job.artefact(".onnx")
    done = pipeline.quantize(
        job.source,
        target,
        calib=job.files["calib"],
        to=options.to,
        method=options.method,
        percentile=options.percentile,
        exclude=options.exclude,
        float_weights=options.float_weights,
        batch=options.batch,
        allow_functions=job.allow_functions,
    )
    words = _Words(["quantize", str(job.source), "--to", options.to, "--calib", str(job.files["calib"])])
    words.add("--method", options.method, unless="minmax").add("--exclude", options.exclude)
    words.add("--float-weights", options.float_weights).add("--batch", options.batch)
    words.words += ["-o", str(target)]
    return Outcome(done.to_json(), words.words, _model_files(target))


def _verify(job: Job) -> Outcome:
    options: schema.VerifyOptions = job.options
    done = pipeline.verify(job.source, pattern=options.pattern)
    passed = done.passed(options.fail_on)
    failure = None
    if not passed:
        failing = done.failures(options.fail_on)
        first = (
            f"first {failing[0].weight!r}: {failing[0].sentence}"
            if failing
            else (f"the planned {done.missing[0]!r} is read by no node")
        )
        failure = SparsityError(f"{job.source}: {first} (fail_on: {options.fail_on})")
    words = _Words(["verify", str(job.source)]).add("--pattern", options.pattern)
    words.add("--fail-on", options.fail_on, unless="broken")
    result = {**done.to_json(), "fail_on": options.fail_on, "passed": passed}
    return Outcome(result, words.words, failure=failure)


def _build(job: Job) -> Outcome:
    options: schema.BuildOptions = job.options
    chosen = pipeline.build_options(
        sparsity=options.sparsity,
        targets=options.target,
        profiles=options.profiles,
        workspace=options.workspace,
        static_shapes=options.shapes,
        effort=options.effort,
    )
    target = job.artefact(pipeline.engine_suffix(options.backend))
    done = pipeline.build(
        job.source, target, chosen, backend=options.backend, require_sparse=options.require_sparse
    )
    words = _Words(["build", str(job.source), f"--sparsity={options.sparsity}", "-o", str(target)])
    words.add("--target", options.target).add("--profile", options.profiles)
    words.add("--workspace", options.workspace).add("--shape", options.shapes)
    words.add("--effort", options.effort).add("--backend", options.backend)
    words.add("--require-sparse", options.require_sparse)
    result = done.to_json()
    return Outcome(result, words.words, (done.engine, Path(result["manifest"])))


def _validate(job: Job) -> Outcome:
    options: schema.ValidateOptions = job.options
    against = str(job.sources["against"])
    done = pipeline.validate(
        str(job.sources["from"]),
        against=against,
        data=job.files["data"],
        output=options.output,
        batch=options.batch,
        runs=options.runs,
        warmup=options.warmup,
        threads=options.threads,
    )
    words = _Words(
        ["validate", str(job.sources["from"]), "--against", against, "--data", str(job.files["data"])]
    )
    words.add("--output", options.output).add("--batch", options.batch)
    words.add("--runs", options.runs, unless=200)
    return Outcome(done.to_json(), words.words)


def _gain(job: Job) -> Outcome:
    options: schema.GainOptions = job.options
    done = pipeline.gain(
        job.source,
        job.files["table"],
        shapes=options.shapes,
        as_dtype=options.as_dtype,
        device=options.device,
        at_least=options.at_least,
    )
    words = _Words(["gain", str(job.source), "--table", str(job.files["table"])])
    words.add("--shape", options.shapes).add("--as", options.as_dtype).add("--device", options.device)
    words.add("--at-least", options.at_least)
    return Outcome(done.to_json(), words.words)


def _deploy(job: Job) -> Outcome:
    options: schema.DeployOptions = job.options
    chosen = pipeline.DeployOptions(
        backend=options.backend,
        max_batch=options.max_batch,
        instances=options.instances,
        device=options.device,
        queue_delay_us=options.queue_delay_us,
        settings=tuple(options.settings),
        keep=options.keep,
        threads=options.threads,
    )
    repository = job.files["repository"]
    done = pipeline.deploy(
        job.source,
        repository,
        options.name,
        chosen,
        sample=job.files.get("sample"),
        url=options.url,
        triton_release=options.triton_release,
        server_tensorrt=options.server_tensorrt,
        gpus=options.gpus,
        canary=options.canary,
        reference=job.sources["reference"] if options.canary else None,
    )
    words = _Words(["deploy", str(job.source), "--repository", str(repository), "--name", options.name])
    words.add("--backend", options.backend).add("--max-batch", options.max_batch)
    words.add("--instances", options.instances, unless=1).add("--device", options.device, unless="auto")
    words.add("--queue-delay-us", options.queue_delay_us, unless=0).add("--set", options.settings)
    words.add("--keep", options.keep, unless=2).add("--threads", options.threads, unless=1)
    words.add("--sample", job.files.get("sample")).add("--url", options.url, unless="")
    words.add("--triton-release", options.triton_release, unless="")
    words.add("--server-tensorrt", options.server_tensorrt, unless="").add("--gpu", options.gpus)
    words.add("--canary", options.canary, unless="")
    config = done.repository / done.name / "config.pbtxt"
    return Outcome(done.to_json(), words.words, (done.folder, config))


def _probe(job: Job) -> Outcome:
    options: schema.ProbeOptions = job.options
    folder = Path(job.sources["from"])
    repository, name, reference = folder.parents[1], folder.parent.name, Path(job.sources["reference"])
    done = pipeline.probe(
        options.url,
        name,
        reference,
        data=job.files.get("data"),
        repository=repository,
        options=pipeline.ProbeOptions(
            concurrency=tuple(options.concurrency), requests=options.requests, precision=options.precision
        ),
    )
    failure: Nm2trtError | None = None
    try:
        done.require_passed()
    except DifferenceError as error:
        failure = error
    words = _Words(["probe", "--url", options.url, "--name", name, "--reference", str(reference)])
    words.add("--data", job.files.get("data")).add("--precision", options.precision)
    words.add("--repository", repository).add("--requests", options.requests, unless=200)
    return Outcome(done.to_json(), words.words, failure=failure)


def _report(job: Job) -> Outcome:
    options: schema.ReportOptions = job.options
    written = [pipeline.report(job.run, format=chosen) for chosen in options.formats]
    command = ["report", str(job.run)]
    sentence = ", ".join(str(item.report) for item in written)
    outputs = tuple(item.report for item in written)
    return Outcome(written[0].to_json(), command, outputs, sentence=sentence)


def _model_files(model: Path) -> tuple[Path, ...]:
    return (model, *pipeline.data_files(model))


ACTIONS: Mapping[str, Callable[[Job], Outcome]] = {
    "sparsify": _sparsify,
    "export": _export,
    "fuse": _fuse,
    "prune": _prune,
    "cast": _cast,
    "quantize": _quantize,
    "verify": _verify,
    "build": _build,
    "validate": _validate,
    "gain": _gain,
    "deploy": _deploy,
    "probe": _probe,
    "report": _report,
}
