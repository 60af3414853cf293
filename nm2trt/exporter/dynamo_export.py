"""`torch.onnx.export(dynamo=True)`: what it prints is held back, and what it refuses is one sentence."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from nm2trt.errors import InputError, first_line
from nm2trt.exporter.example import Example
from nm2trt.extras import names_the_extra

# What torch.export says when tracing has fixed a dimension that was to stay free.
_FIXED_BATCH_CLUES = ("user-specified ranges", "Constraints violated", "was inferred to be a constant")


def eval_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model on the CPU, in eval mode.

    Raises:
        InputError: It cannot be copied.
    """
    # torch.nn.utils.weight_norm and spectral_norm keep the weight that they computed, which cannot be copied.
    computed = [v for module in model.modules() for v in vars(module).values() if _is_computed(v)]
    try:
        return copy.deepcopy(model, {id(v): v.detach().clone() for v in computed}).cpu().to(dtype).eval()
    except Exception as error:
        raise InputError(f"the model cannot be copied for export: {kind_and_line(error)}") from error


def _is_computed(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and not value.is_leaf


def to_onnx(
    model: nn.Module,
    example: Example,
    opset: int,
    output_names: tuple[str, ...] | None,
    *,
    optimize: bool = True,
) -> Any:
    """Return PyTorch's ONNX program of a model.

    Args:
        model: The model, in eval mode.
        example: What to trace it with.
        opset: Version of ONNX's operators; 18 at least is traced.
        output_names: Names of the outputs; None leaves them to PyTorch.
        optimize: Let PyTorch fold constants; without it, every parameter is stored as it is.

    Raises:
        InputError: PyTorch cannot export the model.
        BackendMissingError: onnxscript is not installed.
    """
    with names_the_extra("onnxscript"):
        import onnxscript  # noqa: F401 - torch.onnx imports it only half-way through
    shapes = example.dynamic_shapes(model)
    try:
        with _quiet(), torch.no_grad():
            return torch.onnx.export(
                model,
                example.args,
                kwargs=example.kwargs,
                dynamo=True,
                opset_version=max(opset, 18),
                dynamic_shapes=shapes,
                input_names=example.names,
                output_names=output_names,
                optimize=optimize,
                verbose=False,
            )
    except Exception as error:
        if any(clue in str(link) for link in _chain(error) for clue in _FIXED_BATCH_CLUES):
            raise InputError(
                f"{type(model).__name__} works only for the example's batch of {example.batch}; make its "
                "code take any batch, or export with dynamic_batch=False"
            ) from error
        raise InputError(
            f"PyTorch cannot export {type(model).__name__} to ONNX: {kind_and_line(_root(error))}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter logs, warns and prints; its exceptions say what matters."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(sink),
            contextlib.redirect_stderr(sink),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all that went wrong before it, also what PyTorch made nothing of."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _root(error: BaseException) -> BaseException:
    """Return what caused an error, which the exporter wraps in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def kind_and_line(error: BaseException) -> str:
    """Return the kind of an error, and the first line of what it says."""
    kind, line = type(error).__name__, first_line(error)
    return kind if line == kind else f"{kind}: {line}"
