"""An engine built from an ONNX file."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from nm2trt.backends.options import BuildOptions, Sparsity
from nm2trt.errors import InputError
from nm2trt.figures import counted, percent
from nm2trt.options.engines import BuildCommand, BuilderCommand
from nm2trt.options.field import filled, keywords
from nm2trt.options.shares import parse_share
from nm2trt.pipeline.beside_parser import verified_and_parsed
from nm2trt.pipeline.in_memory import as_path, takes_values
from nm2trt.pipeline.keyword_options import build_options
from nm2trt.pipeline.lowering import Lowering, Precision, lower, refuse_fp8
from nm2trt.pipeline.reconstruct import Calibration, reconstruct

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx
    import torch

    from nm2trt.backends.protocol import Backend
    from nm2trt.engine.build_result import BuildResult
    from nm2trt.graph.storage.model import Model


@takes_values(samples=("calib",), output="output")
def build(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: str | os.PathLike[str] | BuildOptions | None = None,
    options: BuildOptions | None = None,
    *,
    sparsity: bool | Sparsity | None = None,
    targets: str | None = None,
    profiles: Sequence[str] = (),
    workspace: str | None = None,
    shapes: Sequence[str] = (),
    effort: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    tf32: bool = True,
    strict_nans: bool = False,
    plugins: Sequence[str | os.PathLike[str]] = (),
    library_tactics: bool = True,
    backend: str | None = None,
    dry_run: bool = False,
    require_sparse: str | float | None = None,
    precision: Lowering | Precision | None = None,
    calib: str | os.PathLike[str] | Mapping[str, Any] | npt.ArrayLike | None = None,
    prune_method: Literal["magnitude", "reconstruct"] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    example: Any = None,  # noqa: ARG001 - `takes_values` exports a module with it
) -> BuildResult:
    """Verify an ONNX model and build an engine from it, written whole or not at all, with its manifest.

    Args:
        model: The ONNX file; or, with an output, an `onnx.ModelProto` or a `torch.nn.Module` with an example.
        output: The engine's path; None puts it beside the model. `build(model, options)` does so too.
        options: What to build as one value, instead of the keywords down to `library_tactics`.
        sparsity: True or "enable" allows sparse kernels if weights hold 2:4, "force" prunes them first.
        targets: Compute capabilities, as in "sm80,sm86".
        profiles: One NAME:MIN,OPT,MAX per input, as in "x:1,8,32".
        workspace: Most scratch memory of a kernel, as in "512M".
        shapes: One NAME:SHAPE per input to fix, as in "x:8x3x224x224".
        effort: How long the builder searches, 0 to 5; None leaves it to the builder.
        timing_cache: File of kernel timings to start from and to add to.
        tf32: Whether fp32 products may be rounded to TF32.
        strict_nans: Whether NaNs must pass through every layer.
        plugins: Shared libraries of operators; their code is run.
        library_tactics: Whether TensorRT may use cuBLAS and cuDNN.
        backend: "trt", "trt-rtx" or "ort"; None takes TensorRT if it and a GPU are here, else TensorRT for
            RTX.
        dry_run: Stop before the builder starts, and write nothing.
        require_sparse: Least share of the eligible multiply-accumulates that sparse kernels must run: "80%",
            or 0.8.
        precision: What the engine should compute in: "fp16", "bf16", "int8" or "fp8", or a `Lowering` that
            says how to reach it; None takes the types that the file has.
        calib: Samples, as `quantize` takes them: `sparsity="force"` rebuilds the weights from them, and a
            `precision` that is given by its name takes them; None takes those of a `Lowering`.
        prune_method: How `sparsity="force"` prunes: "magnitude", or "reconstruct" from samples; None
            reconstructs if there are samples.
        data_root: Folder that the paths of a recipe in `calib` are relative to; its own by default.
        allow_functions: Run the `function` source of a recipe in `calib`, which is code.
        example: With a module, what it takes: a tensor, a tuple (positional) or a dict (by the names of
            `forward`).

    Raises:
        SparsityError: Sparse kernels are asked for, and no weight holds 2:4 or one breaks its plan; or fewer
            run than `require_sparse` asks for, or nobody can know here.
        InputError: The model, a profile, a target or the output path is wrong.
        BackendError: The library is missing, refused the model or failed.
        Interrupted: The user stopped it.
    """
    from nm2trt.backends.choice import choose_backend, place_of
    from nm2trt.engine.request import check_request
    from nm2trt.graph.analysis.multiply_accumulates import with_macs
    from nm2trt.graph.edit.free_sizes import untie_free_sizes
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.model_hash import files_sha256
    from nm2trt.graph.storage.save import refuse_data_file

    if isinstance(output, BuildOptions):
        if options is not None:
            raise InputError("the options of the build are given twice")
        output, options = None, output
    options = build_options(
        options,
        sparsity,
        targets=targets,
        profiles=profiles,
        workspace=workspace,
        shapes=shapes,
        effort=effort,
        timing_cache=timing_cache,
        tf32=tf32,
        strict_nans=strict_nans,
        plugins=plugins,
        library_tactics=library_tactics,
    )
    model, calib = as_path(model), cast("str | None", calib)
    lowering = None if isinstance(precision, str) else precision
    if isinstance(precision, str):
        lowering = Lowering(precision, calib, data_root=data_root, allow_functions=allow_functions)
    required = None if require_sparse is None else parse_share(require_sparse, "the work", "80%")
    builder = choose_backend(backend)
    # Before the work of verifying: a wrong path or target should be told at once.
    out, options = check_request(model, None if output is None else Path(output), options, builder)
    opened = load(model, leave_weights=True)
    refuse_data_file(opened, out)
    _refuse_unreadable(opened, model, builder)
    refuse_fp8(opened, options.targets, None if lowering is None else lowering.precision)
    hash_files = files_sha256(opened)
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as name:
        folder = Path(name)
        notes: tuple[str, ...] = ()
        if options.sparsity == "force":
            samples = None
            if calib is not None:
                samples = Calibration(calib, data_root=data_root, allow_functions=allow_functions)
            elif lowering is not None and lowering.calib is not None:
                samples = Calibration(
                    lowering.calib, data_root=lowering.data_root, allow_functions=lowering.allow_functions
                )
            opened, note = _forced(opened, folder, out, samples, prune_method)
            notes = (note,)
        elif prune_method is not None or (calib is not None and not isinstance(precision, str)):
            raise InputError(
                "calib and prune_method say how weights are forced to 2:4; set sparsity to force, or give "
                "calib with a precision"
            )
        if lowering is not None:
            place = place_of(builder.name, options.targets)
            notes = (*notes, *lower(opened, out, lowering, place=place, dry_run=dry_run))
        untie_free_sizes(opened)
        source = opened.file
        if source is None:
            from nm2trt.graph.pass_frame import write_model

            kept = lowering is not None and lowering.keep and not dry_run
            suffix = "" if lowering is None else f".{lowering.precision}"
            source = (out.parent if kept else folder) / f"{out.stem}{suffix}.onnx"
            write_model(opened, source)
        report, parsed = verified_and_parsed(opened, source, options, builder)
        from nm2trt.engine.build import ModelFacts, build_engine  # here: it was loaded beside the parser

        result = build_engine(
            model,
            out,
            options,
            weights=report.weights,
            facts=ModelFacts(report.mask_sha256, report.plan, report.missing, notes),
            backend=builder,
            source=source,
            dry_run=dry_run,
            at_shapes=lambda shapes: with_macs(opened, report.weights, shapes),
            require_sparse=required,
            hash_model=hash_files,
            parsed=parsed,
        )
        return replace(result, verified=report) if source == model else result


def _refuse_unreadable(opened: Model, model: Path, builder: Backend) -> None:
    """Refuse a model that the builder's parser would refuse late, read wrongly or crash at.

    Raises:
        BackendError: It is such a model.
    """
    from nm2trt.engine.request import refuse_opset, refuse_unreadable
    from nm2trt.graph.analysis.parser_hazards import blocked_node, parser_hazard
    from nm2trt.graph.storage.model import opset

    refuse_opset(opset(opened.proto), builder, model)
    if builder.name != "ort":
        blocked, hazard = blocked_node(opened), parser_hazard(opened)
        refuse_unreadable(builder, model, blocked=blocked, hazard=hazard)


def _forced(
    model: Model,
    folder: Path,
    engine: Path,
    samples: Calibration | None,
    method: Literal["magnitude", "reconstruct"] | None,
) -> tuple[Model, str]:
    """Return an open model with 2:4 weights, and the note that says how it came about."""
    from nm2trt.graph.prune.prune_model import prune_model
    from nm2trt.graph.prune.report import PruneReport
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.save import is_same_file

    if method == "reconstruct" and samples is None:
        raise InputError(
            "the weights are rebuilt from samples; give them with --calib, or prune by magnitude"
        )
    if samples is not None and is_same_file(samples.calib, engine):
        raise InputError(f"the output {engine} is the file of samples; give another path with -o")
    report: PruneReport | ReconstructReport
    if method == "magnitude" or samples is None:
        report = prune_model(model, None)
    else:
        source = model.path or Path()
        report = reconstruct(source, folder / source.name, ReconstructOptions(), samples)
        model = replace(load(folder / source.name, leave_weights=True), called=model.name)
    count = report.counts["pruned"] + report.counts["kept"]
    hold = f"{count} of {len(report.weights)} hold it"
    if isinstance(report, ReconstructReport):
        agreement = next((o.agreement for o in report.outputs if o.agreement is not None), None)
        same = "" if agreement is None else f", {percent(agreement)} of held-out outputs name the same class"
        seen = counted(report.samples, "sample")
        return model, f"the weights were rebuilt to 2:4 from {seen}, {hold}{same}"
    return model, (
        f"the weights were forced to 2:4 by magnitude, {hold}: compare the accuracy with the original's, as "
        "nothing was trained; --calib SAMPLES rebuilds them"
    )


def engine_suffix(backend: str | None = None) -> str:
    """Return what names of engines end in, e.g. ".rtx".

    Args:
        backend: As `build` takes it.

    Raises:
        BackendError: The library is missing or cannot be used.
    """
    from nm2trt.backends.choice import choose_backend

    return choose_backend(backend).suffix


def build_command(command: BuildCommand) -> BuildResult:
    """Build as the options of `nm2trt build` say; raises what `build` does."""
    lowering = None if command.precision is None else filled(Lowering, command)
    return build(
        command.model,
        command.output,
        build_options(None, command.sparsity, **keywords(command, of=BuilderCommand)),
        backend=command.backend,
        dry_run=command.dry_run,
        require_sparse=command.require_sparse,
        precision=lowering,
        calib=command.calib if lowering is None else None,
        prune_method=command.prune_method,
        data_root=command.data_root,
        allow_functions=command.allow_functions,
    )
