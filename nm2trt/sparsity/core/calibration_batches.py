"""Calibration input for a torch model: any iterable of batches, checked once, and never its labels."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nm2trt.errors import DataError, Nm2trtError, first_line

_LABELS = frozenset({"label", "labels"})


@dataclass(frozen=True, slots=True)
class CalibrationBatch:
    """One call of the model.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        samples: Length of the first tensor's first dimension.
        labels: Elements after the first of the list or tuple that it came as; the model does not get them.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    samples: int
    labels: int = 0

    def to(self, device: torch.device) -> CalibrationBatch:
        """Return the batch on a device."""
        return CalibrationBatch(
            tuple(_on(value, device) for value in self.args),
            {name: _on(value, device) for name, value in self.kwargs.items()},
            self.samples,
            self.labels,
        )


def read_batches(
    calibration: Iterable[Any] | str | os.PathLike[str] | None, *, max_samples: int
) -> tuple[CalibrationBatch, ...]:
    """Read batches until `max_samples` are there.

    A batch is a tensor or array (the model's one argument), a mapping (arguments by name; `label` and
    `labels` are left out), or a list or tuple as a DataLoader yields it, whose first element is the input
    and whose rest is ignored. A path is a calibration recipe.

    Raises:
        DataError: There is nothing to read, it holds NaN, it is one sample or copies of one, or no batch can
            be read.
    """
    if calibration is None:
        raise DataError(
            'give calibration=, an iterable of input batches, a DataLoader or a recipe "calib/NAME.yaml"'
        )
    if isinstance(calibration, str | os.PathLike):
        from nm2trt.calibration.recipe import load_recipe  # its schema needs pydantic; tensors do not

        calibration = load_recipe(calibration)
    if isinstance(calibration, torch.Tensor | np.ndarray) or not isinstance(calibration, Iterable):
        raise DataError(
            f"calibration is a {type(calibration).__name__}, not an iterable of batches; give [batch, ...]"
        )
    batches: list[CalibrationBatch] = []
    samples = 0
    for index, item in enumerate(calibration):
        batches.append(_batch(item, index))
        samples += batches[-1].samples
        if samples >= max_samples:
            break
    if not samples:
        raise DataError("calibration holds no sample; give some dozens, unlabelled")
    if samples == 1:
        raise DataError("calibration holds one sample, from which nothing can be learned; give some dozens")
    if _all_equal(batches):
        raise DataError(
            f"calibration holds {samples} equal samples, from which nothing can be learned; give some dozens "
            "of different ones"
        )
    return tuple(batches)


def _all_equal(batches: Sequence[CalibrationBatch]) -> bool:
    """Whether all samples are one and the same; looks at no more than the first that differs."""
    values = [
        {key: v for key, v in (*enumerate(b.args), *b.kwargs.items()) if isinstance(v, Tensor) and v.dim()}
        for b in batches
        if b.samples
    ]
    first = {key: value[:1] for key, value in values[0].items()}
    return all(
        batch.keys() == first.keys()
        and all(
            first[key].shape == (1, *value.shape[1:]) and bool((value == first[key]).all())
            for key, value in batch.items()
        )
        for batch in values
    )


def outputs_of(model: nn.Module, batch: CalibrationBatch, index: int) -> tuple[Tensor, ...]:
    """Run a model and return its floating outputs, in order.

    Raises:
        DataError: The model cannot run the batch, or its output is NaN or has no floating tensor.
    """
    try:
        result = model(*batch.args, **batch.kwargs)
    except Nm2trtError:  # of our own hooks: it says what is wrong
        raise
    except Exception as error:
        first = first_line(error)
        if batch.labels:
            first += (
                "; of a list or tuple the model gets the first element, and the rest counts as labels: if it "
                "takes several inputs, give mappings of its argument names to tensors"
            )
        raise DataError(
            f"{type(model).__name__} cannot run calibration batch {index}, {_shapes(batch)}: {first}"
        ) from error
    found = tuple(tensor for tensor in _tensors(result) if tensor.is_floating_point())
    if not found:
        raise DataError(f"{type(model).__name__} returns no floating tensor to compare with the dense model")
    return found


def joined(batches: Sequence[CalibrationBatch], samples: int) -> CalibrationBatch:
    """Join the first batches of equal shapes into one of at most that many samples, or only the first."""
    taken = [batches[0]]
    for batch in batches[1:]:
        alike = [_inner_shape(v) for v in (*batch.args, *batch.kwargs.values())] == [
            _inner_shape(v) for v in (*taken[0].args, *taken[0].kwargs.values())
        ]
        if not alike or sum(b.samples for b in taken) + batch.samples > samples:
            break
        taken.append(batch)
    args = tuple(_concatenated([batch.args[i] for batch in taken]) for i in range(len(taken[0].args)))
    kwargs = {key: _concatenated([batch.kwargs[key] for batch in taken]) for key in taken[0].kwargs}
    return CalibrationBatch(args, kwargs, sum(batch.samples for batch in taken), taken[0].labels)


def _batch(item: Any, index: int) -> CalibrationBatch:
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    labels = 0
    if isinstance(item, list | tuple):
        if not item:
            raise DataError(f"calibration batch {index} is an empty {type(item).__name__}")
        labels, item = len(item) - 1, item[0]
    if isinstance(item, Mapping):
        kwargs = {str(name): _tensor(value) for name, value in item.items() if name not in _LABELS}
    else:
        args = (_tensor(item),)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if not tensors:
        raise DataError(
            f"calibration batch {index} is a {type(item).__name__} without a tensor; give tensors, arrays, "
            "or a mapping of them"
        )
    if not tensors[0].ndim:
        raise DataError(f"calibration batch {index} is a single number; its first dimension is the sample")
    for tensor in tensors:
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise DataError(f"calibration batch {index} holds NaN; clean the data")
    return CalibrationBatch(args, kwargs, len(tensors[0]), labels)


def _tensor(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(value))
    # Autograd cannot keep tensors that were made in inference mode.
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _on(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value


def _tensors(result: Any) -> Sequence[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    if isinstance(result, Mapping):
        return [tensor for value in result.values() for tensor in _tensors(value)]
    if isinstance(result, list | tuple):
        return [tensor for value in result for tensor in _tensors(value)]
    return []


def _shapes(batch: CalibrationBatch) -> str:
    shapes = [tuple(v.shape) for v in (*batch.args, *batch.kwargs.values()) if isinstance(v, Tensor)]
    return "shape " + ", ".join(map(str, shapes))


def _inner_shape(value: Any) -> Any:
    return tuple(value.shape[1:]) if isinstance(value, Tensor) else value


def _concatenated(values: Sequence[Any]) -> Any:
    return torch.cat(list(values)) if isinstance(values[0], Tensor) else values[0]
