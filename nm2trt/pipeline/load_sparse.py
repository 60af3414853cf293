"""An attached model's checkpoint, loaded as a finalised model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nm2trt.extras import names_the_extra

if TYPE_CHECKING:
    import torch


@names_the_extra()
def load_sparse(model: torch.nn.Module, state: Mapping[str, Any] | str | os.PathLike[str]) -> torch.nn.Module:
    """Load an attached model's state into a plain model, as `finalize` would leave it.

    The state says by itself which weights are sparse, and how; method and options need not be known.

    Args:
        model: The plain model that was sparsified.
        state: What `state_dict` of the attached model returned, e.g. from `torch.load`; or of a model that
            apex ASP, NVIDIA ModelOpt or compressed-tensors (sparse-24-bitmask) made 2:4, with its masks. A
            path is read without running its code.

    Returns:
        `model`, whose sparse weights hold their zeros, and which carries a plan for `nm2trt.export`.

    Raises:
        InputError: The file is missing.
        SparsifyError: The state is of a plain model, of other layers, or of a schedule that has not ended; or
            the file holds more than tensors.
        SparsityError: A weight does not hold its pattern.
    """
    from nm2trt.sparsity.load_sparse import load_sparse as load

    return load(model, state)
