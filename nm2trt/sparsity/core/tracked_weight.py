"""A sparse weight of an attached model, and where to find its parameter."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.utils import parametrize

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.layer_choice import Site
from nm2trt.sparsity.core.parametrization import SparseWeight


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
        """The dense parameter; looked up each time, since FSDP2 puts another in its place.

        Raises:
            SparsifyError: The parametrisation was removed behind the session's back.
        """
        site = self.sites[0]
        if not self.attached:
            raise SparsifyError(
                f"the parametrisation of {self.name} was removed; end a session by finalize(), not by "
                "torch's remove_parametrizations, and call sparsify again"
            )
        parameter: nn.Parameter = site.module.parametrizations[site.tensor].original  # type: ignore[index, union-attr]
        return parameter

    @property
    def attached(self) -> bool:
        """Whether the layer is still parametrised; torch's remove_parametrizations may have ended it."""
        site = self.sites[0]
        return bool(parametrize.is_parametrized(site.module, site.tensor))

    def parameters(self) -> tuple[nn.Parameter, ...]:
        """The dense parameter and the method's own."""
        return (self.original, *self.sparse.parameters())
