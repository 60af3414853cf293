"""The distance of block outputs from the dense model's, added to the distillation if it is wanted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.figures import counted
from nm2trt.sparsity.core.calibration_batches import CalibrationBatch, outputs_of

# Of a block's mean square: what keeps a block whose outputs hardly vary from ruling the sum.
_LEAST = 1e-6


class BlockLoss:
    """Compares the outputs of some blocks of a model with those of its dense copy.

    The loss is the mean over blocks and their calls of |y - y_dense|^2 / var(y_dense).

    Args:
        model: In training; block outputs are recorded while it runs inside `recording`.
        dense: Its dense copy, in eval mode.
        globs: On module names; the first tensor that a block returns is compared.

    Raises:
        SparsifyError: A glob matches no module.
    """

    def __init__(self, model: nn.Module, dense: nn.Module, globs: Sequence[str]) -> None:
        modules = [name for name, _ in dense.named_modules() if name]
        for glob in globs:
            if not any(fnmatchcase(name, glob) for name in modules):
                raise SparsifyError(
                    f"blocks: {glob!r} matches no module; the model has {', '.join(modules[:6])} ..."
                )
        self._names = [name for name in modules if any(fnmatchcase(name, glob) for glob in globs)]
        self._model, self._dense = model, dense
        self._outputs: list[Tensor] = []

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record the blocks of the model that runs inside."""
        with _recorded(self._model, self._names) as self._outputs:
            yield

    def value(self, batch: CalibrationBatch, index: int) -> Tensor:
        """Return the loss of the outputs that were recorded for a batch, 0-dim.

        Raises:
            SparsifyError: No block returned a tensor, or another number of times than in the dense model.
        """
        with torch.no_grad(), _recorded(self._dense, self._names) as wanted:
            outputs_of(self._dense, batch, index)
        if not wanted or len(wanted) != len(self._outputs):
            raise SparsifyError(
                f"blocks: {', '.join(self._names[:4])} gave {counted(len(self._outputs), 'tensor')}, "
                f"{len(wanted)} in the dense model; name modules whose forward runs and returns a tensor"
            )
        shares = []
        for mine, theirs in zip(self._outputs, wanted, strict=True):
            spread = theirs.float().var(correction=0) + _LEAST * theirs.float().square().mean() + 1e-20
            shares.append((mine.float() - theirs.float()).square().mean() / spread)
        return torch.stack(shares).mean()


@contextlib.contextmanager
def _recorded(model: nn.Module, names: Sequence[str]) -> Iterator[list[Tensor]]:
    found: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        first = output[0] if isinstance(output, tuple | list) and output else output
        if isinstance(first, Tensor) and first.is_floating_point():
            found.append(first)

    handles = [model.get_submodule(name).register_forward_hook(hook) for name in names]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
