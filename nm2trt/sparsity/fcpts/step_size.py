"""A learning rate that finds itself: halved, with a fresh start, while the loss rises above its start."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from nm2trt.errors import SparsifyError

# The paper's rate, from which "auto" starts.
START = 0.01
_MOST_HALVINGS = 12
# Samples whose loss is watched.
_WATCHED = 256


class Backtracking:
    """Watches one run's loss, and takes it back to its start.

    Args:
        model: As the run starts; its parameters and buffers are copied.
        loss: Gives the loss in eval mode over that many samples.

    Attributes:
        halvings: How often the rate was halved.
    """

    def __init__(self, model: nn.Module, loss: Callable[[int], float]) -> None:
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self._kept = [(tensor, tensor.detach().clone()) for tensor in tensors.values()]
        self._loss = loss
        self._start = loss(_WATCHED)
        self.halvings = 0

    @property
    def factor(self) -> float:
        """Of the learning rates."""
        return 0.5**self.halvings

    def rose(self) -> bool:
        """Tell whether the loss is above the start's, or not finite."""
        return not self._loss(_WATCHED) <= self._start

    @torch.no_grad()
    def back(self, learning_rate: float) -> None:
        """Restore the start, with half the rate.

        Raises:
            SparsifyError: It was halved too often: no rate helps.
        """
        for tensor, value in self._kept:
            tensor.copy_(value)
        if self.halvings == _MOST_HALVINGS:
            raise SparsifyError(
                f'lr="auto": the loss rises above its start, {self._start:.3g}, even at a learning rate of '
                f'{learning_rate * self.factor:.1e}; use batch_norm="frozen" if BatchNorms learn from few '
                "samples, or steps=0 with layer_fit=True"
            )
        self.halvings += 1
