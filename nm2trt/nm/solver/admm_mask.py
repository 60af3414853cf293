"""Support of an N:M layer by ADMM: W = D is split, W least squares and D within the pattern.

    W <- (G Q + (rho D - V) Q) / (e + rho) Q'
    D <- the N of each M where |W + V / rho| is largest
    V <- V + rho (W - D)

with e, Q the eigenvalues and eigenvectors of H, and lambda within G and e.
"""

from __future__ import annotations

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.array_namespace import Array, each_block, float32, namespace, top_mask
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

    def settle(rows: slice) -> None:
        pull = rho * split[rows] - dual[rows]
        if basis.thin:
            # Outside the rows' span H and G are 0, and what pulls the weight is all there is.
            pull = pulled[rows] + pull
            inside, outside = basis.turned(pull), 1 / (ridge + rho)
            weight = outside * pull + basis.back((turned[rows] + inside) / (values + rho) - outside * inside)
        else:
            weight = basis.back((turned[rows] + basis.turned(pull)) / (values + rho))
        wanted = weight + dual[rows] / rho
        new = top_mask(xp.abs(wanted), pattern)
        split[rows] = wanted * new
        dual[rows] += rho * (weight - split[rows])
        changed.append(bool((new != mask[rows]).any()))
        mask[rows] = new

    for _ in range(iterations):
        changed: list[bool] = []
        each_block(settle, split, basis.vectors.shape[-1] * basis.vectors.shape[-2])
        same = 0 if any(changed) else same + 1
        rho *= growth
        if same == _UNCHANGED:
            break
    return mask, split
