"""Batch axes of a session's inputs and outputs, and outputs whose size depends on the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nm2trt.backends.protocol import TensorSpec

__all__ = ["batch_axis", "batch_name", "data_dependent"]


def batch_name(inputs: Sequence[TensorSpec]) -> str | None:
    """Return the name of the free dimension that is the batch; None if none has a name.

    It is the one that most inputs share; of several, one that comes first in a shape.
    """
    held: Counter[str] = Counter()
    leading: set[str] = set()
    for spec in inputs:
        held.update({size for size in spec.shape if isinstance(size, str)})
        if spec.shape and isinstance(spec.shape[0], str):
            leading.add(spec.shape[0])
    if not held:
        return None
    return max(held, key=lambda name: (held[name], name in leading))


def batch_axis(spec: TensorSpec, batch: str | None) -> int | None:
    """Return the axis of a tensor that is the batch, by its name, or a free first one without a name."""
    if batch is not None and batch in spec.shape:
        return spec.shape.index(batch)
    return 0 if spec.shape and spec.shape[0] is None else None


def data_dependent(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> frozenset[str]:
    """Return the outputs with a free size that no input has, as NonZero and NonMaxSuppression give.

    A free first dimension without a name is taken for the batch.
    """
    known = {size for spec in inputs for size in spec.shape if isinstance(size, str)}
    return frozenset(
        spec.name
        for spec in outputs
        if any(
            size not in known and not (axis == 0 and size is None)
            for axis, size in enumerate(spec.shape)
            if not isinstance(size, int)
        )
    )
