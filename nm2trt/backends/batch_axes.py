"""Batch axes of a session's inputs and outputs, and outputs whose size depends on the data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError


def batch_name(inputs: Sequence[TensorSpec]) -> str | None:
    """Return the name of the free dimension that is the batch; None if no name can be it.

    It comes first in some input, or is called a batch; of several such names it is the one that most inputs
    share. A free size after a fixed one, as in (1, "sequence") or (1, 3, "height", "width"), is not.
    """
    held: Counter[str] = Counter()
    leading: set[str] = set()
    for spec in inputs:
        held.update({size for size in spec.shape if isinstance(size, str)})
        if spec.shape and isinstance(spec.shape[0], str):
            leading.add(spec.shape[0])
    fitting = [name for name in held if name in leading or _called_batch(name)]
    return max(fitting, key=lambda name: (held[name], _called_batch(name)), default=None)


def _called_batch(name: str) -> bool:
    return "batch" in name.lower() or name.lower() in ("b", "n")


def batch_axis(spec: TensorSpec, batch: str | None) -> int | None:
    """Return the axis of a tensor that is the batch, by its name, or a free first one without a name."""
    if batch is not None and batch in spec.shape:
        return spec.shape.index(batch)
    return 0 if spec.shape and spec.shape[0] is None else None


def batch_size(inputs: Sequence[TensorSpec], feeds: Arrays) -> int:
    """Return how many samples feeds hold, laid out as the inputs are; a fixed model's is its first size."""
    name = batch_name(inputs)
    for spec in inputs:
        axis = batch_axis(spec, name)
        if axis is not None:
            return int(feeds[spec.name].shape[axis])
    return next((int(spec.shape[0]) for spec in inputs if spec.shape and isinstance(spec.shape[0], int)), 1)


def has_free_batch(inputs: Sequence[TensorSpec]) -> bool:
    """Tell whether a model takes batches of any size."""
    name = batch_name(inputs)
    return any(batch_axis(spec, name) is not None for spec in inputs)


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


def sample_first(inputs: Sequence[TensorSpec], arrays: Arrays) -> dict[str, Array] | None:
    """Put the samples first in arrays that have the batch elsewhere or lack it; None if all have it first.

    It is None too if the arrays are not those of the inputs.

    What an input declares as fixed and gets whole, such as a rate or an initial state, is the same for every
    sample: it is repeated without a copy.

    Args:
        inputs: What the model takes.
        arrays: Arrays as it takes them, the batch axis as long as there are samples.
    """
    if {spec.name for spec in inputs} != set(arrays):
        return None
    axes = _sample_axes(inputs, {name: array.shape for name, array in arrays.items()})
    if all(axis == 0 for axis in axes.values()):
        return None
    lengths = {arrays[name].shape[axis] for name, axis in axes.items() if axis is not None}
    if len(lengths) > 1:
        shapes = {name: array.shape for name, array in arrays.items()}
        raise DataError(
            f"the arrays {shapes} do not hold the same number of samples on the model's batch axis; save "
            f"{max(lengths)} of each"
        )
    count = lengths.pop() if lengths else 1
    return {
        name: np.broadcast_to(arrays[name], (count, *arrays[name].shape))
        if axis is None
        else np.moveaxis(arrays[name], axis, 0)
        for name, axis in axes.items()
    }


def _sample_axes(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, int | None]:
    batch = batch_name(inputs)
    axes: dict[str, int | None] = {}
    for spec in inputs:
        shape = shapes[spec.name]
        if len(shape) != len(spec.shape):
            axes[spec.name] = 0  # a later check says what is wrong
        elif (named := batch_axis(spec, batch)) is not None:
            axes[spec.name] = named
        elif shape == spec.shape:
            axes[spec.name] = None
        else:
            other = [k for k, size in enumerate(spec.shape) if isinstance(size, int) and size != shape[k]]
            free = [k for k, size in enumerate(spec.shape) if not isinstance(size, int)]
            axes[spec.name] = other[0] if other else free[0] if free else 0
    if all(axis is None for axis in axes.values()):
        firsts = {spec.shape[:1] for spec in inputs}
        if len(firsts) == 1 and firsts != {()}:
            return dict.fromkeys(axes, 0)
    return axes


def fits(shape: Sequence[int], declared: Sequence[int | str | None]) -> bool:
    """Tell whether a shape has the declared rank and sizes; a free size takes any."""
    return len(shape) == len(declared) and all(
        not isinstance(want, int) or want == have for want, have in zip(declared, shape, strict=True)
    )


def feed_axis(spec: TensorSpec, row: tuple[int, ...], batch: str | None) -> int | None:
    """Return where samples of shape `row` go in an input; None if one sample is the whole input.

    Args:
        spec: The input.
        row: Shape of one sample.
        batch: What `batch_name` returned.
    """
    if row == spec.shape:
        return None
    named = batch_axis(spec, batch)
    if named is not None:
        return named
    axes = range(len(spec.shape))
    fitting = [axis for axis in axes if fits(row, (*spec.shape[:axis], *spec.shape[axis + 1 :]))]
    # A free dimension rather than a fixed one: (2, ?, 8) takes samples of (2, 8) on axis 1, not 0.
    return min(fitting, key=lambda axis: isinstance(spec.shape[axis], int), default=0)


def sample_shapes(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Return the shape of one sample of each array, for arrays with the samples first."""
    return {name: array.shape[1:] for name, array in arrays.items()}


def fixed_batch(inputs: Sequence[TensorSpec], rows: Mapping[str, tuple[int, ...]]) -> int | None:
    """Return the only batch size that inputs take; None if it is free.

    Args:
        inputs: What the model takes.
        rows: Shape of one sample of each input.

    Raises:
        DataError: Two inputs take batches of different sizes.
    """
    batch = batch_name(inputs)
    sizes: set[int] = set()
    for spec in inputs:
        axis = feed_axis(spec, rows[spec.name], batch)
        size = None if axis is None or axis >= len(spec.shape) else spec.shape[axis]
        if isinstance(size, int):
            sizes.add(size)
    if len(sizes) > 1:
        raise DataError(f"the model's inputs take batches of different sizes, {sorted(sizes)}")
    return next(iter(sizes), None)


def output_axis(
    spec: TensorSpec,
    shape: tuple[int, ...],
    size: int,
    *,
    batch: str | None,
    fixed: bool,
    fed: Mapping[tuple[int, ...], int],
    free_size: bool = False,
) -> int | None:
    """Return the axis of an output that holds the samples; None if it holds no samples.

    Args:
        spec: The output.
        shape: Its shape after a run.
        size: Samples that were run.
        batch: What `batch_name` returned for the inputs.
        fixed: The inputs take batches of `size` only; else a dimension of declared size is not a batch.
        fed: Batch axis of each input by the shape in which it was fed: a state comes out as it goes in.
        free_size: The output's size depends on the data; see `data_dependent`.
    """
    named = None if batch is None or batch not in spec.shape else spec.shape.index(batch)
    if named is not None and shape[named : named + 1] == (size,):
        return named
    if shape in fed:
        return fed[shape]
    for axis, have in enumerate(shape[:1] if free_size else shape):
        declared = spec.shape[axis] if axis < len(spec.shape) else None
        if have == size and (fixed or not isinstance(declared, int)):
            return axis
    return None


def as_feed(spec: TensorSpec, array: Array, inputs: Sequence[TensorSpec]) -> Array:
    """Return samples, first in the array, as an input takes them.

    Raises:
        DataError: The input takes one value for the whole batch, and the samples have several.
    """
    axis = feed_axis(spec, array.shape[1:], batch_name(inputs))
    if axis is not None:
        return np.moveaxis(array, 0, axis) if axis < array.ndim else array
    if (array[1:] != array[:1]).any():
        raise DataError(
            f"input {spec.name!r} is one for the whole batch, and the samples have different ones; run those "
            "apart"
        )
    first: Array = np.asarray(array[0])
    return first
