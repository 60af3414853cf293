"""Eigenbasis of a scaled covariance: all of it, or only its range if the rows are kept.

A few hundred rows span as many directions. In all others H is 0, so that a few products with a thin matrix
do what the whole basis does.
"""

from __future__ import annotations

from dataclasses import dataclass

from nm2trt.nm.solver.array_namespace import Array, float32, namespace, product
from nm2trt.nm.solver.kept_rows import RowCovariance
from nm2trt.nm.solver.layer_moments import through


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

    def inside(self, h: Array | RowCovariance) -> Array:
        """Return another matrix (d, d) in this basis, (r, r)."""
        if isinstance(h, RowCovariance):
            rows = self.turned(h.rows)
            return rows.T @ rows
        return self.vectors.swapaxes(-1, -2) @ h @ self.vectors

    def inverse_diagonal(self, ridge: float) -> Array:
        """Return the diagonal of the inverse of H + ridge I, (d,)."""
        return (1 - (self.vectors**2 * (self.values / (self.values + ridge))).sum(1)) / ridge


def turn(rows: Array, basis: Array) -> Array:
    """Return rows (o, d) in a basis (d, r), or each row in a basis of its own (c, d, d)."""
    return through(rows, basis) if basis.ndim == 3 else product(rows, basis)


def eigenbasis(h: Array | RowCovariance) -> Eigenbasis:
    """Decompose a covariance, positive semidefinite but for rounding, (..., d, d), float64."""
    if isinstance(h, RowCovariance):
        xp = namespace(h.rows)
        vectors, triangle = xp.linalg.qr(h.rows.T)
        values, turns = xp.linalg.eigh(triangle @ triangle.T)
        return Eigenbasis(xp.clip(values, 0, None), product(vectors, turns))
    xp = namespace(h)
    values, vectors = xp.linalg.eigh((h + h.swapaxes(-1, -2)) / 2)
    return Eigenbasis(xp.clip(values, 0, None), vectors)
