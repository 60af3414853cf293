"""Rows of layers with many inputs and few rows, kept in place of the sums of their products.

A layer after a Flatten has one row per sample. A few hundred rows of 9,216 or 25,088 inputs take less memory
than a matrix with a row and a column per input, and two products with them do what one with that matrix does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nm2trt.nm.solver.array_namespace import Array, float32, float64, identity, namespace, product

# Rows per layer, or this many per weight of an output if that is more.
ROWS, _ROWS_PER_INPUT = 16_384, 24
# From so many inputs on, and up to so many rows per input, rows are kept.
_MANY_INPUTS, _FEW_ROWS = 4_096, 0.25
# A solve needs about six float64 arrays in the shape of H, or of the rows: 13 GB for this many inputs.
_MOST_INPUTS = 16_384


def rows_to_draw(inputs: int, least: int = ROWS) -> int:
    """Return how many rows a layer is solved from, if there are that many.

    Args:
        inputs: Inputs of each output. With more than 16,384, the rows are few enough to be kept.
        least: The least number for a layer with fewer inputs.
    """
    wanted = max(least, _ROWS_PER_INPUT * inputs)
    if inputs <= _MOST_INPUTS:
        return wanted
    return min(wanted, int(_FEW_ROWS * inputs), _MOST_INPUTS**2 // inputs)


def are_kept(inputs: int, rows: int) -> bool:
    """Tell whether the rows of a layer are kept: they are few, or H is too large."""
    return inputs >= _MANY_INPUTS and (rows <= _FEW_ROWS * inputs or inputs > _MOST_INPUTS)


@dataclass(frozen=True, slots=True, eq=False)
class KeptRows:
    """Rows of one layer, not depthwise; has the properties of `Moments` that need no matrix.

    Args:
        inputs: (n, d).
        outputs: The wanted outputs, (n, o).
    """

    inputs: Array
    outputs: Array

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.inputs.shape[0])

    @property
    def x(self) -> Array:
        """Sum of the inputs, (d,)."""
        return float64(self.inputs).sum(0)

    @property
    def y(self) -> Array:
        """Sum of the wanted outputs, (o,)."""
        return float64(self.outputs).sum(0)

    @property
    def yy(self) -> float:
        """Sum of |y|^2."""
        return float((float64(self.outputs) ** 2).sum())

    @property
    def squares(self) -> Array:
        """Sum of the squares of each input, (d,)."""
        return (float64(self.inputs) ** 2).sum(0)

    def finite(self) -> bool:
        """Tell whether all numbers are finite."""
        return all(bool(namespace(array).isfinite(array).all()) for array in (self.inputs, self.outputs))

    def __add__(self, other: Any) -> KeptRows:
        """Return the rows of both; `other` is `KeptRows` too."""
        join = namespace(self.inputs).concatenate
        return KeptRows(join((self.inputs, other.inputs)), join((self.outputs, other.outputs)))

    def moved(self, x0: Array, y0: Array) -> KeptRows:
        """Return x + x0 and y + y0, float64."""
        return KeptRows(float64(self.inputs) + float64(x0), float64(self.outputs) + float64(y0))


@dataclass(frozen=True, slots=True, eq=False)
class RowCovariance:
    """A matrix H = R'R + diag(ridge), of which only R is kept.

    Args:
        rows: R, (n, d).
        ridge: (d,).
    """

    rows: Array
    ridge: Array

    @property
    def size(self) -> int:
        """Multiplications of one row with H."""
        return 2 * int(self.rows.shape[0]) * int(self.rows.shape[1])

    def diagonal(self) -> Array:
        """Return the diagonal, (d,)."""
        return (self.rows**2).sum(0) + self.ridge

    def through(self, rows: Array) -> Array:
        """Return rows (o, d) times H."""
        return product(product(rows, self.rows.T), self.rows) + self.ridge * rows

    def part(self, block: slice) -> Array:
        """Return some rows of H, (b, d)."""
        part = self.rows[:, block].T @ self.rows
        part[:, block] += identity(part[:, block]) * self.ridge[block]
        return part

    def gathered(self, at: Array) -> Array:
        """Return the rows and columns of H at `at` (b, k), (b, k, k)."""
        chosen = self.rows.T[at]
        system = chosen @ chosen.swapaxes(-1, -2)
        return system + identity(system) * self.ridge[at][:, :, None]

    def in_float32(self) -> RowCovariance:
        """Return the same in float32."""
        return RowCovariance(float32(self.rows), float32(self.ridge))
