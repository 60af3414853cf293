"""A user's model while a method works with it: its modes and its values are given back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from nm2trt.sparsity.core.finalize import make_plain
from nm2trt.sparsity.core.state_keys import sparse_weights

__all__ = ["eval_mode", "kept_on_error"]


@contextlib.contextmanager
def eval_mode(model: nn.Module, *, train_norms: bool = False) -> Iterator[None]:
    """Put a model into eval mode, its BatchNorms into training if wanted, and back afterwards."""
    before = {module: module.training for module in model.modules()}
    model.eval()
    if train_norms:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train()
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


@contextlib.contextmanager
def kept_on_error(model: nn.Module) -> Iterator[None]:
    """Give a model its layers, plain as before, and its values back if the block fails or is interrupted."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
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
