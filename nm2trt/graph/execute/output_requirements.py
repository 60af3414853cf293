"""Requirements on a changed model's outputs beside the original's; else nothing is written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nm2trt.arrays import Array, Arrays
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.compare.tolerance import NOISE
from nm2trt.errors import DifferenceError
from nm2trt.figures import percent

_MOST_FLIPPED = 0.01


def require_alive(before: Arrays, after: Arrays, *, epsilon: float, floor: float) -> None:
    """Raise when an output is all zero or constant, and the original's is not.

    Args:
        before: The original's outputs.
        after: The changed model's.
        epsilon: Relative precision that the changed model computes in.
        floor: Magnitude that it may round to zero.

    Raises:
        DifferenceError: An output is dead.
    """
    for name, array in before.items():
        both = (np.asarray(a, np.float64) for a in (array, after[name]))
        original, changed = (a[np.isfinite(a)] for a in both)  # -inf may mask classes in both
        if array.dtype.kind != "f" or original.size < 2 or changed.size < 2:
            continue
        top, spread = float(np.abs(original).max()), float(np.ptp(original))
        if top > floor and not changed.any():
            raise DifferenceError(f"output {name!r} becomes all zero, and reaches {top:.3g} in the original")
        # Numbers that differ by no more than a few roundings may all round to one.
        if spread > floor and spread > 16 * epsilon * top and np.ptp(changed) == 0:
            raise DifferenceError(
                f"output {name!r} becomes the constant {changed.flat[0]:.3g}, and varies by {spread:.3g} in "
                "the original"
            )


def require_related(differences: Sequence[OutputDifference]) -> None:
    """Raise when an output and the original's have little in common.

    Args:
        differences: One per output.

    Raises:
        DifferenceError: A floating output is unrelated, and by more than rounding.
    """
    for item in differences:
        # Neither a single number nor an original of zeros has a direction; what is tiny may be rounding.
        directed = (
            item.dtype.startswith(("float", "bfloat")) and item.elements > 1 and item.cosine is not None
        )
        if directed and item.unrelated and item.max_abs > NOISE["float16"]:
            raise DifferenceError(
                f"output {item.name!r} has a cosine of {item.cosine_text} to the original's, from which it "
                f"differs by {item.max_abs:.3g}"
            )


def require_equal(name: str, after: Array, before: Array) -> None:
    """Raise when integers, such as classes, differ by more than rounding near a tie explains.

    Args:
        name: The output.
        after: The changed model's.
        before: The original's.

    Raises:
        DifferenceError: More than one in a hundred differ.
    """
    share = float(np.mean(after != before)) if before.size else 0.0
    if share > _MOST_FLIPPED:
        raise DifferenceError(
            f"before and after: {percent(share)} of output {name!r} differ; nothing was written"
        )
