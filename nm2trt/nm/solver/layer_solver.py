"""Mask, values and bias of one N:M layer from second moments of its inputs and wanted outputs.

For rows x of the layer's inputs and wanted outputs y, with H = cov(x), g = cov(y, x) and the weight W0 as it
was, every output minimises over N:M supports

    |y - W x|^2 + lambda |(W - W0) S^(1/2)|^2,        S = diag(H) + 1e-3 mean(diag H).

lambda comes from rows that are never fitted; the support from ADMM (splitting W = D, D in the set of N:M
matrices, as ALPS does for unstructured sparsity: Meng et al. 2024, arXiv:2406.07831); the values are the
exact minimum on the support. Magnitude with the same fit is always tried, and the better of both is kept.

Numpy arrays and torch tensors are taken alike; the work runs where the moments lie, on a GPU too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from nm2trt.errors import SparsityError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.array_namespace import (
    Array,
    float32,
    identity,
    namespace,
    one_blas_thread,
    product,
    top_mask,
)
from nm2trt.nm.solver.integer_grid import on_grid
from nm2trt.nm.solver.layer_moments import Centred, Moments, centre, input_scale, through
from nm2trt.nm.solver.support_values import conjugate_gradients, support_values

# Without held-out rows: a base, and a part that grows if few rows would be fitted with their noise.
_RIDGE, _RIDGE_OF_FEW = 0.01, 0.2
# Fewer held-out rows pick lambda and mask by chance; they are fitted instead.
_LEAST_HELD_OUT = 8
# Losses that differ by less than this, of themselves or of the variance, are equal.
_EQUAL_LOSS = 1e-4
# Dual penalty of ADMM, first and last; it grows by a constant factor per iteration.
_FIRST_RHO, _LAST_RHO = 0.01, 4.0
_UNCHANGED = 6
# Above this the magnitude mask is first judged by conjugate gradients, and solved if it comes this near.
_QUICK, _NEAR = 1e9, 1.05
# A variance below this share of the mean square is rounding of float32 numbers.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class SolverOptions:
    """How a layer is solved.

    Args:
        ridges: Candidates for lambda, of which the least held-out loss picks one.
        iterations: ADMM iterations at most.
    """

    ridges: tuple[float, ...] = (1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0)
    iterations: int = 60


@dataclass(frozen=True, slots=True, eq=False)
class LayerFit:
    """What was found for one layer.

    Args:
        weight: (o, d), zero outside the mask; in the dtype of the moments.
        bias_change: What to add to the bias, (o,); None if the layer has no bias.
        mask: True where kept, (o, d); None for a layer that stays dense.
        ridge: lambda.
        held_out: Whether the errors below were measured on rows that were not fitted.
        dense_error: Error of the best unpruned weight, as a share of the wanted outputs' variance.
        error: The same of `weight`.
        magnitude_error: The same of the magnitude mask with the same fit; None for a dense layer.
        chosen: "admm", "magnitude", "given" for a mask that was given, or "dense".
        step: Scale of each output's integers, (o,); None if nothing was rounded.
    """

    weight: Array
    bias_change: Array | None
    mask: Array | None
    ridge: float
    held_out: bool
    dense_error: float
    error: float
    magnitude_error: float | None
    chosen: Literal["admm", "magnitude", "given", "dense"]
    step: Array | None = None


@one_blas_thread()
def fit_layer(
    fitted: Moments,
    held_out: Moments | None,
    weight: Array,
    pattern: NMPattern | None,
    *,
    bias: bool,
    options: SolverOptions = SolverOptions(),
    largest: int | None = None,
    mask: Array | None = None,
) -> LayerFit:
    """Solve one layer.

    Args:
        fitted: Moments that the weight is fitted to.
        held_out: Moments of other rows, which pick lambda and the better mask; None if no rows are held out.
            Fewer than 8 rows are fitted instead.
        weight: The weight as it was, float64 (o, d), groups of M contiguous; depthwise (c, d).
        pattern: The pattern, which divides d; None refits the layer dense, as a depthwise layer always is.
        bias: Whether the layer has a bias, which then takes the difference of the means.
        options: How.
        largest: Round the weight to integers up to this one, with a scale per output; None rounds nothing.
        mask: True where a weight may be other than zero, (o, d): only the values are solved, and `pattern` is
            not looked at.

    Raises:
        SparsityError: The moments hold NaN or infinity, or a system has no solution.
    """
    xp = namespace(weight)
    if held_out is not None and held_out.rows < _LEAST_HELD_OUT:
        fitted, held_out = fitted + held_out, None
    sums = [fitted] if held_out is None else [fitted, held_out]
    if not all(bool(xp.isfinite(array).all()) for item in sums for array in (item.xx, item.yx)):
        raise SparsityError("its inputs or outputs hold NaN or infinity on the calibration samples")
    mean_x, mean_y = (fitted.x / fitted.rows, fitted.y / fitted.rows) if bias else (None, None)
    problem = centre(fitted, mean_x, mean_y)
    check = centre(held_out, mean_x, mean_y) if held_out is not None and held_out.rows else None
    if bias and _constant(fitted, problem):
        # What varies is rounding: the weight stays as it was, and the bias does the rest.
        problem, check = problem.without_inputs(), None if check is None else check.without_inputs()
    scale = input_scale(problem.h)
    scaled_check = None if check is None else check.scaled(scale)
    task = _Task(problem.scaled(scale), scaled_check, weight * scale, weight)
    step = None
    try:
        found = _solve(task, fitted.rows, pattern, mask, options)
        solved, loss = found.weight / scale, found.loss
        if largest is not None:
            solved, step = _rounded(problem, found, weight, scale, largest)
            loss = (check or problem).loss(solved)
    except (ArithmeticError, ValueError, RuntimeError) as error:  # LinAlgError of either library is one
        raise SparsityError(f"its least-squares system has no solution: {error}") from error
    change = None
    if mean_x is not None and mean_y is not None:
        change = mean_y - ((solved * mean_x).sum(-1) if mean_x.ndim == 2 else solved @ mean_x)
    judged = fitted if held_out is None or check is None else held_out
    # A variance below this share of the mean square is rounding.
    variance = max((check or problem).yy, _ROUNDING * judged.yy / judged.rows, 1e-30)
    return LayerFit(
        weight=solved,
        bias_change=change,
        mask=found.mask,
        ridge=found.ridge,
        held_out=check is not None,
        # Rounding may leave a loss just below 0.
        dense_error=max(found.dense_loss / variance, 0.0),
        error=max(loss / variance, 0.0),
        magnitude_error=None if found.magnitude_loss is None else max(found.magnitude_loss / variance, 0.0),
        chosen=found.chosen,
        step=step,
    )


def _rounded(
    problem: Centred, found: _Found, weight: Array, scale: Array, largest: int
) -> tuple[Array, Array]:
    """Return the solution on an integer grid, and the grid's step per output."""
    xp = namespace(weight)
    ridge = found.ridge * scale**2
    h = problem.h + identity(problem.h) * ridge[..., None, :]
    mask = xp.ones_like(weight) > 0 if found.mask is None else found.mask
    return on_grid(h, problem.g + ridge * weight, found.weight / scale, mask, largest)


def _constant(sums: Moments, problem: Centred) -> bool:
    xp = namespace(sums.xx)
    squares, left = (xp.diagonal(item, 0, -2, -1) for item in (sums.xx / sums.rows, problem.h))
    return bool((left <= _ROUNDING * squares).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """The scaled problem, the held-out one in the same scale, and the weight as it was, scaled and not."""

    problem: Centred
    check: Centred | None
    weight: Array
    original: Array

    def judge(self, weight: Array, ridge: float) -> float:
        """Return the held-out loss, or the fitted one with its ridge."""
        if self.check is not None:
            return self.check.loss(weight)
        return self.problem.loss(weight) + ridge * float(((weight - self.weight) ** 2).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    weight: Array
    mask: Array | None
    ridge: float
    dense_loss: float
    loss: float
    magnitude_loss: float | None
    chosen: Literal["admm", "magnitude", "given", "dense"]


def _solve(
    task: _Task, rows: int, pattern: NMPattern | None, given: Array | None, options: SolverOptions
) -> _Found:
    values, basis = _eigen(task.problem.h)
    ridge = _pick_ridge(task, values, basis, rows, options)
    dense = _unpruned(task, values, basis, ridge)
    dense_loss = (task.check or task.problem).loss(dense)
    if given is not None:
        return _on_mask(task, given, dense, ridge, dense_loss)
    if pattern is None:
        return _Found(dense, None, ridge, dense_loss, dense_loss, None, "dense")
    xp = namespace(dense)
    by_magnitude = top_mask(xp.abs(task.original), pattern)
    h = task.problem.h + ridge * identity(task.problem.h)
    g = task.problem.g + ridge * task.weight
    by_admm, start = _admm(g, values + ridge, basis, dense, pattern, options.iterations)
    solved = support_values(h, g, by_admm, start)
    least = task.judge(solved, ridge)
    if dense.shape[0] * int(by_magnitude.sum(1).max()) ** 3 > _QUICK:
        other = conjugate_gradients(h, g, by_magnitude, dense)
        if task.judge(other, ridge) < _NEAR * least:
            other = support_values(h, g, by_magnitude, other)
    else:
        other = support_values(h, g, by_magnitude, dense)
    measured = task.check or task.problem
    magnitude_loss = measured.loss(other)
    if task.judge(other, ridge) < least:
        return _Found(other, by_magnitude, ridge, dense_loss, magnitude_loss, magnitude_loss, "magnitude")
    return _Found(solved, by_admm, ridge, dense_loss, measured.loss(solved), magnitude_loss, "admm")


def _on_mask(task: _Task, mask: Array, dense: Array, ridge: float, dense_loss: float) -> _Found:
    h = task.problem.h + ridge * identity(task.problem.h)
    weight = support_values(h, task.problem.g + ridge * task.weight, mask, dense)
    loss = (task.check or task.problem).loss(weight)
    return _Found(weight, mask, ridge, dense_loss, loss, None, "given")


def _eigen(h: Array) -> tuple[Array, Array]:
    xp = namespace(h)
    values, basis = xp.linalg.eigh((h + h.swapaxes(-1, -2)) / 2)
    return xp.clip(values, 0, None), basis


def _pick_ridge(task: _Task, values: Array, basis: Array, rows: int, options: SolverOptions) -> float:
    if task.check is None:
        return float(_RIDGE + _RIDGE_OF_FEW * task.weight.shape[-1] / max(rows, 1))
    # In the eigenbasis a candidate costs one product.
    turned = Centred(basis.swapaxes(-1, -2) @ task.check.h @ basis, _turn(task.check.g, basis), task.check.yy)
    g, start = _turn(task.problem.g, basis), _turn(task.weight, basis)
    losses = [turned.loss((g + ridge * start) / (values + ridge)) for ridge in options.ridges]
    # Ahead of the first pruned layer the old weight is exact, and every lambda as good: the least frees most.
    least = min(losses)
    # Where nothing varies, rounding leaves losses below 0.
    enough = max(least, least * (1 + _EQUAL_LOSS)) + _EQUAL_LOSS * task.check.yy
    return float(next(r for r, loss in zip(options.ridges, losses, strict=True) if loss <= enough))


def _unpruned(task: _Task, values: Array, basis: Array, ridge: float) -> Array:
    turned = (_turn(task.problem.g, basis) + ridge * _turn(task.weight, basis)) / (values + ridge)
    return _turn(turned, basis.swapaxes(-1, -2))


def _turn(rows: Array, basis: Array) -> Array:
    """Return rows (o, d) in a basis (d, d), or each row in a basis of its own (c, d, d)."""
    return through(rows, basis) if basis.ndim == 3 else product(rows, basis)


def _admm(
    g: Array, values: Array, basis: Array, start: Array, pattern: NMPattern, iterations: int
) -> tuple[Array, Array]:
    """Return the N:M support that ADMM settles on, and its values; all scaled, lambda in `values` and `g`."""
    growth = (_LAST_RHO / _FIRST_RHO) ** (1 / max(iterations, 1))
    back, basis = float32(basis.T), float32(basis)
    turned, values, weight = product(float32(g), basis), float32(values), float32(start)
    xp = namespace(weight)
    mask = top_mask(xp.abs(weight), pattern)
    split, dual, rho, same = weight * mask, xp.zeros_like(weight), _FIRST_RHO, 0
    for _ in range(iterations):
        weight = product((turned + product(rho * split - dual, basis)) / (values + rho), back)
        wanted = weight + dual / rho
        new = top_mask(xp.abs(wanted), pattern)
        split = wanted * new
        dual = dual + rho * (weight - split)
        same = same + 1 if bool((new == mask).all()) else 0
        mask, rho = new, rho * growth
        if same == _UNCHANGED:
            break
    return mask, split
