"""Parameters and buffers of a module put into another order of channels, in place, by name."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.distributed import is_sharded

Orders = Mapping[str, Mapping[int, npt.NDArray[np.int64]]]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer by each of its names.

    Raises:
        SparsifyError: A weight is parametrised or sharded; channels are permuted before that.
    """
    for name, _ in model.named_modules():
        layer, found, _ = name.partition("parametrizations")
        if found:
            raise SparsifyError(
                f"{layer.rstrip('.') or 'the model'} is parametrised; call nm2trt.permute before "
                "nm2trt.sparsify, or after finalize"
            )
    state: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    state.update(model.named_buffers(remove_duplicate=False))
    sharded = next((name for name, tensor in state.items() if is_sharded(tensor)), None)
    if sharded is not None:
        raise SparsifyError(f"{sharded} is sharded; call nm2trt.permute before the model is sharded")
    return state


def names_by_tensor(state: Mapping[str, Tensor]) -> list[tuple[str, ...]]:
    """Return the names that share one tensor, together."""
    names: dict[int, list[str]] = {}
    for name, tensor in state.items():
        names.setdefault(id(tensor), []).append(name)
    return [tuple(found) for found in names.values()]


@torch.no_grad()
def reorder(state: Mapping[str, Tensor], orders: Orders) -> None:
    """Move elements of tensors in place, so that optimizers and ties keep what they hold.

    Args:
        state: Tensors by name.
        orders: Name, then axis: place i of the axis gets what stood at `order[i]`. A tensor with several
            names is moved once.
    """
    done: set[int] = set()
    for name, axes in orders.items():
        tensor = state[name]
        if id(tensor) in done:
            continue
        done.add(id(tensor))
        for axis, order in axes.items():
            tensor.copy_(tensor.index_select(axis, torch.from_numpy(order).to(tensor.device)))


def reversed_orders(orders: Orders) -> dict[str, dict[int, npt.NDArray[np.int64]]]:
    """Return the orders that undo others."""
    return {name: {axis: np.argsort(order) for axis, order in axes.items()} for name, axes in orders.items()}
