"""Changes that a mask cannot follow: of a computed weight, by merged adapters too, and of a copy's weights.

A parametrised layer computes its weight anew at each access, so that `nn.init.zeros_(conv.weight)` reaches a
temporary tensor. The watch keeps an alias of the last tensor that was given out: without memory, but with its
version counter. A copy of the model (EMA) has weights that no session follows: their own counters tell.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.figures import counted


class ChangeWatch:
    """Watches the last tensor that one weight's parametrisation gave out, and a copied weight itself.

    Args:
        of_copy: The parametrisation is that of a copied model.
    """

    def __init__(self, *, of_copy: bool = False) -> None:
        self._alias: Tensor | None = None
        self._version = 0
        self._of_copy = of_copy
        self._mask_version = 0  # a parameter that was just copied has version 0

    def look_after(self, result: Tensor) -> None:
        """Watch this tensor from now on; ones that torch.func or inference mode made are left alone."""
        if type(result) is not Tensor or result.is_inference() or _is_wrapped(result):
            return
        alias = result.detach()
        alias.data = result.new_empty(0)
        self._alias, self._version = alias, alias._version

    def check(self, name: str) -> None:
        """Raise SparsifyError when the watched tensor was changed in place."""
        if self._alias is not None and self._alias._version != self._version:
            self._alias = None
            raise SparsifyError(
                f"{name} was changed in place (as by torch.nn.init), which cannot reach a sparsified weight; "
                "initialise, load and tie before sparsify, or change parametrizations[...].original and call "
                "refresh()"
            )

    def mask_set(self, weight: Tensor) -> None:
        """Note that the mask was just set from a weight as it stands."""
        if self._of_copy and not weight.is_inference():
            self._mask_version = weight._version

    def check_copy(self, weight: Tensor) -> None:
        """Warn once when a copy's weight has changed since its mask was set."""
        if not self._of_copy or type(weight) is not nn.Parameter or weight.is_inference():
            return
        if weight._version != self._mask_version:
            self._of_copy = False
            warnings.warn(
                "the weights of a copy of a sparsified model have changed, and its masks did not follow; "
                "call refresh(copy) on the session before the copy is used; to train a copy, make it by "
                "copy.deepcopy((model, session)) and attach its optimizer to its session",
                stacklevel=2,
            )

    def __deepcopy__(self, memo: Any) -> ChangeWatch:
        return ChangeWatch(of_copy=True)  # a copied alias would share no counter


class AdapterWatch:
    """Watches the layers of adapters (LoRA of peft) around sparse layers, which merge into a computed weight.

    They assign to the weight's `.data`, which raises no version counter; but they note what they merged.

    Args:
        model: The attached model.
        layers: Its sparse layers.
    """

    def __init__(self, model: nn.Module, layers: Iterable[nn.Module]) -> None:
        self._model = model
        self._layers = tuple(layers)
        self._before = {adapter: _merged(adapter) for adapter in self._adapters()}

    def look(self) -> None:
        """Find adapters that were added since: `merge_and_unload` takes them out of the model."""
        for adapter in self._adapters():
            self._before.setdefault(adapter, 0)

    def warn(self) -> None:
        """Warn if one was merged since the model is attached."""
        self.look()
        lost = sum(_merged(adapter) > before for adapter, before in self._before.items())
        if lost:
            warnings.warn(
                f"adapters were merged into {counted(lost, 'sparse layer')} while a method was attached, "
                "which cannot reach the weights: they are lost; merge them before sparsify",
                stacklevel=3,
            )

    def _adapters(self) -> list[nn.Module]:
        layers = set(map(id, self._layers))
        return [m for m in self._model.modules() if id(m._modules.get("base_layer")) in layers]


def _merged(adapter: Any) -> int:
    return len(getattr(adapter, "merged_adapters", ()))


def _is_wrapped(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
