"""How far two sets of outputs differ, and how far they may, by dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nm2trt.errors import DifferenceError

__all__ = [
    "TOLERANCE",
    "DifferenceSum",
    "OutputDifference",
    "compare_outputs",
    "difference",
    "is_floating",
    "require_close",
]

_PIECE = 1 << 18
_LEAST_PROBABILITY = 2.0**-25  # half of float16's smallest

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
        relative_l2: Norm of the difference over the reference's norm.
        sqnr_db: Signal to quantisation noise, the same in decibels; None where nothing differs.
        kl: Mean Kullback-Leibler divergence of the candidate's distribution over the last axis from the
            reference's, in nats; None where it was not asked for.
    """

    name: str
    dtype: str
    max_abs: float
    mean_abs: float
    max_relative: float
    cosine: float
    relative_l2: float = 0.0
    sqnr_db: float | None = None
    kl: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values; what is infinite, for want of a reference, is None."""
        return {key: None if value == float("inf") else value for key, value in asdict(self).items()}


class DifferenceSum:
    """Adds up the difference of one output from its reference, batch by batch, in float64.

    Args:
        name: The output.
        distribution: Take the last axis for a distribution, given as probabilities or as logits, and measure
            the Kullback-Leibler divergence too.
    """

    def __init__(self, name: str, *, distribution: bool = False) -> None:
        self._name, self._dtype, self._distribution = name, "", distribution
        self._count = self._rows = 0
        self._max_abs = self._scale = self._sum_abs = self._divergence = 0.0
        self._squares = np.zeros(3)  # of the difference, the candidate and the reference
        self._product = 0.0

    def add(self, candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> None:
        """Add one batch.

        Raises:
            DifferenceError: The shapes differ, or NaN or infinity stands in one where the other is finite.
        """
        if candidate.shape != reference.shape:
            raise DifferenceError(
                f"output {self._name!r} has shape {candidate.shape}, the reference {reference.shape}"
            )
        self._dtype = str(candidate.dtype)
        a, b = candidate.reshape(-1), reference.reshape(-1)
        for start in range(0, a.size, _PIECE):
            self._add_piece(
                a[start : start + _PIECE].astype(np.float64), b[start : start + _PIECE].astype(np.float64)
            )
        if self._distribution and candidate.size:
            divergence = _divergences(candidate, reference)
            self._rows += divergence.size
            self._divergence += float(divergence.sum())

    def _add_piece(self, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            gap = a - b
            squares = (float(gap @ gap), float(a @ a), float(b @ b))
        if not np.isfinite(squares).all():
            finite = np.isfinite(a) & np.isfinite(b)
            same = (a == b) | (np.isnan(a) & np.isnan(b))
            if not np.all(finite | same):
                raise DifferenceError(
                    f"output {self._name!r} has NaN or infinity where the reference has not, or the reverse"
                )
            a, b = a[finite], b[finite]
            gap = a - b
            squares = (float(gap @ gap), float(a @ a), float(b @ b))
        self._squares += squares
        self._product += float(a @ b)
        np.abs(gap, out=gap)
        self._count += gap.size
        self._sum_abs += float(gap.sum())
        self._max_abs = max(self._max_abs, float(gap.max(initial=0.0)))
        if b.size:
            self._scale = max(self._scale, float(b.max()), -float(b.min()))

    def result(self) -> OutputDifference:
        """Return the difference of all that was added."""
        noise, candidate, signal = (float(square) for square in self._squares)
        norm = (candidate * signal) ** 0.5
        return OutputDifference(
            name=self._name,
            dtype=self._dtype,
            max_abs=self._max_abs,
            mean_abs=self._sum_abs / self._count if self._count else 0.0,
            max_relative=_ratio(self._max_abs, self._scale),
            cosine=min(1.0, self._product / norm) if norm else 1.0,
            relative_l2=_ratio(noise, signal) ** 0.5,
            sqnr_db=10 * math.log10(signal / noise) if noise and signal else None,
            kl=self._divergence / self._rows if self._rows else None,
        )


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Tell floating types from others, those of ml_dtypes, which numpy takes for raw bytes, included."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def difference(name: str, candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> OutputDifference:
    """Compare one output with its reference, element by element in float64.

    Raises:
        DifferenceError: The shapes differ, or NaN or infinity stands in one where the other is finite.
    """
    total = DifferenceSum(name)
    total.add(candidate, reference)
    return total.result()


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


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale else (0.0 if value == 0.0 else float("inf"))


def _divergences(candidate: npt.NDArray[Any], reference: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return sum p log(p / q) of each row of the last axis, p the reference and q the candidate.

    A logit of minus infinity has no part in its row; a row that holds NaN is left out.
    """
    p, q = _log_probabilities(reference), _log_probabilities(candidate)
    with np.errstate(invalid="ignore"):
        total: npt.NDArray[np.float64] = (np.exp(p) * (p - q)).sum(-1)
        if not np.isfinite(total).all():
            total = np.where(np.isneginf(p), 0.0, np.exp(p) * (p - q)).sum(-1)
            total = total[np.isfinite(total)]
    return total


def _log_probabilities(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    values = values.astype(np.float64)
    if values.min() >= 0 and np.allclose(values.sum(-1), 1.0, atol=1e-2):
        # What a half-precision softmax rounds to zero is not impossible.
        logs: npt.NDArray[np.float64] = np.log(np.maximum(values, _LEAST_PROBABILITY))
        return logs
    with np.errstate(invalid="ignore"):
        shifted = values - values.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs  # noqa: RET504 - the annotation is what mypy needs
