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

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from nm2trt.errors import SparsityError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.admm_mask import admm_mask
from nm2trt.nm.solver.array_namespace import Array, namespace, one_blas_thread, top_mask
from nm2trt.nm.solver.eigenbasis import Eigenbasis, eigenbasis
from nm2trt.nm.solver.integer_grid import on_grid
from nm2trt.nm.solver.kept_rows import RowCovariance
from nm2trt.nm.solver.layer_moments import (
    Centred,
    Sums,
    centre,
    diagonal,
    input_scale,
    through,
    with_ridge,
)
from nm2trt.nm.solver.support_values import conjugate_gradients, support_values

# Without held-out rows: a base, and a part that grows if few rows would be fitted with their noise.
_RIDGE, _RIDGE_OF_FEW = 0.01, 0.2
# Fewer held-out rows pick lambda and mask by chance; they are fitted instead.
_LEAST_HELD_OUT = 8
# Up to so many rows per input the values of a mask follow the rows too far if lambda is small. The unpruned
# fit does not show it where the old weight is exact: where it leaves less than this share of the variance.
_FEW_PER_INPUT, _EXACT = 16, 1e-3
# Outputs that tell one lambda from another where each is judged by conjugate gradients.
_JUDGED_OUTPUTS = 128
# Losses that differ by less than this, of themselves or of the variance, are equal.
_EQUAL_LOSS = 1e-4
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
        dense_error: Error of the unpruned fit with that lambda, as a share of the wanted outputs' variance.
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
    fitted: Sums,
    held_out: Sums | None,
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
        fitted: Moments that the weight is fitted to, or the rows.
        held_out: The same of other rows, which pick lambda and the better mask; None if no rows are held out.
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
    if held_out is not None and held_out.rows < _LEAST_HELD_OUT:
        fitted, held_out = fitted + held_out, None
    if not (fitted.finite() and (held_out is None or held_out.finite())):
        raise SparsityError("its inputs or outputs hold NaN or infinity on the calibration samples")
    mean_x, mean_y = (fitted.x / fitted.rows, fitted.y / fitted.rows) if bias else (None, None)
    problem = centre(fitted, mean_x, mean_y)
    check = centre(held_out, mean_x, mean_y) if held_out is not None and held_out.rows else None
    if bias and _constant(fitted, problem):
        # What varies is rounding: the weight stays as it was, and the bias does the rest.
        problem, check = problem.without_inputs(), None if check is None else check.without_inputs()
    scale = input_scale(problem.h)
    unscaled = None if largest is None else (problem, check)  # they take as much memory as the scaled ones
    problem = problem.scaled(scale)
    check = None if check is None else check.scaled(scale)
    task = _Task(problem, check, weight * scale, weight, fitted.rows)
    step = None
    try:
        found = _solve(task, pattern, mask, options)
        solved, loss = found.weight / scale, found.loss
        if largest is not None and unscaled is not None:
            problem, check = unscaled
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
    h = with_ridge(problem.h, ridge)
    mask = xp.ones_like(weight) > 0 if found.mask is None else found.mask
    return on_grid(h, problem.g + ridge * weight, found.weight / scale, mask, largest)


def _constant(sums: Sums, problem: Centred) -> bool:
    return bool((diagonal(problem.h) <= _ROUNDING * (sums.squares / sums.rows)).all())


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """The scaled problem, the held-out one in its scale, the old weight, scaled and not, and fitted rows."""

    problem: Centred
    check: Centred | None
    weight: Array
    original: Array
    rows: int

    def judge(self, weight: Array, ridge: float) -> tuple[float, float]:
        """Return the loss of a weight, and what it is chosen by: fitted rows count with their ridge."""
        if self.check is not None:
            loss = self.check.loss(weight)
            return loss, loss
        loss = self.problem.loss(weight)
        return loss, loss + ridge * float(((weight - self.weight) ** 2).sum())


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    weight: Array
    mask: Array | None
    ridge: float
    dense_loss: float
    loss: float
    magnitude_loss: float | None
    chosen: Literal["admm", "magnitude", "given", "dense"]


def _solve(task: _Task, pattern: NMPattern | None, given: Array | None, options: SolverOptions) -> _Found:
    basis, xp = eigenbasis(task.problem.h), namespace(task.weight)
    by_magnitude = None if pattern is None else top_mask(xp.abs(task.original), pattern)
    ridge = _pick_ridge(task, basis, by_magnitude if given is None else given, options)
    dense = _unpruned(task, basis, ridge)
    dense_loss = (task.check or task.problem).loss(dense)
    if given is not None:
        return _on_mask(task, given, dense, ridge, dense_loss)
    if pattern is None or by_magnitude is None:
        return _Found(dense, None, ridge, dense_loss, dense_loss, None, "dense")
    by_admm, start = admm_mask(task.problem.g, task.weight, basis, ridge, dense, pattern, options.iterations)
    h, g = _system(task, ridge)
    solved = support_values(h, g, by_admm, start)
    loss, least = task.judge(solved, ridge)
    large = dense.shape[0] * int(by_magnitude.sum(1).max()) ** 3 > _QUICK
    if large:
        other = conjugate_gradients(h, g, by_magnitude, dense)
    else:
        other = support_values(h, g, by_magnitude, dense)
    other_loss, judged = task.judge(other, ridge)
    if large and judged < _NEAR * least:
        other = support_values(h, g, by_magnitude, other)
        other_loss, judged = task.judge(other, ridge)
    if judged < least:
        return _Found(other, by_magnitude, ridge, dense_loss, other_loss, other_loss, "magnitude")
    return _Found(solved, by_admm, ridge, dense_loss, loss, other_loss, "admm")


def _on_mask(task: _Task, mask: Array, dense: Array, ridge: float, dense_loss: float) -> _Found:
    weight = support_values(*_system(task, ridge), mask, dense)
    loss = (task.check or task.problem).loss(weight)
    return _Found(weight, mask, ridge, dense_loss, loss, None, "given")


def _system(task: _Task, ridge: float) -> tuple[Array | RowCovariance, Array]:
    """Return H and G with lambda."""
    return with_ridge(task.problem.h, ridge), task.problem.g + ridge * task.weight


def _pick_ridge(task: _Task, basis: Eigenbasis, mask: Array | None, options: SolverOptions) -> float:
    if task.check is None:
        return float(_RIDGE + _RIDGE_OF_FEW * task.weight.shape[-1] / max(task.rows, 1))
    losses = [*_held_out_losses(task, task.check, basis, mask, options.ridges)]
    # Ahead of the first pruned layer the old weight is exact, and every lambda as good: the least frees most.
    least = min(losses)
    # Where nothing varies, rounding leaves losses below 0.
    enough = max(least, least * (1 + _EQUAL_LOSS)) + _EQUAL_LOSS * task.check.yy
    return float(next(r for r, loss in zip(options.ridges, losses, strict=True) if loss <= enough))


def _held_out_losses(
    task: _Task, check: Centred, basis: Eigenbasis, mask: Array | None, ridges: tuple[float, ...]
) -> Iterator[float]:
    """Yield the held-out loss of each lambda: of the unpruned fit, or on a mask, see `_FEW_PER_INPUT`."""
    few = task.rows < _FEW_PER_INPUT * task.weight.shape[-1] and check.loss(task.weight) < _EXACT * check.yy
    if mask is not None and (basis.thin or few):
        some = slice(None, None, -(-mask.shape[0] // _JUDGED_OUTPUTS))
        weight, g, wanted = task.weight[some], task.problem.g[some], check.g[some]
        share = weight.shape[0] / mask.shape[0]
        for ridge in ridges:
            found = conjugate_gradients(
                with_ridge(task.problem.h, ridge), g + ridge * weight, mask[some], weight
            )
            yield check.yy + float(((through(found, check.h) - 2 * wanted) * found).sum()) / share
        return
    # In the eigenbasis a candidate costs one product.
    h, values = basis.inside(check.h), basis.values
    g, start = basis.turned(task.problem.g), basis.turned(task.weight)
    if basis.thin:  # the change of the weight as it was
        left = check.g - through(task.weight, check.h)
        turned = Centred(h, basis.turned(left), check.loss(task.weight))
        yield from (turned.loss((g - values * start) / (values + ridge)) for ridge in ridges)
    else:
        turned = Centred(h, basis.turned(check.g), check.yy)
        yield from (turned.loss((g + ridge * start) / (values + ridge)) for ridge in ridges)


def _unpruned(task: _Task, basis: Eigenbasis, ridge: float) -> Array:
    g, start, values = basis.turned(task.problem.g), basis.turned(task.weight), basis.values
    if basis.thin:
        return task.weight + basis.back((g - values * start) / (values + ridge))
    return basis.back((g + ridge * start) / (values + ridge))
