"""A sparse weight whose mask was set once, by a method that is done with it."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from nm2trt.sparsity.core.parametrization import SparseWeight


class FixedMaskWeight(SparseWeight):
    """An N:M weight whose mask no optimizer step changes; pruned entries get no gradient."""

    saves_mask: ClassVar[bool] = True

    @property
    def mask_follows_weight(self) -> bool:
        """False: the mask has a history."""
        return False

    def masked(self, weight: Tensor) -> Tensor:
        """Zero the pruned entries."""
        return weight * self.mask

    def new_mask(self, weight: Tensor) -> Tensor | None:  # noqa: ARG002 - the optimizer's steps leave it
        """Return None: steps leave the mask as it is."""
        return None
