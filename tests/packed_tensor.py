"""A class of tensor as those of quantised weights: it calls itself float32, and has few operators."""

import torch


class Packed(torch.Tensor):
    """Integers with a scale."""

    @staticmethod
    def __new__(cls, integers, scale):
        return torch.Tensor._make_wrapper_subclass(cls, integers.shape, dtype=torch.float32)

    def __init__(self, integers, scale):
        self.integers, self.scale = integers, scale

    @classmethod
    def __torch_dispatch__(cls, func, _, args=(), kwargs=None):
        if func is torch.ops.aten.detach.default:
            return Packed(args[0].integers, args[0].scale)
        raise NotImplementedError(f"{cls.__name__} has no {func}")


def packed(layer):
    """Return a layer whose weight is such a tensor."""
    integers = torch.ones(layer.weight.shape, dtype=torch.int8)
    layer.weight = torch.nn.Parameter(Packed(integers, 0.5), requires_grad=False)
    return layer
