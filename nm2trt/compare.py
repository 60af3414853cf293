"""How far two sets of outputs differ, and how far they may, by dtype."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.errors import DifferenceError

__all__ = ["TOLERANCE", "OutputDifference", "compare_outputs", "difference", "require_close"]

# Largest allowed max|a - b| / max|b| when a pass should not change a model's function: a few hundred
# roundings of the dtype's epsilon, as deep networks accumulate.
TOLERANCE: Mapping[str, float] = {
    "float64": 1e-9,
    "float32": 1e-4,
    "float16": 2e-2,
    "bfloat16": 1e-1,
}


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """Difference of one output from its reference.

    Args:
        name: The output.
        dtype: The candidate's dtype.
        max_abs: Largest absolute difference.
        mean_abs: Mean absolute difference.
        max_relative: `max_abs` over the reference's largest magnitude.
        cosine: Cosine similarity of the flattened outputs.
    """

    name: str
    dtype: str
    max_abs: float
    mean_abs: float
    max_relative: float
    cosine: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def difference(name: str, candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> OutputDifference:
    """Compare one output with its reference, element by element in float64.

    Raises:
        DifferenceError: The shapes differ, or NaN or infinity stands in one where the other is finite.
    """
    if candidate.shape != reference.shape:
        raise DifferenceError(f"output {name!r} has shape {candidate.shape}, the reference {reference.shape}")
    a = candidate.astype(np.float64).ravel()
    b = reference.astype(np.float64).ravel()
    finite = np.isfinite(a) & np.isfinite(b)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if not np.all(finite | same):
        raise DifferenceError(
            f"output {name!r} has NaN or infinity where the reference has not, or the reverse"
        )
    a, b = a[finite], b[finite]
    gap = np.abs(a - b)
    max_abs = float(gap.max(initial=0.0))
    scale = float(np.abs(b).max(initial=0.0))
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    return OutputDifference(
        name=name,
        dtype=str(candidate.dtype),
        max_abs=max_abs,
        mean_abs=float(gap.mean()) if gap.size else 0.0,
        max_relative=max_abs / scale if scale else (0.0 if max_abs == 0.0 else float("inf")),
        cosine=float(a @ b) / norm if norm else 1.0,
    )


def compare_outputs(
    candidate: Mapping[str, npt.NDArray[Any]], reference: Mapping[str, npt.NDArray[Any]]
) -> list[OutputDifference]:
    """Compare outputs by name.

    Raises:
        DifferenceError: The names or shapes differ.
    """
    if set(candidate) != set(reference):
        raise DifferenceError(f"the outputs are {sorted(candidate)}, the reference's {sorted(reference)}")
    return [difference(name, candidate[name], reference[name]) for name in reference]


def require_close(differences: list[OutputDifference], *, dtype: str | None = None, what: str) -> None:
    """Raise when an output differs by more than its dtype's `TOLERANCE`.

    Args:
        differences: What `compare_outputs` returned.
        dtype: Lowest precision computed in, where that is lower than the outputs' own.
        what: What was compared, for the message.

    Raises:
        DifferenceError: An output differs too much.
    """
    for item in differences:
        limit = max(TOLERANCE.get(item.dtype, 0.0), TOLERANCE.get(dtype or "", 0.0))
        if not item.max_relative <= limit:
            raise DifferenceError(
                f"{what}: output {item.name!r} differs by {item.max_relative:.3g} of its largest value, "
                f"more than the {limit:g} allowed for {dtype or item.dtype}"
            )
