"""Support of an N:M layer by ADMM: W = D is split, W least squares and D within the pattern.

    W <- (G Q + (rho D - V) Q) / (e + rho) Q'
    D <- the N of each M where |W + V / rho| is largest
    V <- V + rho (W - D)

with e, Q the eigenvalues and eigenvectors of H, and lambda within G and e.
"""

from __future__ import annotations

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.array_namespace import Array, float32, namespace, top_mask
from nm2trt.nm.solver.eigenbasis import Eigenbasis

# Dual penalty, first and last; it grows by a constant factor per iteration.
_FIRST_RHO, _LAST_RHO = 0.01, 4.0
_UNCHANGED = 6


def admm_mask(
    g: Array,
    weight: Array,
    basis: Eigenbasis,
    ridge: float,
    start: Array,
    pattern: NMPattern,
    iterations: int,
) -> tuple[Array, Array]:
    """Choose the support of a scaled problem.

    Args:
        g: Covariance of wanted outputs and inputs, (o, d).
        weight: The weight as it was, (o, d), from which lambda holds the new one back.
        basis: Of the covariance of the inputs.
        ridge: lambda.
        start: The best unpruned weight, (o, d).
        pattern: Divides d.
        iterations: At most so many.

    Returns:
        The mask, (o, d), and values on it, float32.
    """
    growth = (_LAST_RHO / _FIRST_RHO) ** (1 / max(iterations, 1))
    pulled = ridge * weight
    given = g if basis.thin else g + pulled
    pulled, values = float32(pulled), float32(basis.values + ridge)
    basis = basis.in_float32()
    turned, weight = basis.turned(float32(given)), float32(start)
    xp = namespace(weight)
    mask = top_mask(xp.abs(weight), pattern)
    split, dual, rho, same = weight * mask, xp.zeros_like(weight), _FIRST_RHO, 0
    for _ in range(iterations):
        if basis.thin:
            # Outside the rows' span H and G are 0, and what pulls the weight is all there is.
            pull = pulled + rho * split - dual
            inside, outside = basis.turned(pull), 1 / (ridge + rho)
            weight = outside * pull + basis.back((turned + inside) / (values + rho) - outside * inside)
        else:
            weight = basis.back((turned + basis.turned(rho * split - dual)) / (values + rho))
        wanted = weight + dual / rho
        new = top_mask(xp.abs(wanted), pattern)
        split = wanted * new
        dual = dual + rho * (weight - split)
        same = same + 1 if bool((new == mask).all()) else 0
        mask, rho = new, rho * growth
        if same == _UNCHANGED:
            break
    return mask, split
