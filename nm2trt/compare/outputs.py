"""Outputs by name held against a reference: how far they differ, and whether that is close enough."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.compare.difference_sum import DifferenceSum
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.compare.tolerance import NOISE, TOLERANCE
from nm2trt.errors import DifferenceError


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Tell floating types from others, those of ml_dtypes, which numpy takes for raw bytes, included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def difference(name: str, candidate: Array, reference: Array, *, free_size: bool = False) -> OutputDifference:
    """Compare one output with its reference, element by element in float64; see `DifferenceSum`.

    Raises:
        DifferenceError: The shapes differ, or NaN or infinity stands in one and the other is finite.
    """
    total = DifferenceSum(name, free_size=free_size)
    total.add(candidate, reference)
    return total.result()


def compare_outputs(
    candidate: Arrays,
    reference: Arrays,
    *,
    free_size: Collection[str] = (),
) -> list[OutputDifference]:
    """Compare outputs by name.

    Args:
        candidate: Outputs by name.
        reference: Those they are held against.
        free_size: Outputs whose size depends on the data, and may differ.

    Raises:
        DifferenceError: The names or shapes differ.
    """
    if set(candidate) != set(reference):
        raise DifferenceError(f"the outputs are {sorted(candidate)}, the reference's {sorted(reference)}")
    return [
        difference(name, candidate[name], reference[name], free_size=name in free_size) for name in reference
    ]


def require_close(
    differences: list[OutputDifference], *, dtype: str | None = None, what: str, noise: bool = False
) -> None:
    """Raise when an output differs by more than its dtype's `TOLERANCE`.

    Args:
        differences: What `compare_outputs` returned.
        dtype: Lowest precision computed in, if that is lower than the outputs' own.
        what: What was compared, for the message.
        noise: Allow the dtype's `NOISE` besides. Only for outputs of a change that was judged where it was
            made: an output that is tiny may be wrong by all of that.

    Raises:
        DifferenceError: An output differs too much.
    """
    for item in differences:
        limit = max(TOLERANCE.get(item.dtype, 0.0), TOLERANCE.get(dtype or "", 0.0))
        if math.isnan(item.max_relative):
            raise DifferenceError(
                f"{what}: output {item.name!r} has {item.remark}; nothing is left to compare"
            )
        floor = max(NOISE.get(item.dtype, 0.0), NOISE.get(dtype or "", 0.0)) if noise else 0.0
        scale = item.max_abs / item.max_relative if 0 < item.max_relative < math.inf else 0.0
        if not item.max_relative <= limit and not item.max_abs <= floor + limit * scale:
            raise DifferenceError(
                f"{what}: output {item.name!r} differs by {item.max_relative:.3g} of its largest value, "
                f"more than the {limit:g} allowed for {dtype or item.dtype}"
            )
