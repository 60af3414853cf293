"""PyTorch to ONNX: written only when ONNX Runtime computes what PyTorch does.

The file is made by `torch.onnx.export(dynamo=True)`, which keeps the names of the modules, so that a
weight in the file can be told from its parameter.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod

from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import InputError, SparsifyError
from nm2trt.exporter.dynamo_export import eval_copy, to_onnx
from nm2trt.exporter.example import Example
from nm2trt.exporter.names import restore_names, without_merged, without_unread
from nm2trt.exporter.reference import compare_with_runtime, output_names_of, run_reference
from nm2trt.exporter.saving import own_data_files, saved
from nm2trt.figures import counted
from nm2trt.files import atomic_path, check_output, real_output
from nm2trt.json_value import named
from nm2trt.locks import output_lock
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan, inside_wrappers
from nm2trt.tables.result import Result

OLDEST_OPSET = 17
NEWEST_OPSET = 23


@dataclass(frozen=True, slots=True, repr=False)
class ExportResult(Result):
    """What was written.

    Args:
        path: The ONNX file.
        data_path: The file beside it that holds the weights, or None when they are inside.
        opset: Opset of the file.
        dtype: "float32" or "float16": the type of weights, inputs and outputs that are floating.
        inputs: Input names, in order.
        outputs: Output names, in order.
        differences: How far ONNX Runtime's outputs are from PyTorch's in float32; the example's, then those
            of another batch size if the batch is dynamic.
        plan: What was meant for each weight, or None when the model carries no plan. From
            `nm2trt.export`, under the names of the ONNX tensors; else of the torch parameters.
        mask_sha256: The mask hash that stands in the file's metadata; "" when none was written.
        filled: From `nm2trt.export`: tensors that have fewer zeros than the plan's pattern.
    """

    path: Path
    data_path: Path | None
    opset: int
    dtype: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    differences: tuple[OutputDifference, ...]
    plan: Plan | None = None
    mask_sha256: str = ""
    filled: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; the plan stands in the file itself."""
        return {
            **named(self, "output=path data_path opset dtype inputs outputs differences"),
            "planned": self.plan is not None,
            "mask_sha256": self.mask_sha256,
        }

    def remarks(self) -> tuple[str, ...]:
        """Return what was written, how far it is from PyTorch, and what the plan says."""
        worst = max((found.max_abs for found in self.differences), default=0.0)
        plan = "no plan" if self.plan is None else self.plan.counts()
        tensors = f"{', '.join(self.inputs)} -> {', '.join(self.outputs)}"
        return (
            f"{self.path}  (opset {self.opset}, {self.dtype}; {tensors})",
            f"largest difference from PyTorch {worst:.3g}; {plan}",
            *((self._broken,) if self.filled else ()),
        )

    @property
    def _broken(self) -> str:
        count = counted(len(self.filled), "weight has", "weights have")
        return (
            f"{count} fewer zeros than planned, {self.filled[0]} first: training after finalize filled them; "
            "call nm2trt.keep_zeros(model) before it, or sparsify again"
        )


def export(
    model: nn.Module,
    example: Tensor | Sequence[Any] | Mapping[str, Any],
    path: str | os.PathLike[str],
    *,
    opset: int = 18,
    dtype: str | torch.dtype | None = None,
    dynamic_batch: bool | Sequence[str] = True,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    plan: Plan | None = None,
    external_data: bool | None = None,
    finish: Callable[[Path, Plan | None], None] | None = None,
) -> ExportResult:
    """Write a model as ONNX, once ONNX Runtime has computed from it what PyTorch does; see `nm2trt.export`.

    The model is copied: its weights, mode and device stay as they are. The copy is exported in eval mode.
    `finish`, if given, gets the written file and its plan before the file takes its name; if it raises, the
    file is discarded.

    Raises:
        SparsifyError: A sparsity method is still attached.
        DataError: The model cannot run the example, or the example is of a form that cannot be exported.
        InputError: The opset, dtype or names are wrong, a parameter is not a plain tensor, or PyTorch cannot
            export the model.
        DifferenceError: ONNX Runtime's outputs differ by more than the dtype's tolerance.
        OutputError: The file cannot be written.
        BackendMissingError: onnxscript or onnxruntime is not installed.
    """
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise InputError(f"opset {opset!r} cannot be written; choose {OLDEST_OPSET} to {NEWEST_OPSET}")
    model = unwrapped(model)
    _refuse_attached(model)
    _refuse_other_tensors(model)
    target = check_output(path)
    inputs = Example.of(model, example, names=input_names, dynamic_batch=dynamic_batch)
    chosen = _chosen_dtype(model, dtype)
    plan = plan if plan is not None else getattr(model, PLAN_ATTRIBUTE, None)

    reference_model = eval_copy(model, torch.float32)
    reference = run_reference(reference_model, inputs, torch.float32)
    names = output_names_of(reference, output_names)
    program = to_onnx(reference_model.to(chosen), inputs.traced(chosen), opset, names)
    restore_names(program.model, reference_model)
    if plan is not None:
        plan = without_unread(without_merged(plan, program.model, reference_model), program.exported_program)
    _tidy(program.model, opset)
    inputs.name_batch(program.model)
    if chosen != torch.float32:  # the copy has been rounded
        reference_model = eval_copy(model, torch.float32)
    real = real_output(target).absolute()
    with output_lock(real) as lock:
        for replaced in own_data_files(real):  # the lock removes them once their model is replaced
            lock.will_write(replaced)
        with (
            atomic_path(target) as temporary,
            saved(program.model, temporary, real, lock, external=external_data) as data_path,
        ):
            differences = compare_with_runtime(temporary, reference_model, inputs, reference, names, chosen)
            if finish is not None:
                finish(temporary, plan)
    return ExportResult(
        path=target,
        data_path=data_path,
        opset=opset,
        dtype=_name(chosen),
        inputs=inputs.names,
        outputs=names,
        differences=differences,
        plan=plan,
    )


def unwrapped(model: nn.Module) -> nn.Module:
    """Take a module out of its wrappers, whose prefixes change its names; see `inside_wrappers`.

    Raises:
        InputError: `model` is not a module, or torch.jit has compiled it.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"export takes a torch.nn.Module, not {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            "the model is compiled by torch.jit, which export cannot trace; give it as it was before"
        )
    inside: nn.Module = inside_wrappers(model)
    return inside


def _refuse_attached(model: nn.Module) -> None:
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, BasePruningMethod):
                layer, weight = name or "the model", hook._tensor_name
                raise SparsifyError(
                    f"torch.nn.utils.prune still holds {weight!r} of {layer}; call "
                    f"torch.nn.utils.prune.remove(module, {weight!r}), which keeps the zeros, then export"
                )
        method = getattr(type(module), "nm2trt_method", None)
        if method is not None:
            layer = name.partition(".parametrizations")[0] or "the model"
            raise SparsifyError(
                f"{method} is still attached to {layer}; call finalize() on what sparsify returned, or "
                "finalize(copy.deepcopy(model)) to go on training, then export what it returns"
            )


def _refuse_other_tensors(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        kind: Any = type(parameter.data)
        if kind.__torch_dispatch__ is not Tensor.__torch_dispatch__:
            raise InputError(
                f"{name} is of class {kind.__name__}, not a plain tensor; export the model as it was "
                "before it was quantised, compressed or sharded"
            )


def _chosen_dtype(model: nn.Module, dtype: str | torch.dtype | None) -> torch.dtype:
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if dtype is None:
        if len(own) > 1:
            raise InputError(
                f"the model mixes {', '.join(sorted(map(_name, own)))}; give dtype='float32' or 'float16'"
            )
        dtype = next(iter(own), torch.float32)
    wanted = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if wanted not in (torch.float32, torch.float16):
        raise InputError(f"dtype {dtype} cannot be exported; give dtype='float32' or 'float16'")
    return torch.float16 if wanted is torch.float16 else torch.float32


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tidy(model: Any, opset: int) -> None:
    """Drop the exporter's notes, which hold source paths of the machine, and set the opset."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    if opset < 18:
        from nm2trt.exporter.opset import lower_to_17

        lower_to_17(model)
