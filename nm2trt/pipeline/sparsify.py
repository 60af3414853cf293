"""Sparse weights from a torch model, in a training loop or from a recipe."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.extras import names_the_extra
from nm2trt.pipeline.export import export

if TYPE_CHECKING:
    import torch

    from nm2trt.nm.plan import Plan
    from nm2trt.sparsity.core.layer_choice import PatternChoice
    from nm2trt.sparsity.core.session import SparseSession


@names_the_extra()
def sparsify(
    model: torch.nn.Module,
    *,
    method: str | Mapping[str, str] = "sr-ste",
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
        method: "sr-ste", "ste", "lbc", "magnitude" or "spre"; "fcpts" and
            "reconstruct" need no training loop, but `calibration=`.
            A dict from globs on layer names to methods gives each layer its own.
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
        InputError: `gain` is not a report of nm2trt gain.
        SparsifyError: No layer fits, an option or a glob is unknown, a weight holds NaN, or the model is
            attached, wrapped or sharded already.
    """
    from nm2trt.sparsity.sparsify import sparsify as sparsify_module

    dense = None
    if gain is not None:
        from nm2trt.files import read_input
        from nm2trt.nm.gain_table import parse_dense_names

        dense = parse_dense_names(read_input(gain, "an `nm2trt gain --json`"), where=str(gain))
    return sparsify_module(
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


@names_the_extra()
def sparsify_file(
    recipe: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> SparsifyResult:
    """Run a sparsify recipe: prune and repair its model, and write weights and ONNX.

    A run that was stopped goes on from the checkpoint it left beside the result.

    Args:
        recipe: The YAML file.
        output: The result's path without its suffix; by default what the recipe says.
        data_root: Folder of the calibration recipe's paths; by default its own.
        allow_functions: Run the Python code that the recipe names: the function that makes the model, and a
            calibration source of kind `function`.

    Raises:
        InputError: The recipe, or something that it names, is missing or does not fit.
        SparsityError: A weight does not hold its pattern.
        DifferenceError: ONNX Runtime's outputs differ from PyTorch's beyond the tolerance.
    """
    from nm2trt.files import real_output
    from nm2trt.locks import output_lock
    from nm2trt.sparsity.recipe_file import load_job

    job = load_job(recipe, output=output, data_root=data_root, allow_functions=allow_functions)
    # Another run to the same output waits, so that weights, ONNX and checkpoint are of one of the two.
    with output_lock(real_output(job.weights_path).absolute()):
        start = time.perf_counter()
        session = job.run()
        report = session.report()
        session.finalize()
        seconds = time.perf_counter() - start
        job.save()
        export(job.model, job.example(), job.onnx_path)
    return SparsifyResult(job.weights_path, job.onnx_path, report, session.plan, seconds)
