"""A sparse weight of an attached model, and where to find its parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from nm2trt.sparsity.core.layer_choice import Site
from nm2trt.sparsity.core.parametrization import SparseWeight

__all__ = ["TrackedWeight"]


@dataclass(frozen=True, slots=True)
class TrackedWeight:
    """One sparse weight of an attached model.

    Args:
        name: The plan's name of it.
        sites: The layers that read it.
        sparse: Its parametrisation, one for all sites.
    """

    name: str
    sites: tuple[Site, ...]
    sparse: SparseWeight

    @property
    def original(self) -> nn.Parameter:
        """The dense parameter; looked up each time, since FSDP2 puts another in its place."""
        site = self.sites[0]
        parameter: nn.Parameter = site.module.parametrizations[site.tensor].original  # type: ignore[index, union-attr]
        return parameter

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The dense parameter and the method's own."""
        return (self.original, *self.sparse.parameters())
