"""Eigenbasis of a scaled covariance: all of it, or only its range if few rows span few of many inputs.

A layer after a Flatten has a row per sample: of its 9,216 or 25,088 inputs the rows span some hundred
directions. In all others H is 0, so that a few products with a thin matrix do what the whole basis does.
"""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.nm.solver.array_namespace import Array, drawn_like, float32, namespace, product
from nm2trt.nm.solver.layer_moments import through

# From so many inputs on, and up to so many rows per input, only the range is found.
_MANY_INPUTS, _FEW_ROWS = 4_096, 0.25
# Directions beyond the rows, which let a random start find the whole range.
_SPARE = 8


@dataclass(frozen=True, slots=True, eq=False)
class Eigenbasis:
    """Eigenvalues and eigenvectors of H.

    Args:
        values: (r,), not negative; one set per channel (c, d) for a depthwise layer.
        vectors: (d, r), orthonormal; H is 0 on what is orthogonal to them.
    """

    values: Array
    vectors: Array

    @property
    def thin(self) -> bool:
        """Whether there are fewer vectors than inputs."""
        return bool(self.vectors.shape[-1] < self.vectors.shape[-2])

    def turned(self, rows: Array) -> Array:
        """Return rows (o, d) in this basis, (o, r)."""
        return turn(rows, self.vectors)

    def back(self, rows: Array) -> Array:
        """Return rows (o, r) of this basis as (o, d)."""
        return turn(rows, self.vectors.swapaxes(-1, -2))

    def in_float32(self) -> Eigenbasis:
        """Return the same in float32."""
        return Eigenbasis(float32(self.values), float32(self.vectors))

    def through(self, rows: Array, ridge: float = 0.0) -> Array:
        """Return rows (o, d) times H + ridge I."""
        return self.back(self.turned(rows) * self.values) + ridge * rows


def turn(rows: Array, basis: Array) -> Array:
    """Return rows (o, d) in a basis (d, r), or each row in a basis of its own (c, d, d)."""
    return through(rows, basis) if basis.ndim == 3 else product(rows, basis)


def few_rows(inputs: int, rows: int) -> bool:
    """Tell whether rows are so few that their range is found, and not the whole basis."""
    return inputs >= _MANY_INPUTS and rows <= _FEW_ROWS * inputs


def eigenbasis(h: Array, rows: int) -> Eigenbasis:
    """Decompose a covariance.

    Args:
        h: Positive semidefinite but for rounding, (..., d, d); float64.
        rows: How many rows it is of; its rank is not larger.
    """
    xp, inputs = namespace(h), h.shape[-1]
    if h.ndim == 3 or not few_rows(inputs, rows):
        values, vectors = xp.linalg.eigh((h + h.swapaxes(-1, -2)) / 2)
        return Eigenbasis(xp.clip(values, 0, None), vectors)
    vectors = drawn_like(h, (inputs, rows + _SPARE))
    for _ in range(2):
        vectors = xp.linalg.qr(product(h, vectors))[0]
    inner = vectors.T @ product(h, vectors)
    values, turns = xp.linalg.eigh((inner + inner.T) / 2)
    return Eigenbasis(xp.clip(values, 0, None), product(vectors, turns))
