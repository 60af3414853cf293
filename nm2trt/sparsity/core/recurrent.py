"""nn.LSTM, nn.GRU and nn.RNN with sparse weights: the list of weights that they give to torch's kernel.

These layers also keep their parameters in the list `_flat_weights`, which they give to one fused kernel. A
sparse weight is computed at each call: if it stayed in the list, it would be stale after a step, keep its
graph alive and stop deepcopy. So the list is filled when a call begins and emptied when it ends.
`flatten_parameters` does nothing then: it would move the computed tensors into a block of memory that serves
one call only.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize


def read_weights_at_each_call(module: nn.RNNBase) -> None:
    """Let a recurrent layer that was just parametrised compute its weights once per call.

    The methods are set on the class that torch made for this layer; it goes when the layer is plain again.
    """
    attached: Any = type(module)
    plain = attached.__bases__[0]

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        with parametrize.cached():  # torch reads each weight twice: it looks whether one has changed
            plain._init_flat_weights(self)
            try:
                return plain.forward(self, *args, **kwargs)
            finally:
                _empty(self)

    attached.forward = forward
    attached._init_flat_weights = _empty
    attached.flatten_parameters = _keep_apart
    _empty(module)


def weight_order(module: nn.Module) -> list[str]:
    """Return the names of a recurrent layer's parameters in torch's order; empty for other layers."""
    return list(module._flat_weights_names) if isinstance(module, nn.RNNBase) else []


def _empty(module: Any) -> None:
    count = len(module._flat_weights_names)
    module._flat_weights = [None] * count
    # Where a plain layer keeps weak references: dead ones make it fill the list anew.
    module._flat_weight_refs = [_dead] * count


def _dead() -> Tensor | None:
    return None


def _keep_apart(_module: nn.RNNBase) -> None:
    """Take the place of flatten_parameters, which users call too."""
