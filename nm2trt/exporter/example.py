"""The example that a model is exported with: names, batch, and copies of another size or dtype."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.errors import DataError, InputError
from nm2trt.figures import counted

_STARRED = inspect.Parameter.VAR_POSITIONAL
_CONSTANTS = (bool, int, float, str, type(None))


def random_example(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return float32 tensors of a normal distribution, by input name, of the given shapes.

    Raises:
        InputError: A size is less than 1.
    """
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        if any(size < 1 for size in shape):
            raise InputError(f"input {name!r} has the shape {list(shape)}; every size must be 1 or more")
    return {name: torch.randn(tuple(shape), generator=generator) for name, shape in shapes.items()}


@dataclass(frozen=True, slots=True)
class Example:
    """Arguments of `forward`; tensors are the graph's inputs, everything else is a constant.

    Args:
        args: Positional arguments.
        kwargs: Arguments by name.
        names: Names of the tensors in the ONNX file, positional ones first.
        batched: For each tensor, whether its first dimension is the batch.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    names: tuple[str, ...]
    batched: tuple[bool, ...]

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example: Tensor | Sequence[Any] | Mapping[str, Any],
        *,
        names: Sequence[str] | None,
        dynamic_batch: bool | Sequence[str],
    ) -> Example:
        """Read what the caller gave.

        Raises:
            DataError: The example holds something that is neither a tensor nor a constant.
            InputError: Names that do not fit.
        """
        args, kwargs = _split(example)
        for where, value in (*enumerate(args), *kwargs.items()):
            if not isinstance(value, (Tensor, *_CONSTANTS)):
                raise DataError(
                    f"argument {where!r} of the example is of type {type(value).__name__}; "
                    "give tensors, and numbers, strings or None for constants"
                )
        given = [*zip(_positional_names(model, len(args)), args, strict=True), *kwargs.items()]
        own = [(name, value) for name, value in given if isinstance(value, Tensor)]
        if not own:
            raise DataError(
                "the example holds no tensor; give the model's input as a tensor, a tuple or a dict"
            )
        chosen = tuple((name for name, _ in own) if names is None else names)
        if len(chosen) != len(own) or len(set(chosen)) != len(chosen):
            wanted = counted(len(own), "different name")
            raise InputError(f"input_names {list(chosen)} must be {wanted}, one per tensor")
        return cls(args, kwargs, chosen, _batched(chosen, [tensor for _, tensor in own], dynamic_batch))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The graph's inputs, in the order of `names`."""
        return tuple(v for v in (*self.args, *self.kwargs.values()) if isinstance(v, Tensor))

    @property
    def dynamic(self) -> bool:
        """Whether any input has a free batch."""
        return any(self.batched)

    @property
    def batch(self) -> int:
        """Batch size of the example; 1 if nothing is batched."""
        return next((t.shape[0] for t, b in zip(self.tensors, self.batched, strict=True) if b), 1)

    def resized(self, batch: int) -> Example:
        """Return the example with its samples repeated to another batch size."""
        picked = [
            t[torch.arange(batch, device=t.device) % t.shape[0]] if b else t
            for t, b in zip(self.tensors, self.batched, strict=True)
        ]
        return self._with(picked)

    def typed(self, dtype: torch.dtype) -> Example:
        """Return the example on the CPU, its floating tensors in `dtype`."""
        tensors = (tensor.detach().cpu() for tensor in self.tensors)
        return self._with([t.to(dtype) if t.is_floating_point() else t for t in tensors])

    def traced(self, dtype: torch.dtype) -> Example:
        """Return the example to trace with: torch takes a batch of one for a constant."""
        example = self.resized(2) if self.dynamic and self.batch == 1 else self
        return example.typed(dtype)

    def dynamic_shapes(self, model: nn.Module) -> dict[str, Any] | tuple[Any, ...] | None:
        """Return the shapes for `torch.onnx.export`, the free dimension called "batch".

        Raises:
            InputError: Arguments by name reach `forward` through `**`; PyTorch leaves no shape of those free.
        """
        if not self.dynamic:
            return None
        flags = iter(self.batched)
        shapes = [
            ({0: "batch"} if next(flags) else {}) if isinstance(v, Tensor) else None
            for v in (*self.args, *self.kwargs.values())
        ]
        parameters = inspect.signature(model.forward).parameters
        kinds = [parameter.kind for parameter in parameters.values()]
        if not self.kwargs:
            at = kinds.index(_STARRED) if _STARRED in kinds else len(shapes)  # `*args` is one tuple
            return (*shapes[:at], tuple(shapes[at:])) if len(shapes) > at else tuple(shapes)
        unnamed = [name for name in self.kwargs if name not in parameters]
        if unnamed:
            raise InputError(
                f"{type(model).__name__} takes {', '.join(unnamed)} through **keywords, where no batch can "
                "be free; give the example as a tuple, export what it wraps, or give dynamic_batch=False"
            )
        return dict(zip(self.kwargs, shapes, strict=True))

    def name_batch(self, model: Any) -> None:
        """Call the free dimension "batch" throughout an exported model.

        Args:
            model: An onnx_ir model, changed in place.

        Raises:
            InputError: The batch of an input is fixed.
        """
        by_name = {value.name: value for value in model.graph.inputs}
        traced: set[str] = set()
        for name, batched in zip(self.names, self.batched, strict=True):
            if name not in by_name:
                raise InputError(f"the model does not use its input {name!r}; leave it out of the example")
            shape = by_name[name].shape
            if not batched:
                continue
            if shape is None or isinstance(shape[0], int):
                raise InputError(
                    f"the model fixes the batch of {name!r} to {shape[0] if shape else '?'}; make its code "
                    "take any batch, or export with dynamic_batch=False"
                )
            traced.add(str(shape[0].value))
        for value in _values(model.graph):
            if value.shape is not None:
                value.shape = type(value.shape)(_renamed(dim, traced) for dim in value.shape)

    def _with(self, tensors: Sequence[Tensor]) -> Example:
        source = iter(tensors)
        args = tuple(next(source) if isinstance(v, Tensor) else v for v in self.args)
        kwargs = {k: next(source) if isinstance(v, Tensor) else v for k, v in self.kwargs.items()}
        return Example(args, kwargs, self.names, self.batched)


def _values(graph: Any) -> Iterator[Any]:
    yield from graph.inputs
    for node in graph.all_nodes():
        yield from node.outputs


def _renamed(dim: Any, traced: set[str]) -> Any:
    """Replace tracing's symbols by "batch", within expressions such as "2*s77" too."""
    if isinstance(dim, int) or dim.value is None:
        return dim
    return re.sub(r"\w+", lambda word: "batch" if word[0] in traced else word[0], dim.value)


def _split(example: Tensor | Sequence[Any] | Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(example, Tensor):
        return (example,), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    raise DataError(
        f"the example is of type {type(example).__name__}; give a tensor, a tuple of tensors or a dict"
    )


def _positional_names(model: nn.Module, count: int) -> list[str]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = [f"input_{index}" for index in range(len(plain), count)]
    return (plain + rest)[:count]


def _batched(
    names: tuple[str, ...], tensors: list[Tensor], dynamic: bool | Sequence[str]
) -> tuple[bool, ...]:
    if isinstance(dynamic, bool):
        batch = tensors[0].shape[0] if tensors[0].ndim else None
        return tuple(dynamic and t.ndim > 0 and t.shape[0] == batch for t in tensors)
    wanted = {dynamic} if isinstance(dynamic, str) else set(dynamic)
    if unknown := sorted(wanted - set(names)):
        raise InputError(f"dynamic_batch names {unknown}, which are not inputs; the inputs are {list(names)}")
    scalars = [n for n, t in zip(names, tensors, strict=True) if n in wanted and t.ndim == 0]
    if scalars:
        raise InputError(f"dynamic_batch names {scalars}, which are scalars and have no batch")
    return tuple(name in wanted for name in names)


def example_of(arrays: Mapping[str, Any]) -> Any:
    """Return numpy arrays as tensors: by input name, or alone if there is one input."""
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    return next(iter(tensors.values())) if len(tensors) == 1 else tensors


def with_tensors(example: Any) -> Any:
    """Return an example with its numpy arrays as tensors."""
    if isinstance(example, Mapping):
        return {name: with_tensors(value) for name, value in example.items()}
    if isinstance(example, list | tuple):
        return tuple(with_tensors(value) for value in example)
    return torch.tensor(example) if hasattr(example, "__array_interface__") else example
