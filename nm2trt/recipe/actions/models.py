"""A torch or ONNX model to an ONNX model."""

from __future__ import annotations

from nm2trt.options.command_line import words
from nm2trt.options.field import keywords
from nm2trt.options.models import CastCommand, FuseCommand, PermuteCommand, PruneCommand, QuantizeCommand
from nm2trt.options.runs import SparsifyCommand
from nm2trt.recipe import options as options_of
from nm2trt.recipe.actions.job import Job, Outcome, model_files

__all__ = ["cast", "export", "fuse", "permute", "prune", "quantize", "sparsify"]


def sparsify(job: Job) -> Outcome:
    """Run `nm2trt sparsify`."""
    from nm2trt.pipeline.sparsify import sparsify_file

    options = job.command(
        SparsifyCommand,
        recipe=str(job.files["recipe"]),
        output=str(job.artefact("")),
        allow_functions=job.allow_functions,
    )
    done = sparsify_file(**keywords(options))
    return Outcome(done.to_json(), words("sparsify", options), (done.onnx, done.weights))


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

    target = job.artefact(".onnx")
    options = job.command(FuseCommand, model=str(job.source), output=str(target))
    done = fuse(**keywords(options))
    return Outcome(done.to_json(), words("fuse", options), model_files(target))


def permute(job: Job) -> Outcome:
    """Run `nm2trt permute`."""
    from nm2trt.pipeline.permute import permute

    target = job.artefact(".onnx")
    options = job.command(PermuteCommand, model=str(job.source), output=str(target))
    done = permute(**keywords(options))
    sentence = f"{done.moved} channel spaces permuted for {options.pattern}"
    return Outcome(done.to_json(), words("permute", options), model_files(target), sentence=sentence)


def prune(job: Job) -> Outcome:
    """Run `nm2trt prune`."""
    from nm2trt.pipeline.prune import prune

    target = job.artefact(".onnx")
    options = job.command(
        PruneCommand,
        model=str(job.source),
        output=str(target),
        calib=job.file("calib"),
        data=job.file("data"),
        gain=job.file("gain"),
        allow_functions=job.allow_functions,
    )
    done = prune(**keywords(options))
    how = "by magnitude" if options.calib is None else "rebuilt from samples"
    sentence = f"{options.pattern} {how}"
    return Outcome(done.to_json(), words("prune", options), model_files(target), sentence=sentence)


def cast(job: Job) -> Outcome:
    """Run `nm2trt cast`."""
    from nm2trt.pipeline.cast import cast

    target = job.artefact(".onnx")
    options = job.command(
        CastCommand,
        model=str(job.source),
        output=str(target),
        calib=job.file("calib"),
        allow_functions=job.allow_functions,
    )
    done = cast(**keywords(options))
    return Outcome(done.to_json(), words("cast", options), model_files(target))


def quantize(job: Job) -> Outcome:
    """Run `nm2trt quantize`."""
    from nm2trt.pipeline.quantize import quantize

    target = job.artefact(".onnx")
    options = job.command(
        QuantizeCommand,
        model=str(job.source),
        output=str(target),
        calib=job.file("calib"),
        allow_functions=job.allow_functions,
    )
    done = quantize(**keywords(options))
    return Outcome(done.to_json(), words("quantize", options), model_files(target))
