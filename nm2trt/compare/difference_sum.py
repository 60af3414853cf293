"""The sum of the differences of one output from its reference, batch by batch."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from nm2trt.arrays import Array, Arrays
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import DifferenceError

_PIECE = 1 << 18
_COUNTS = ("_elements", "_nan", "_infinite", "_outside", "_count", "_rows", "_unequal")
_LEAST_PROBABILITY = 2.0**-25  # half of float16's smallest
# Squares are summed in units of 4^u: in float64 those of numbers beyond 2^500 overflow, and those of
# numbers below 2^-500 vanish.
_UNIT, _ORDINARY = 600, 500


class DifferenceSum:
    """Adds up the difference of one output from its reference, batch by batch, in float64.

    Integers are subtracted exactly first: float64 does not tell 2**53 from 2**53 + 1.

    Args:
        name: The output.
        distribution: Take the last axis for a distribution, given as probabilities or as logits, and measure
            the Kullback-Leibler divergence too.
        tolerance: (atol, rtol): count the elements where |a - b| > atol + rtol * |b|, b the reference.
        free_size: The output's size depends on the data, as that of NonMaxSuppression: another size than the
            reference's is counted, not refused.
    """

    def __init__(
        self,
        name: str,
        *,
        distribution: bool = False,
        tolerance: tuple[float, float] | None = None,
        free_size: bool = False,
    ) -> None:
        self._name, self._dtype, self._distribution = name, "", distribution
        self._tolerance, self._free_size, self._unequal = tolerance, free_size, 0
        self._elements = self._nan = self._infinite = self._outside = 0
        self._count = self._rows = 0
        self._max_abs = self._scale = self._sum_abs = self._divergence = 0.0
        self._squares = np.zeros(3)  # of the difference, the candidate and the reference
        self._product = 0.0
        self._unit = -_UNIT

    def add(self, candidate: Array, reference: Array) -> None:
        """Add one batch.

        Raises:
            DifferenceError: The shapes differ, or NaN or infinity stands in one and the other is finite.
        """
        self._dtype = str(candidate.dtype)
        if candidate.shape != reference.shape:
            if self._free_size and candidate.ndim == reference.ndim:
                self._unequal += 1
                return
            raise DifferenceError(
                f"output {self._name!r} has shape {candidate.shape}, the reference {reference.shape}"
            )
        self._elements += candidate.size
        a, b = candidate.reshape(-1), reference.reshape(-1)
        exact = a.dtype.kind in "iub" and b.dtype.kind in "iub"
        for start in range(0, a.size, _PIECE):
            own, other = a[start : start + _PIECE], b[start : start + _PIECE]
            gap = _integer_gap(own, other) if exact else None
            self._add_piece(own.astype(np.float64), other.astype(np.float64), gap)
        if self._distribution and candidate.size:
            divergence = _divergences(candidate, reference)
            self._rows += divergence.size
            self._divergence += float(divergence.sum())

    def _add_piece(
        self, a: npt.NDArray[np.float64], b: npt.NDArray[np.float64], gap: npt.NDArray[np.float64] | None
    ) -> None:
        with np.errstate(invalid="ignore", over="ignore"):
            size = float(a @ a) + float(b @ b)
        if not math.isfinite(size):
            finite = np.isfinite(a) & np.isfinite(b)
            nan = np.isnan(a) & np.isnan(b)
            if not np.all(finite | nan | (a == b)):
                raise DifferenceError(
                    f"output {self._name!r} has NaN or infinity and the reference has not, or the reverse"
                )
            self._nan += int(nan.sum())
            self._outside += int(nan.sum())
            self._infinite += int((~finite & ~nan).sum())
            a, b = a[finite], b[finite]
        if gap is None:
            with np.errstate(over="ignore"):
                gap = np.abs(a - b)
        if self._tolerance is not None:
            atol, rtol = self._tolerance
            self._outside += int(np.count_nonzero(gap > atol + rtol * np.abs(b)))
        ordinary = 2.0 ** (-2 * _ORDINARY) < size < math.inf
        self._rescale(0 if ordinary else _unit_of(np.concatenate([a, b])))
        if self._unit:
            a, b = np.ldexp(a, -self._unit), np.ldexp(b, -self._unit)
        change = np.abs(a - b) if self._unit else gap
        self._squares += (float(change @ change), float(a @ a), float(b @ b))
        self._product += float(a @ b)
        self._count += gap.size
        self._sum_abs += float(gap.sum())
        self._max_abs = max(self._max_abs, float(gap.max(initial=0.0)))
        if b.size:
            self._scale = max(self._scale, float(b.max()), -float(b.min()))

    def _rescale(self, unit: int) -> None:
        """Go on in a larger unit, or in the same one."""
        if unit > self._unit:
            below = 2 * (self._unit - unit)
            self._squares = np.ldexp(self._squares, below)
            self._product = math.ldexp(self._product, below)
            self._unit = unit

    def state(self) -> dict[str, Array]:
        """Return all that was added up, as plain arrays."""
        return {
            "dtype": np.array(self._dtype),
            "counts": np.array([getattr(self, name) for name in _COUNTS], np.int64),
            "largest": np.array([self._max_abs, self._scale, self._unit]),
            "sums": np.array([self._sum_abs, self._divergence, self._product, *self._squares]),
        }

    def extend(self, state: Arrays) -> None:
        """Add what another sum of the same output added up.

        Raises:
            KeyError: An array is missing.
            ValueError: One is of another kind or size.
        """
        dtype, counts, largest, sums = (state[name] for name in ("dtype", "counts", "largest", "sums"))
        shapes = (dtype.shape, counts.shape, largest.shape, sums.shape)
        if (
            shapes != ((), (len(_COUNTS),), (3,), (6,))
            or dtype.dtype.kind != "U"
            or counts.dtype != np.int64
            or {largest.dtype, sums.dtype} != {np.dtype(np.float64)}
            or (counts < 0).any()
            or np.isnan([*largest, *sums]).any()
            or largest[2] not in (-_UNIT, 0, _UNIT)
        ):
            raise ValueError("the sums of differences are not valid")
        self._dtype = str(dtype) or self._dtype
        for name, count in zip(_COUNTS, counts.tolist(), strict=True):
            setattr(self, name, getattr(self, name) + count)
        self._max_abs = max(self._max_abs, float(largest[0]))
        self._scale = max(self._scale, float(largest[1]))
        self._sum_abs += float(sums[0])
        self._divergence += float(sums[1])
        self._rescale(int(largest[2]))
        below = 2 * (int(largest[2]) - self._unit)
        self._product += math.ldexp(sums[2], below)
        self._squares += np.ldexp(sums[3:], below)

    def result(self) -> OutputDifference:
        """Return the difference of all that was added."""
        noise, candidate, signal = (float(square) for square in self._squares)
        norm = candidate**0.5 * signal**0.5
        # Equal outputs have a cosine of 1, however the roots are rounded.
        product = self._product if noise else norm
        # If no element was compared, the difference is unknown, and 0 would read as agreement.
        empty = not self._count and self._nan + self._infinite + self._unequal > 0
        return OutputDifference(
            name=self._name,
            dtype=self._dtype,
            max_abs=math.nan if empty else self._max_abs,
            mean_abs=math.nan if empty else (self._sum_abs / self._count if self._count else 0.0),
            max_relative=math.nan if empty else _ratio(self._max_abs, self._scale),
            cosine=max(-1.0, min(1.0, product / norm)) if 0 < norm < math.inf else None,
            relative_l2=math.nan if empty else _ratio(noise, signal) ** 0.5,
            sqnr_db=10 * math.log10(signal / noise) if noise and signal else None,
            kl=self._divergence / self._rows if self._rows else None,
            elements=self._elements,
            nan_in_both=self._nan,
            infinite_in_both=self._infinite,
            outside=None if self._tolerance is None else self._outside,
            unequal_shapes=self._unequal,
        )


def _unit_of(values: npt.NDArray[np.float64]) -> int:
    peak = float(np.abs(values).max(initial=0.0))
    return _UNIT if peak > 2.0**_ORDINARY else (0 if peak >= 2.0**-_ORDINARY else -_UNIT)


def _integer_gap(a: Array, b: Array) -> npt.NDArray[np.float64]:
    """Return |a - b| of integers, subtracted modulo 2**64, which is exact for any two of 64 bits."""
    own, other = _as_uint64(a), _as_uint64(b)
    gap = np.where(a >= b, own - other, other - own).astype(np.float64)
    # Only 2**64 itself, between the largest unsigned number and -1, comes out as 0.
    return np.where((a != b) & (gap == 0), 2.0**64, gap)


def _as_uint64(values: Array) -> npt.NDArray[np.uint64]:
    wide = values.astype(np.int64) if values.dtype.kind == "i" else values.astype(np.uint64)
    return wide.view(np.uint64)


def _ratio(value: float, scale: float) -> float:
    return value / scale if scale else (0.0 if value == 0.0 else float("inf"))


def _divergences(candidate: Array, reference: Array) -> npt.NDArray[np.float64]:
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


def _log_probabilities(values: Array) -> npt.NDArray[np.float64]:
    values = values.astype(np.float64)
    if values.min() >= 0 and np.allclose(values.sum(-1), 1.0, atol=1e-2):
        # What a half-precision softmax rounds to zero is not impossible.
        values = np.log(np.maximum(values, _LEAST_PROBABILITY))
    with np.errstate(invalid="ignore"):
        shifted = values - values.max(-1, keepdims=True)
    # Probabilities are normalised too: rounded rows do not sum to 1, and the divergence would turn negative.
    logs: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return logs
