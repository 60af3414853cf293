"""A torch model written as ONNX, with its plan and mask hash."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.extras import names_the_extra

if TYPE_CHECKING:
    import torch

    from nm2trt.exporter.torch_onnx import ExportResult
    from nm2trt.nm.plan import Plan


@names_the_extra()
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
        model: An ordinary module; one that a sparsity method is attached to must be finalised first. It stays
            as it is, and is exported in eval mode.
        example: What `model` takes: a tensor, a tuple (positional) or a dict (by the names of `forward`).
            Numbers, strings, booleans and None among them become constants of the graph.
        path: The file to write; it appears whole or not at all.
        opset: 18 and later as PyTorch writes it; 17 (for TensorRT 8.6) by rewriting what opset 18 changed.
        dtype: "float16" exports a half-precision copy, inputs and outputs included; None keeps the model's.
        dynamic_batch: Leave the first dimension free in every input that shares it with the first input; or
            the names of those inputs; or False.
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
    from nm2trt.graph.verify.plan_metadata import Annotation, annotate

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
        finish=lambda file, known: written.append(annotate(file, known)),
    )
    found = written[0]
    return replace(result, plan=found.plan, mask_sha256=found.mask_sha256, filled=found.filled)


@names_the_extra()
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
    from nm2trt.sparsity.recipe_file import load_weights, make_model

    made = make_model(model, arguments or {}, Path(folder))
    load_weights(made, Path(weights))
    return export(made.eval(), random_example(inputs), path, dtype=dtype, opset=opset)
