"""Weights that FSDP2 has split over processes: reading them whole, and masking their local part."""

from __future__ import annotations

from torch import Tensor

__all__ = ["full", "is_sharded", "local", "local_part"]


def is_sharded(tensor: Tensor) -> bool:
    """Tell whether a tensor is a DTensor, without importing torch.distributed for those that are not."""
    return hasattr(tensor, "full_tensor")


def full(tensor: Tensor) -> Tensor:
    """Return the whole tensor; a sharded one is gathered, which every process must take part in."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """Return the part of the tensor that this process holds; in-place changes to it are seen."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local_part(whole: Tensor, like: Tensor) -> Tensor:
    """Cut from `whole` the part that this process holds of `like`, without communication."""
    if not is_sharded(like):
        return whole
    from torch.distributed.tensor import distribute_tensor

    cut = distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)  # type: ignore[attr-defined]
    return cut.to_local()
