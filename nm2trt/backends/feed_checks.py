"""Checks of feeds against a session's inputs: names, element types and shapes."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np

from nm2trt.arrays import Arrays
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import DataError


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
        fits = len(feed.shape) == len(spec.shape) and all(
            not isinstance(want, int) or want == have
            for want, have in zip(spec.shape, feed.shape, strict=False)
        )
        if not fits:
            shape = "x".join(str(d if d is not None else "?") for d in spec.shape)
            raise DataError(f"input {spec.name!r} takes shape {shape}, the data has {feed.shape}")


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
