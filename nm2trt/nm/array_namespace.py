"""The few array functions whose names differ between numpy and torch; neither library is imported here.

`namespace` returns the library that made an array. Callers use only functions that both libraries have under
one name with the same positional arguments, and those of this module.
"""

from __future__ import annotations

import sys
from typing import Any

from nm2trt.nm.pattern import NMPattern

# A numpy array or a torch tensor: the type has no better name here.
Array = Any


def namespace(array: Array) -> Any:
    """Return the library of an array: the module numpy or torch."""
    return sys.modules[type(array).__module__.partition(".")[0]]


def _is_torch(array: Array) -> bool:
    return bool(namespace(array).__name__ == "torch")


def float32(array: Array) -> Array:
    """Return an array in float32."""
    return array.float() if _is_torch(array) else array.astype("float32", copy=False)


def float64(array: Array) -> Array:
    """Return an array in float64."""
    return array.double() if _is_torch(array) else array.astype("float64", copy=False)


def identity(array: Array) -> Array:
    """Return the identity of a square array's last dimension, in its dtype and on its device."""
    xp = namespace(array)
    return xp.diag(xp.ones_like(array[..., 0, :].reshape(-1, array.shape[-1])[0]))


def row_numbers(start: int, count: int, like: Array) -> Array:
    """Return `start` .. `start + count - 1` as integers (count, 1), where `like` lies."""
    xp = namespace(like)
    numbers = xp.arange(start, start + count)
    return (numbers.to(like.device) if _is_torch(like) else numbers)[:, None]


def top_mask(score: Array, pattern: NMPattern) -> Array:
    """Mark the N highest of every M on axis 1 of `score` (o, d); equal scores keep the lower index."""
    if _is_torch(score):
        from nm2trt.nm.torch_mask import nm_mask as torch_nm_mask

        return torch_nm_mask(score, pattern, axis=1)
    from nm2trt.nm.mask import nm_mask

    return nm_mask(score, pattern, axis=1)
