"""Random inputs that fit a session's declared inputs, for use without data."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nm2trt.arrays import Array
from nm2trt.backends.batch_axes import batch_axis, batch_name
from nm2trt.backends.feed_checks import numpy_dtype
from nm2trt.backends.protocol import TensorSpec
from nm2trt.compare.outputs import is_floating
from nm2trt.errors import DataError
from nm2trt.limits.bounds import bounds


def random_feeds(
    inputs: tuple[TensorSpec, ...],
    *,
    batch: int,
    free: int | None,
    seed: int = 0,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> dict[str, Array]:
    """Draw one batch: floats from the normal distribution, integers 0 or 1.

    Args:
        inputs: The session's inputs.
        batch: Size of the batch, on whichever axis an input has it; see `batch_name`.
        free: Size of every other free dimension; None refuses an input that has one.
        seed: Seed of the draw.
        shapes: Whole shapes by input name, which take the place of the declared ones.

    Raises:
        DataError: A free dimension has no size, a name is unknown, or a type is not numeric.
    """
    given = dict(shapes or {})
    unknown = set(given) - {spec.name for spec in inputs}
    if unknown:
        raise DataError(
            f"the model has no input {sorted(unknown)[0]!r}; its inputs are {[s.name for s in inputs]}"
        )
    rng = np.random.default_rng(seed)
    name = batch_name(inputs)
    return {
        spec.name: _drawn(spec, given.get(spec.name) or _shape(spec, batch, name, free), rng)
        for spec in inputs
    }


def _shape(spec: TensorSpec, batch: int, name: str | None, free: int | None) -> tuple[int, ...]:
    sizes = []
    axis = batch_axis(spec, name)
    for position, size in enumerate(spec.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif position == axis or (size is not None and size == name):
            sizes.append(batch)
        elif free is not None:
            sizes.append(free)
        else:
            shape = "x".join(str(size) if size is not None else "?" for size in spec.shape)
            raise DataError(
                f"input {spec.name!r} leaves the size of {shape} free; give it: --shape "
                f"{spec.name}:{'x'.join(str(s if isinstance(s, int) else 1) for s in spec.shape)}"
            )
    return tuple(sizes)


def _drawn(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    nbytes, most = math.prod(shape) * 8, bounds().sample_bytes
    if nbytes > most:
        size = "x".join(map(str, shape))
        raise DataError(
            f"a random input {spec.name!r} of shape {size} takes {nbytes / 1e9:.3g} GB, beyond the "
            f"{most / (1 << 30):g} GB for samples; if that is right, raise nm2trt --sample-memory"
        )
    if is_floating(dtype):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)
