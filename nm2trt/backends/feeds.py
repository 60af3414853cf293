"""Feeds of a session: checks of names, element types and shapes, and random ones that fit its inputs."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.backends.batch_axes import batch_axis, batch_name, fits
from nm2trt.backends.options import format_shape
from nm2trt.backends.protocol import TensorSpec
from nm2trt.compare.outputs import is_floating
from nm2trt.errors import DataError
from nm2trt.limits.bounds import bounds


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return numpy's dtype of a `TensorSpec.dtype`, bfloat16 and the eight-bit floats included.

    Raises:
        DataError: numpy has none, as for four-bit types.
    """
    # Asked first: numpy takes these names too, in one byte each, once ml_dtypes has been imported by anyone.
    packed = name.startswith(("int4", "uint4", "float4"))
    try:
        if not packed:
            return np.dtype(name)
    except TypeError:
        pass
    import ml_dtypes

    extended: type[Any] | None = getattr(ml_dtypes, name, None)
    if extended is None or packed:
        raise DataError(f"a tensor of type {name} cannot be handed over; cast it in the model")
    return np.dtype(extended)


def check_feeds(inputs: tuple[TensorSpec, ...], feeds: Arrays) -> None:
    """Raise when feeds do not fit a session's inputs.

    Raises:
        DataError: A feed is missing, unknown, or of the wrong dtype or shape.
    """
    check_names("the model", inputs, feeds, takes_labels=False)
    for spec in inputs:
        feed = feeds[spec.name]
        if feed.dtype != numpy_dtype(spec.dtype):
            raise DataError(f"input {spec.name!r} takes {spec.dtype}, the data has {feed.dtype}")
        if not fits(feed.shape, spec.shape):
            raise DataError(
                f"input {spec.name!r} takes shape {format_shape(spec.shape)}, the data has {feed.shape}"
            )


def check_names(
    whose: str, inputs: Iterable[TensorSpec], given: Collection[str], *, takes_labels: bool = True
) -> None:
    """Raise unless arrays have the names of a model's inputs.

    Args:
        whose: Whose inputs they are, as in "the candidate".
        inputs: The inputs.
        given: Names of the arrays.
        takes_labels: Whether an array 'labels' holds the true answers; it is then not an input.

    Raises:
        DataError: They have others; the message says which to rename, add or leave out.
    """
    names = [spec.name for spec in inputs]
    missing, unknown = (sorted({*a} - {*b}) for a, b in ((names, given), (given, names)))
    if not missing and not unknown:
        return
    wanted, others = (", ".join(map(repr, some)) for some in (missing, unknown))
    if not missing:
        remedy = f"leave out {others}" + ", or call true answers 'labels'" * takes_labels
    elif not unknown:
        remedy = f"add {wanted}"
    elif len(missing) == len(unknown):
        remedy = f"rename {others} to {wanted}"
    else:
        remedy = f"{wanted} missing, {others} unknown: rename what is misnamed, add or leave out the rest"
    raise DataError(f"{whose}'s inputs are {names}, the data has {sorted(given)}; {remedy}")


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
            raise DataError(
                f"input {spec.name!r} leaves the size of {format_shape(spec.shape)} free; give it: --shape "
                f"{spec.name}:{'x'.join(str(s if isinstance(s, int) else 1) for s in spec.shape)}"
            )
    return tuple(sizes)


def require_room(what: str, nbytes: int) -> None:
    """Raise if samples that are made, not read, take more memory than samples may.

    Args:
        what: What they are, for the message.
        nbytes: Their size.

    Raises:
        DataError: They do.
    """
    most = bounds().sample_bytes
    if nbytes > most:
        raise DataError(
            f"{what} takes {nbytes / 1e9:.3g} GB, beyond the {most / (1 << 30):g} GB for samples; if that is "
            "right, raise nm2trt --sample-memory"
        )


def _drawn(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    dtype = numpy_dtype(spec.dtype)
    size = "x".join(map(str, shape))
    require_room(f"a random input {spec.name!r} of shape {size}", math.prod(shape) * 8)
    if is_floating(dtype):
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2, shape).astype(dtype)


def narrowed(names: Sequence[str], feeds: Arrays, product: str) -> dict[str, Array]:
    """Return feeds, those of some inputs as 32-bit integers if they are 64-bit ones.

    Args:
        names: The inputs.
        feeds: Every input by name.
        product: The library that has no 64-bit integers.

    Raises:
        DataError: A value does not fit.
    """
    made = dict(feeds)
    for name in names:
        array = made.get(name)
        if array is None or array.dtype != np.int64:
            continue
        made[name] = array.astype(np.int32)
        if not np.array_equal(made[name], array):
            raise DataError(
                f"input {name!r} holds numbers beyond 32 bits, and {product} has no 64-bit integers"
            )
    return made
