"""In-place changes of a computed weight, which are lost: `nn.init.zeros_(conv.weight)` on a sparsified layer.

A parametrised layer computes its weight anew at each access, so that a change reaches a temporary tensor.
The watch keeps an alias of the last tensor that was given out: without memory, but with its version counter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nm2trt.errors import SparsifyError


class ChangeWatch:
    """Watches the last tensor that one weight's parametrisation gave out."""

    def __init__(self) -> None:
        self._alias: Tensor | None = None
        self._version = 0

    def look_after(self, result: Tensor) -> None:
        """Watch this tensor from now on; ones that torch.func or inference mode made are left alone."""
        if type(result) is not Tensor or result.is_inference() or _is_wrapped(result):
            return
        alias = result.detach()
        alias.data = result.new_empty(0)
        self._alias, self._version = alias, alias._version

    def check(self, name: str) -> None:
        """Raise when the watched tensor was changed in place.

        Raises:
            SparsifyError: It was.
        """
        if self._alias is not None and self._alias._version != self._version:
            self._alias = None
            raise SparsifyError(
                f"{name} was changed in place (as by torch.nn.init), which cannot reach a sparsified weight; "
                "initialise, load and tie before sparsify, or change parametrizations[...].original and call "
                "refresh()"
            )

    def __deepcopy__(self, memo: Any) -> ChangeWatch:
        return ChangeWatch()  # a copied alias would share no counter


def _is_wrapped(tensor: Tensor) -> bool:
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))
