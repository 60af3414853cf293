"""Channels permuted so that N:M keeps larger weights, in an ONNX file or a torch module; outputs stay."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from nm2trt.errors import InputError
from nm2trt.figures import percent
from nm2trt.files import suffixed, unnamed_output
from nm2trt.pipeline.in_memory import takes_values
from nm2trt.tables.result import Result

if TYPE_CHECKING:
    import onnx
    import torch

    from nm2trt.compare.output_difference import OutputDifference
    from nm2trt.graph.permute.permute_model import PermuteReport
    from nm2trt.graph.permute.space_search import PermuteOptions, SpaceResult
    from nm2trt.nm.pattern import NMPattern


@dataclass(frozen=True, slots=True, repr=False)
class PermutedModule(Result):
    """What `permute` did with a torch module.

    Args:
        spaces: The result for each channel space that a weight to be pruned reduces.
        kept_before: Share of the weights' magnitude that the pattern would keep before, 0..1.
        kept_after: The same afterwards.
        differences: How far each output of the example moved.
    """

    json_names = "* moved"

    spaces: tuple[SpaceResult, ...]
    kept_before: float
    kept_after: float
    differences: tuple[OutputDifference, ...]

    @property
    def moved(self) -> int:
        """Number of spaces whose channels moved."""
        return sum(space.moved for space in self.spaces)

    def remarks(self) -> tuple[str, ...]:
        """Return how many spaces moved, and how much of the magnitude the pattern keeps."""
        kept = f"{percent(self.kept_after)} of the magnitude, {percent(self.kept_before)} before"
        return (f"{self.moved} of {len(self.spaces)} channel spaces moved; the pattern keeps {kept}",)


@overload
def permute(
    model: str | os.PathLike[str] | onnx.ModelProto,
    output: str | os.PathLike[str] | None = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    seed: int = 0,
    compare: bool = True,
) -> PermuteReport: ...


@overload
def permute(
    model: torch.nn.Module,
    output: torch.Tensor | Sequence[Any] | Mapping[str, Any],
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    seed: int = 0,
    compare: bool = True,
) -> PermutedModule: ...


def permute(
    model: str | os.PathLike[str] | onnx.ModelProto | torch.nn.Module,
    output: Any = None,
    *,
    pattern: NMPattern | str = "2:4",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    min_channels: int = 16,
    seed: int = 0,
    compare: bool = True,
) -> PermuteReport | PermutedModule:
    """Permute the channels of a model so that N:M pruning keeps larger weights; its outputs stay.

    Of a torch module the parameters and buffers are moved in place; call it before `sparsify` and before the
    optimizer is made, whose state it cannot move.

    Args:
        model: An ONNX file or an `onnx.ModelProto`, dense and in float; or a torch module.
        output: Of a file: the file to write; None puts `.permuted.onnx` beside it. Of a module: an example of
            what it takes, a tensor, a tuple or a dict.
        pattern: The pattern that the weights will be pruned to.
        include: Globs on names of weights that will be pruned; by default all that can be.
        exclude: Globs on names of weights that will stay dense.
        min_channels: Fewest input channels of a weight that will be pruned.
        seed: Seed of the search; the same seed gives the same order.
        compare: Run the model before and after, and refuse a result that differs.

    Raises:
        InputError: A path, a glob or the pattern is wrong, or the model is quantised, no sound ONNX file, or
            cannot be exported by PyTorch.
        SparsifyError: A sparsity method is attached to the module, or it is sharded.
        SparsityError: No channel of the file can move to a better place.
        DifferenceError: The outputs differ by more than another order of sums explains.
    """
    from nm2trt.graph.permute.space_search import PermuteOptions
    from nm2trt.nm.pattern import NMPattern

    options = PermuteOptions(NMPattern.parse(pattern), tuple(include), tuple(exclude), min_channels, seed)
    if not hasattr(model, "state_dict"):
        if not isinstance(output, (str, os.PathLike, type(None))):
            raise InputError(f"output is of type {type(output).__name__}; for a file, give a path")
        return _permute_file(model, output, options, compare=compare)
    if output is None:
        raise InputError("a torch module is permuted along an example of what it takes; give one")
    return _permute_module(model, output, options, compare=compare)


@takes_values(output="output")
def _permute_file(model: Any, output: Any, options: PermuteOptions, *, compare: bool) -> PermuteReport:
    from nm2trt.graph.permute.permute_model import permute_model

    target = unnamed_output(suffixed(model, ".permuted.onnx")) if output is None else Path(output)
    return permute_model(model, target, options, compare=compare)


def _permute_module(model: Any, example: Any, options: PermuteOptions, *, compare: bool) -> PermutedModule:
    from nm2trt.compare.outputs import compare_outputs
    from nm2trt.errors import DifferenceError
    from nm2trt.exporter.in_memory import export_in_memory, foreign_tensors, outputs_of
    from nm2trt.exporter.torch_onnx import unwrapped
    from nm2trt.graph.permute.permute_graph import find_permutation
    from nm2trt.graph.permute.permute_model import TOLERANCE
    from nm2trt.graph.storage.model import load
    from nm2trt.sparsity.channel_order import names_by_tensor, reorder, reversed_orders, state_of

    model = unwrapped(model)
    state = state_of(model)
    proto = export_in_memory(model, example)
    foreign = foreign_tensors(proto, state)
    stored = {tensor.name for tensor in proto.graph.initializer} - set(foreign)
    tied = [tuple(name for name in names if name in stored) for names in names_by_tensor(state)]
    found = find_permutation(load(proto), options, fixed=foreign, same=[names for names in tied if names])
    before = outputs_of(model, example) if compare else {}
    reorder(state, found.orders)
    try:
        differences = compare_outputs(outputs_of(model, example), before) if compare else []
        worst = max(differences, key=lambda item: item.max_relative, default=None)
        if worst is not None and not worst.max_relative <= TOLERANCE:
            raise DifferenceError(
                f"{worst.name} of {type(model).__name__} differs by {worst.max_relative:.3g} of its largest "
                f"value after the permutation, more than {TOLERANCE:g}; the module is as it was"
            )
    except BaseException:
        reorder(state, reversed_orders(found.orders))
        raise
    return PermutedModule(found.spaces, found.kept_before, found.kept_after, tuple(differences))
