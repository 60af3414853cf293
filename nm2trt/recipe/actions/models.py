"""A torch or ONNX model to an ONNX model."""

from __future__ import annotations

from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome, Words, model_files

__all__ = ["cast", "export", "fuse", "prune", "quantize", "sparsify"]


def sparsify(job: Job) -> Outcome:
    """Run `nm2trt sparsify`."""
    from nm2trt.pipeline.sparsify import sparsify_file

    done = sparsify_file(job.files["recipe"], job.artefact(""), allow_functions=job.allow_functions)
    command = ["sparsify", str(job.files["recipe"]), "-o", str(job.artefact("")), "--allow-functions"]
    return Outcome(done.to_json(), command, (done.onnx, done.weights))


def export(job: Job) -> Outcome:
    """Export a torch model."""
    from nm2trt.pipeline.export import export_file

    options: options_of.ExportOptions = job.options
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


def fuse(job: Job) -> Outcome:
    """Run `nm2trt fuse`."""
    from nm2trt.pipeline.fuse import fuse

    options: options_of.FuseOptions = job.options
    target = job.artefact(".onnx")
    done = fuse(job.source, target, allow_broken=options.allow_broken, compare=options.compare)
    words = Words(["fuse", str(job.source), "-o", str(target)]).add("--allow-broken", options.allow_broken)
    return Outcome(done.to_json(), words.words, model_files(target))


def prune(job: Job) -> Outcome:
    """Run `nm2trt prune`."""
    from nm2trt.pipeline.prune import prune

    options: options_of.PruneOptions = job.options
    target = job.artefact(".onnx")
    done = prune(
        job.source,
        target,
        pattern=options.pattern,
        include=options.include,
        exclude=options.exclude,
        min_channels=options.min_channels,
        calib=job.files.get("calib"),
        valid=options.valid,
        seed=options.seed,
        allow_functions=job.allow_functions,
    )
    result = done.to_json()
    words = Words(["prune", str(job.source), "-o", str(target)])
    words.add("--pattern", options.pattern, unless="2:4").add("--include", options.include)
    words.add("--exclude", options.exclude).add("--min-channels", options.min_channels, unless=16)
    words.add("--calib", job.files.get("calib")).add("--valid", options.valid)
    words.add("--seed", options.seed, unless=0)
    how = "by magnitude" if options.calib is None else "rebuilt from samples"
    return Outcome(result, words.words, model_files(target), sentence=f"{options.pattern} {how}")


def cast(job: Job) -> Outcome:
    """Run `nm2trt cast`."""
    from nm2trt.pipeline.cast import cast

    options: options_of.CastOptions = job.options
    target = job.artefact(".onnx")
    done = cast(
        job.source,
        target,
        to=options.to,
        keep=options.keep,
        io=options.io,
        calib=job.files.get("calib"),
        batch=options.batch,
        allow_functions=job.allow_functions,
    )
    words = Words(["cast", str(job.source), "--to", options.to, "-o", str(target)])
    words.add("--keep", options.keep).add("--io", options.io).add("--calib", job.files.get("calib"))
    words.add("--batch", options.batch)
    return Outcome(done.to_json(), words.words, model_files(target))


def quantize(job: Job) -> Outcome:
    """Run `nm2trt quantize`."""
    from nm2trt.pipeline.quantize import quantize

    options: options_of.QuantizeOptions = job.options
    target = job.artefact(".onnx")
    done = quantize(
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
    words = Words(["quantize", str(job.source), "--to", options.to, "--calib", str(job.files["calib"])])
    words.add("--method", options.method, unless="minmax").add("--exclude", options.exclude)
    words.add("--float-weights", options.float_weights).add("--batch", options.batch)
    words.words += ["-o", str(target)]
    return Outcome(done.to_json(), words.words, model_files(target))
