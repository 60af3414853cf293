"""The functions behind the public names; the only module that knows the whole order.

    sparsify -> export -> (fuse, prune) -> verify -> build -> validate

Stages do not import one another: here they are called in turn, and hand over files and values.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.backends.options import BuildOptions, Sparsity, parse_profiles, parse_size, parse_targets
from nm2trt.errors import InputError, ModelError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence
    from typing import Any

    import torch

    from nm2trt.calibration.sample_set import SampleSet
    from nm2trt.engine.build import BuildResult
    from nm2trt.engine.inspection import EngineInfo
    from nm2trt.engine.machine import MachineReport
    from nm2trt.exporter.torch_onnx import ExportResult
    from nm2trt.graph.describe import OnnxInfo
    from nm2trt.graph.fuse import FuseReport
    from nm2trt.graph.prune import PruneReport
    from nm2trt.graph.verify import VerifyReport
    from nm2trt.nm.pattern import NMPattern
    from nm2trt.nm.plan import Plan
    from nm2trt.sparsity.policy import PatternChoice
    from nm2trt.sparsity.session import SparseSession
    from nm2trt.validation.report import ValidationReport

__all__ = [
    "SparsifyResult",
    "build",
    "build_options",
    "calibration_samples",
    "doctor",
    "export",
    "fuse",
    "info",
    "prune",
    "sparsify",
    "sparsify_file",
    "validate",
    "verify",
]


def build_options(
    *,
    sparsity: Sparsity = "disable",
    targets: str | None = None,
    profiles: Sequence[str] = (),
    workspace: str | None = None,
) -> BuildOptions:
    """Return `BuildOptions` from texts as the command line takes them.

    Args:
        sparsity: "disable", "enable" or "force".
        targets: Compute capabilities, as in "sm80,sm86".
        profiles: One NAME:MIN,OPT,MAX an input, as in "x:1,8,32".
        workspace: A size, as in "512M".

    Raises:
        InputError: A text cannot be read.
    """
    return BuildOptions(
        sparsity=sparsity,
        targets=() if targets is None else parse_targets(targets),
        profiles=parse_profiles(profiles),
        workspace_bytes=None if workspace is None else parse_size(workspace),
    )


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    options: BuildOptions | None = None,
    *,
    dry_run: bool = False,
) -> BuildResult:
    """Verify an ONNX model and build an engine from it, written whole or not at all, with its manifest.

    Args:
        model: The ONNX file.
        output: The engine's path; None puts it beside the model.
        options: What to build; None builds dense.
        dry_run: Stop before the builder starts, and write nothing.

    Raises:
        SparsityError: Sparse kernels are asked for, and no weight holds 2:4 or one breaks its plan.
        InputError: The model, a profile, a target or the output path is wrong.
        BackendError: The library is missing, refused the model or failed.
        Interrupted: The user stopped it.
    """
    from nm2trt.backends import trt_rtx
    from nm2trt.engine.build import ModelFacts, build_engine, check_request
    from nm2trt.graph.model import load
    from nm2trt.graph.prune import prune_model
    from nm2trt.graph.save import refuse_data_file
    from nm2trt.graph.verify import verify_model

    model, options = Path(model), options or BuildOptions()
    backend = trt_rtx.load()
    # Before the work of verifying: a wrong path or target should be told at once.
    out, options = check_request(model, None if output is None else Path(output), options, backend)
    refuse_data_file(load(model, leave_weights=True), out)
    with contextlib.ExitStack() as stack:
        source = model
        if options.sparsity == "force":
            source = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nm2trt-"))) / model.name
            prune_model(model, source, pattern="2:4")
        report = verify_model(source)
        return build_engine(
            model,
            out,
            options,
            weights=report.weights,
            facts=ModelFacts(report.mask_sha256, report.plan, report.missing),
            backend=backend,
            source=source,
            dry_run=dry_run,
        )


def info(path: str | os.PathLike[str]) -> EngineInfo | OnnxInfo:
    """Say what an engine or ONNX file is, and whether an engine's manifest fits; no runtime is loaded.

    Raises:
        InputError: The file is missing, damaged, or neither.
    """
    from nm2trt.engine.inspection import inspect_engine, is_engine

    if is_engine(Path(path)):
        return inspect_engine(Path(path))
    from nm2trt.graph.describe import describe_model

    try:
        return describe_model(path)
    except ModelError as error:
        raise InputError(f"{path} is no engine of a known kind, and no model: {error}") from error


def doctor() -> MachineReport:
    """Say which libraries and GPUs are here."""
    from nm2trt.engine.machine import survey

    return survey()


def export(
    model: torch.nn.Module,
    example: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    opset: int = 18,
    dtype: str | torch.dtype | None = None,
    dynamic_batch: bool | Sequence[str] = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    plan: Plan | None = None,
    external_data: bool | None = None,
) -> ExportResult:
    """Write a torch model as ONNX, compared with ONNX Runtime, with plan and mask hash in its metadata.

    Args:
        model: An ordinary module; one that a sparsity method is attached to must be finalised first.
        example: What `model` takes: a tensor, a tuple (positional) or a dict (by the names of `forward`).
        path: The file to write; it appears whole or not at all.
        opset: 17 (for TensorRT 8.6), or 18 and later.
        dtype: "float16" exports a half-precision copy, inputs and outputs included; None keeps the model's.
        dynamic_batch: Leave the batch free; or the names of the inputs that have one; or False.
        input_names: Names of the ONNX inputs; `forward`'s own by default.
        output_names: Names of the ONNX outputs; "output", or a returned dict's keys, by default.
        plan: What is meant for each weight; by default what `finalize` left on the model.
        external_data: Put the weights in a file beside `path`; None does so when they pass 2 GB.

    Raises:
        SparsifyError: A sparsity method is still attached.
        InputError: The model, example, an option or the output path is wrong.
        DifferenceError: ONNX Runtime's outputs differ from PyTorch's beyond the tolerance.
    """
    from dataclasses import replace

    from nm2trt.exporter import torch_onnx
    from nm2trt.graph.annotate import Annotation, annotate
    from nm2trt.nm.plan import PLAN_ATTRIBUTE

    plan = plan if plan is not None else getattr(torch_onnx.unwrapped(model), PLAN_ATTRIBUTE, None)
    written: list[Annotation] = []
    result = torch_onnx.export(
        model,
        example,
        path,
        opset=opset,
        dtype=dtype,
        dynamic_batch=dynamic_batch,
        input_names=input_names,
        output_names=output_names,
        plan=plan,
        external_data=external_data,
        finish=lambda file: written.append(annotate(file, plan)),
    )
    return replace(result, plan=written[0].plan, mask_sha256=written[0].mask_sha256)


def fuse(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    allow_broken: bool = False,
    compare: bool = True,
) -> FuseReport:
    """Fold BatchNorms, merge parallel convolution branches and evaluate masks in an ONNX model.

    Args:
        model: The ONNX file.
        output: The file to write; None puts `.fused.onnx` beside the model.
        allow_broken: Merge branches even where the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.

    Raises:
        InputError: A path is wrong, or the model is no sound ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype.
        LineageError: A mask changed in a way that no fusion explains.
    """
    from nm2trt.graph.fuse import fuse_model

    return fuse_model(model, _beside(model, output, "fused"), allow_broken=allow_broken, compare=compare)


def prune(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
) -> PruneReport:
    """Make the weights of an ONNX model N:M by magnitude, one-shot.

    Args:
        model: The ONNX file.
        output: The file to write; None puts `.pruned.onnx` beside the model.
        pattern: The pattern.
        include: Globs on names of weights; when given, all others stay dense.
        exclude: Globs on names of weights that stay dense.
        min_channels: Fewest input channels of a pruned weight.

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is no sound ONNX file.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.prune import prune_model

    return prune_model(
        model,
        _beside(model, output, "pruned"),
        pattern=pattern,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
    )


def _beside(model: str | os.PathLike[str], output: str | os.PathLike[str] | None, what: str) -> Path:
    return Path(model).with_suffix(f".{what}.onnx") if output is None else Path(output)


def validate(
    model: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | None = None,
    batch: int | None = None,
    runs: int = 200,
    warmup: int = 20,
    threads: int = 0,
) -> ValidationReport:
    """Compare two ONNX models on labelled data: top-1 with the paired interval, outputs, latency.

    Both run on ONNX Runtime on the CPU, where zeros bring no speed.

    Args:
        model: The model in question, e.g. the sparse one.
        against: The model to compare with, e.g. the dense one.
        data: An `.npz` with the inputs by their names and class indices under `labels`.
        output: Output of class scores; by default the only one of rank 2.
        batch: Batch size; 64 for accuracy and 1 for latency by default.
        runs: Timed runs of each model; 0 leaves latency out.
        warmup: Runs of each before, not timed.
        threads: Threads of ONNX Runtime; 0 leaves it to the library.

    Raises:
        InputError: A file or option is wrong, or the data does not fit a model.
        DifferenceError: The models' outputs cannot be compared, or are NaN.
        BackendError: ONNX Runtime is missing or failed.
    """
    from nm2trt.backends.ort import open_onnx
    from nm2trt.files import check_input
    from nm2trt.validation.data import load_labelled
    from nm2trt.validation.report import validate_sessions

    paths = [check_input(path, "an ONNX model") for path in (model, against)]
    samples = load_labelled(data)
    with open_onnx(paths[0], threads=threads) as candidate, open_onnx(paths[1], threads=threads) as reference:
        return validate_sessions(
            candidate,
            reference,
            samples,
            names=(str(model), str(against), str(data)),
            output=output,
            batch=batch,
            runs=runs,
            warmup=warmup,
            conditions={"backend": "ONNX Runtime on the CPU", "threads": str(threads or "its default")},
        )


def sparsify(
    model: torch.nn.Module,
    *,
    method: str = "sr-ste",
    pattern: PatternChoice | None = "2:4",
    total_steps: int | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_channels: int = 16,
    **options: Any,
) -> SparseSession:
    """Make a model's weights N:M sparse by a method; the training loop does not change.

    Args:
        model: Plain layers; their weights become parametrised in place.
        method: "sr-ste", "ste", "lbc", "magnitude" or "spre"; "fcpts" trains by itself, from `calibration=`.
        pattern: "2:4", an `NMPattern`, or a dict from globs on layer names to patterns (None: dense). FCPTS
            takes None for zeros anywhere.
        total_steps: Optimizer steps of the whole run, for methods with a schedule.
        include: Globs on layer names; when given, only these become sparse.
        exclude: Globs on layer names that stay dense.
        min_channels: Fewest input channels of a sparse layer.
        **options: Options of the method, e.g. `lambda_w=2e-4` of SR-STE.

    Returns:
        The handle: `attach(optimizer)`, then train, then `finalize()`.

    Raises:
        PatternError: A pattern cannot be read.
        SparsifyError: No layer fits, an option or a glob is unknown, a weight holds NaN, or the model is
            attached, wrapped or sharded already.
    """
    from nm2trt.sparsity import session

    return session.sparsify(
        model,
        method=method,
        pattern=pattern,
        total_steps=total_steps,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
        **options,
    )


@dataclass(frozen=True, slots=True)
class SparsifyResult:
    """What `sparsify_file` wrote.

    Args:
        weights: The sparse weights, a `.safetensors`.
        onnx: The exported model.
        report: The method's report: rates, losses and masks, by layer and in all.
        plan: What is sparse and what is dense, with reasons.
        seconds: Duration of pruning and repair.
    """

    weights: Path
    onnx: Path
    report: Mapping[str, Any]
    plan: Plan
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        import json

        return {
            "weights": str(self.weights),
            "onnx": str(self.onnx),
            "seconds": self.seconds,
            "report": dict(self.report),
            "plan": json.loads(self.plan.to_json()),
        }


def sparsify_file(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> SparsifyResult:
    """Run a sparsify recipe: prune and repair its model, and write weights and ONNX.

    A run that was stopped goes on from the checkpoint it left beside the result. The recipe names Python
    code, which is run.

    Args:
        recipe: The YAML file.
        output: The result's path without its suffix; by default what the recipe says.
        data_root: Folder of the calibration recipe's paths; by default its own.
        allow_functions: Run a calibration source of kind `function`.

    Raises:
        InputError: The recipe, or something that it names, is missing or does not fit.
        SparsityError: A weight does not hold its pattern.
        DifferenceError: ONNX Runtime's outputs differ from PyTorch's beyond the tolerance.
    """
    from nm2trt.sparsity.job import load_job

    job = load_job(recipe, output=output, data_root=data_root, allow_functions=allow_functions)
    start = time.perf_counter()
    session = job.run()
    report = session.report()
    session.finalize()
    seconds = time.perf_counter() - start
    job.save()
    export(job.model, job.example(), job.onnx_path)
    return SparsifyResult(job.weights_path, job.onnx_path, report, session.plan, seconds)


def calibration_samples(
    recipe: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    sheet: str | os.PathLike[str] | None = None,
) -> SampleSet:
    """Read the samples of a calibration recipe, and draw them where they are images.

    Args:
        recipe: The YAML file.
        data_root: Folder that the recipe's paths are relative to and may not leave; its own by default.
        allow_functions: Run a source of kind `function`.
        sheet: PNG to draw the first 64 images to.

    Raises:
        InputError: The recipe or its source is missing or wrong, or a path leaves its folder.
        DataError: The samples are too few, not finite, or have another hash than the recipe says.
        OutputError: The sheet cannot be written.
    """
    from nm2trt.calibration.recipe import load_recipe
    from nm2trt.calibration.sample_set import write_contact_sheet

    samples = load_recipe(recipe, data_root=data_root, allow_functions=allow_functions)
    if sheet is not None:
        write_contact_sheet(samples, Path(sheet))
    return samples


def verify(
    model: str | os.PathLike[str],
    *,
    pattern: NMPattern | str | None = None,
    as_dtype: str | None = None,
    external_data_root: str | os.PathLike[str] | None = None,
) -> VerifyReport:
    """Judge every weight of an ONNX model: does it hold the pattern, and may a sparse kernel run it?

    Args:
        model: The ONNX file.
        pattern: The pattern to hold. By default each weight is held to the plan in the file, or to 2:4
            where there is none. Given, it takes the place of the plan's patterns, not of its dense layers.
        as_dtype: "fp16" or "bf16" judges what rounding floating-point weights to that type leaves.
        external_data_root: Folder below which external data is read; by default the real model's folder.

    Raises:
        InputError: The path or an argument is wrong.
        ModelError: The file is no sound ONNX model.
        PatternError: `pattern` is no N:M pattern.
    """
    from nm2trt.graph.verify import verify_model

    return verify_model(model, pattern=pattern, as_dtype=as_dtype, external_data_root=external_data_root)
