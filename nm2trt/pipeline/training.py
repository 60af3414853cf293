"""From torch weights to an ONNX file: sparsify, calibrate, export."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from nm2trt.calibration.sample_set import SampleSet
    from nm2trt.exporter.torch_onnx import ExportResult
    from nm2trt.nm.plan import Plan
    from nm2trt.sparsity.policy import PatternChoice
    from nm2trt.sparsity.session import SparseSession

__all__ = ["SparsifyResult", "calibration_samples", "export", "export_file", "sparsify", "sparsify_file"]


def sparsify(
    model: torch.nn.Module,
    *,
    method: str = "sr-ste",
    pattern: PatternChoice | None = "2:4",
    total_steps: int | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_channels: int = 16,
    gain: str | os.PathLike[str] | None = None,
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
        gain: What `nm2trt gain --json` wrote: weights that would not pay stay dense, each with its reason.
        **options: Options of the method, e.g. `lambda_w=2e-4` of SR-STE.

    Returns:
        The handle: `attach(optimizer)`, then train, then `finalize()`.

    Raises:
        PatternError: A pattern cannot be read.
        InputError: `gain` is no report of nm2trt gain.
        SparsifyError: No layer fits, an option or a glob is unknown, a weight holds NaN, or the model is
            attached, wrapped or sharded already.
    """
    from nm2trt.sparsity import session

    dense = None
    if gain is not None:
        from nm2trt.files import check_input
        from nm2trt.nm.gain_table import parse_dense_names

        path = check_input(gain, "a report of nm2trt gain --json")
        dense = parse_dense_names(path.read_bytes(), where=str(path))
    return session.sparsify(
        model,
        method=method,
        pattern=pattern,
        total_steps=total_steps,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
        dense=dense,
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


def export_file(
    model: str,
    weights: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    inputs: Mapping[str, Sequence[int]],
    arguments: Mapping[str, Any] | None = None,
    dtype: str | None = None,
    opset: int = 18,
    folder: str | os.PathLike[str] = ".",
) -> ExportResult:
    """Write the ONNX file of a model that a function makes, with weights from a file. The code is run.

    Args:
        model: `file.py:function`, or `package.module:function`.
        weights: A `.safetensors`.
        path: The file to write.
        inputs: Shape of each input of `forward` by name, float32; the first dimension stays free.
        arguments: What the function is given.
        dtype: "float16" or "bfloat16" exports a copy of that type; None keeps the model's.
        opset: 17, or 18 and later.
        folder: Folder of `file.py`.

    Raises:
        InputError: Function, weights or shapes are wrong, or the output path is.
        DifferenceError: ONNX Runtime's outputs differ from PyTorch's beyond the tolerance.
    """
    from nm2trt.exporter.example import random_example
    from nm2trt.sparsity.job import load_weights, make_model

    made = make_model(model, arguments or {}, Path(folder))
    load_weights(made, Path(weights))
    return export(made.eval(), random_example(inputs), path, dtype=dtype, opset=opset)
