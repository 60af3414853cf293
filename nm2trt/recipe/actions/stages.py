"""Actions of the stages, one function each: what it calls in the pipeline, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from nm2trt.errors import DifferenceError, Nm2trtError, SparsityError
from nm2trt.file_replacement import make_output_folder
from nm2trt.options.command_line import words
from nm2trt.options.field import keywords
from nm2trt.recipe.actions.job import Outcome, StageJob, model_files
from nm2trt.recipe.options import ExportOptions, ReportOptions


def converter(name: str) -> Callable[[StageJob], Outcome]:
    """Return the action of a stage from ONNX to ONNX.

    Args:
        name: Its command, and the function of the pipeline.
    """

    def convert(job: StageJob) -> Outcome:
        target = job.artefact(".onnx")
        options, done = _run(job, name, model=str(job.source), output=str(target))
        return Outcome(done.to_json(), words(name, options), model_files(target))

    return convert


def prune(job: StageJob) -> Outcome:
    """Run `nm2trt prune`, and go on with the layers that a stopped run has solved."""
    target = job.artefact(".onnx")
    given = {"cache": str(job.unfinished)} if "calib" in job.files else {}
    options, done = _run(job, "prune", model=str(job.source), output=str(target), **given)
    command = words("prune", replace(options, cache=None))
    return Outcome(done.to_json(), command, model_files(target))


def _run(job: StageJob, name: str, **given: Any) -> tuple[Any, Any]:
    """Call the function of a command with what the recipe and the stage's place say; return both."""
    options = job.command(**given)
    function = getattr(import_module(f"nm2trt.pipeline.{name}"), name)
    return options, function(**keywords(options))


def sparsify(job: StageJob) -> Outcome:
    """Run `nm2trt sparsify`."""
    from nm2trt.pipeline.sparsify import sparsify_file

    options = job.command(output=str(job.artefact("")))
    done = sparsify_file(**keywords(options))
    return Outcome(done.to_json(), words("sparsify", options), (done.onnx, done.weights))


def export(job: StageJob) -> Outcome:
    """Export a torch model."""
    from nm2trt.pipeline.export import export_file

    options: ExportOptions = job.options
    done = export_file(
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


def verify(job: StageJob) -> Outcome:
    """Run `nm2trt verify`; the run stops if its gate fails."""
    options, done = _run(job, "verify", model=str(job.source))
    passed = done.passed(options.fail_on)
    failure = None
    if not passed:
        failing = done.failures(options.fail_on)
        first = (
            f"first {failing[0].weight!r}: {failing[0].sentence}"
            if failing
            else f"the planned {done.missing[0]!r} is read by no node"
            if done.missing
            else "none of its weights could be judged"
        )
        failure = SparsityError(f"{job.source}: {first} (fail_on: {options.fail_on})")
    result = {**done.to_json(), "fail_on": options.fail_on, "passed": passed}
    return Outcome(result, words("verify", options), failure=failure)


def validate(job: StageJob) -> Outcome:
    """Run `nm2trt validate`; the run stops if it does not pass."""
    options, done = _run(
        job,
        "validate",
        model=str(job.sources["from"]),
        against=str(job.sources["against"]),
    )
    return Outcome(done.to_json(), words("validate", options), failure=_failure(done))


def _failure(done: Any) -> Nm2trtError | None:
    try:
        done.require_passed()
    except DifferenceError as error:
        return error
    return None


def gain(job: StageJob) -> Outcome:
    """Run `nm2trt gain`."""
    options, done = _run(job, "gain", model=job.source)
    return Outcome(done.to_json(), words("gain", options))


def bench(job: StageJob) -> Outcome:
    """Run `nm2trt bench`."""
    artefacts = tuple(str(job.sources[key]) for key in ("against", "from") if key in job.sources)
    options, done = _run(job, "bench", artefacts=artefacts)
    return Outcome(done.to_json(), words("bench", options))


def build(job: StageJob) -> Outcome:
    """Run `nm2trt build`."""
    from nm2trt.pipeline.build import build_command, engine_suffix

    target = job.artefact(engine_suffix(job.options.backend))
    options = job.command(model=job.source, output=target)
    done = build_command(options)
    result = done.to_json()
    return Outcome(result, words("build", options), (done.engine, Path(result["manifest"])))


def prove(job: StageJob) -> Outcome:
    """Run `nm2trt prove`."""
    from nm2trt.pipeline.prove import prove_command

    folder = job.artefact("")
    make_output_folder(folder, "give another folder for the run")
    dense = job.sources.get("dense")
    options = job.command(model=job.source, dense=None if dense is None else Path(dense), output=folder)
    done = prove_command(options)
    engines = tuple(Path(variant.engine) for variant in done.variants if variant.engine)
    return Outcome(done.to_json(), words("prove", options), engines)


def explain(job: StageJob) -> Outcome:
    """Run `nm2trt explain`."""
    from nm2trt.pipeline.explain import explain

    options = job.command(file=job.source)
    done = explain(options.file, **keywords(options, "file"))
    return Outcome(done.to_json(), words("explain", options))


def deploy(job: StageJob) -> Outcome:
    """Run `nm2trt deploy`."""
    from nm2trt.pipeline.deploy import deploy_command

    reference = str(job.sources["reference"]) if job.options.canary else None
    options = job.command(artefact=str(job.source), reference=reference)
    done = deploy_command(options)
    config = done.repository / done.name / "config.pbtxt"
    return Outcome(done.to_json(), words("deploy", options), (done.folder, config))


def probe(job: StageJob) -> Outcome:
    """Run `nm2trt probe`; the run stops if an answer is wrong."""
    from nm2trt.pipeline.probe import probe_command

    folder = Path(job.sources["from"])
    options = job.command(
        name=folder.parent.name,
        reference=str(job.sources["reference"]),
        repository=str(folder.parents[1]),
    )
    done = probe_command(options)
    return Outcome(done.to_json(), words("probe", options), failure=_failure(done))


def report(job: StageJob) -> Outcome:
    """Run `nm2trt report`."""
    from nm2trt.pipeline.report import report

    options: ReportOptions = job.options
    written = [report(job.run, format=chosen) for chosen in options.formats]
    sentence = ", ".join(item.report.name for item in written)
    outputs = tuple(item.report for item in written)
    return Outcome(written[0].to_json(), ["report", str(job.run)], outputs, sentence=sentence)
