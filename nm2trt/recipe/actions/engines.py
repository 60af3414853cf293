"""Engines, and what they prove."""

from __future__ import annotations

from pathlib import Path

from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome, Words

__all__ = ["build", "explain", "prove"]


def build(job: Job) -> Outcome:
    """Run `nm2trt build`."""
    from nm2trt.pipeline.build import build, build_options, engine_suffix

    options: options_of.BuildOptions = job.options
    chosen = build_options(
        sparsity=options.sparsity,
        targets=options.target,
        profiles=options.profiles,
        workspace=options.workspace,
        static_shapes=options.shapes,
        effort=options.effort,
    )
    target = job.artefact(engine_suffix(options.backend))
    done = build(job.source, target, chosen, backend=options.backend, require_sparse=options.require_sparse)
    words = Words(["build", str(job.source), f"--sparsity={options.sparsity}", "-o", str(target)])
    words.add("--target", options.target).add("--profile", options.profiles)
    words.add("--workspace", options.workspace).add("--shape", options.shapes)
    words.add("--effort", options.effort).add("--backend", options.backend)
    words.add("--require-sparse", options.require_sparse)
    result = done.to_json()
    return Outcome(result, words.words, (done.engine, Path(result["manifest"])))


def prove(job: Job) -> Outcome:
    """Run `nm2trt prove`."""
    from nm2trt.pipeline.build import build_options
    from nm2trt.pipeline.prove import prove

    options: options_of.ProveOptions = job.options
    dense = job.sources.get("dense")
    folder = job.artefact("")
    folder.mkdir(exist_ok=True)
    done = prove(
        job.source,
        dense,
        output=folder,
        options=build_options(sparsity="enable", targets=options.target, profiles=options.profiles),
        backend=options.backend,
        runs=options.runs,
        warmup=options.warmup,
    )
    words = Words(["prove", str(job.source), "-o", str(folder)]).add("--dense", dense)
    words.add("--backend", options.backend).add("--target", options.target)
    words.add("--profile", options.profiles).add("--runs", options.runs, unless=200)
    engines = tuple(Path(variant.engine) for variant in done.variants if variant.engine)
    return Outcome(done.to_json(), words.words, engines)


def explain(job: Job) -> Outcome:
    """Run `nm2trt explain`."""
    from nm2trt.pipeline.explain import explain

    options: options_of.ExplainOptions = job.options
    done = explain(job.source, backend=options.backend, targets=options.target, shapes=options.shapes)
    words = Words(["explain", str(job.source)]).add("--backend", options.backend)
    words.add("--target", options.target).add("--shape", options.shapes)
    return Outcome(done.to_json(), words.words)
