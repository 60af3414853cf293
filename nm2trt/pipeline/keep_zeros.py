"""Training on with a finalised model: its zeros stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nm2trt.extras import names_the_extra

if TYPE_CHECKING:
    import torch

    from nm2trt.sparsity.core.kept_zeros import KeptZeros


@names_the_extra()
def keep_zeros(model: torch.nn.Module) -> KeptZeros:
    """Keep the zeros of a finalised or downloaded sparse model while it trains on.

    After each step of any optimizer that holds a sparse weight, its zeros are set again. The model stays
    plain, so that quantisation-aware training and export see nothing of it. Without it, the first steps after
    `finalize` fill the zeros, and warn once. A deepcopy of the model keeps its zeros too; one that was saved
    and loaded needs a call of its own.

    Args:
        model: Plain layers. With a plan (what `finalize` leaves) its sparse weights are kept; without one,
            every weight of a convolution, linear or attention layer of which at least a tenth is zero.

    Returns:
        The handle: `masks()`, and `remove()`, which lets the zeros go.

    Raises:
        SparsifyError: A method is attached to the model, or no weight has zeros to keep.
    """
    from nm2trt.sparsity.core.kept_zeros import keep_zeros as keep

    return keep(model)
