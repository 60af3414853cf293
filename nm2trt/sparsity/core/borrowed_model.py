"""A user's model while a method works with it: modes and values are given back; a hash of its values."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.sparsity.core.finalize import make_plain
from nm2trt.sparsity.core.state_keys import sparse_weights


@contextlib.contextmanager
def eval_mode(model: nn.Module, *, train_norms: bool = False) -> Iterator[None]:
    """Put a model into eval mode, its BatchNorms into training if wanted, and back afterwards.

    Inside a user's autocast weights are cast anew at each use: its cache would serve the old ones.
    """
    cached = torch.is_autocast_cache_enabled()
    before = {module: module.training for module in model.modules()}
    model.eval()
    if train_norms:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(cached)
        torch.clear_autocast_cache()
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def kept_on_error(model: nn.Module) -> Iterator[None]:
    """Give a model its layers, plain as before, and its values back if the block fails or is interrupted."""
    kept = [(tensor, tensor.detach().clone()) for _, tensor in named_values(model)]
    children = [(module, dict(module._modules)) for module in model.modules()]
    try:
        yield
    except BaseException:
        for module in list(model.modules()):
            if any(True for _ in sparse_weights(module)):
                make_plain(module)
        for module, before in children:
            module._modules.clear()
            module._modules.update(before)
        with torch.no_grad():
            for tensor, value in kept:
                tensor.copy_(value)
        raise


def named_values(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a model by name, sorted."""
    return sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items())


def hash_tensors(text: str, tensors: Iterable[tuple[str, Any]]) -> str:
    """Return the sha256 of a text and of named values; only tensors count."""
    digest = hashlib.sha256(text.encode())
    for name, value in tensors:
        if isinstance(value, Tensor):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()
