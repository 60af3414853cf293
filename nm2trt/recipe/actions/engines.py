"""Engines, and what they prove."""

from __future__ import annotations

from pathlib import Path

from nm2trt.options.command_line import words
from nm2trt.options.engines import BuildCommand, ExplainCommand, ProveCommand
from nm2trt.options.field import keywords
from nm2trt.recipe.actions.job import Job, Outcome

__all__ = ["build", "explain", "prove"]


def build(job: Job) -> Outcome:
    """Run `nm2trt build`."""
    from nm2trt.pipeline.build import build_command, engine_suffix

    target = job.artefact(engine_suffix(job.options.backend))
    options = job.command(BuildCommand, model=job.source, output=target)
    done = build_command(options)
    result = done.to_json()
    return Outcome(result, words("build", options), (done.engine, Path(result["manifest"])))


def prove(job: Job) -> Outcome:
    """Run `nm2trt prove`."""
    from nm2trt.pipeline.prove import prove_command

    folder = job.artefact("")
    folder.mkdir(exist_ok=True)
    dense = job.sources.get("dense")
    options = job.command(
        ProveCommand, model=job.source, dense=None if dense is None else Path(dense), output=folder
    )
    done = prove_command(options)
    engines = tuple(Path(variant.engine) for variant in done.variants if variant.engine)
    return Outcome(done.to_json(), words("prove", options), engines)


def explain(job: Job) -> Outcome:
    """Run `nm2trt explain`."""
    from nm2trt.pipeline.explain import explain

    options = job.command(ExplainCommand, file=job.source)
    done = explain(options.file, **keywords(options, "file"))
    return Outcome(done.to_json(), words("explain", options))
