"""Layers solved from kept rows, against the sums of their products and against formulas in float64."""

import numpy as np
import pytest
import torch

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver import support_values
from nm2trt.nm.solver.eigenbasis import eigenbasis
from nm2trt.nm.solver.integer_grid import on_grid
from nm2trt.nm.solver.kept_rows import KeptRows, RowCovariance, are_kept, rows_to_draw
from nm2trt.nm.solver.layer_moments import Moments, centre, diagonal, moments_of, through, with_ridge
from nm2trt.nm.solver.layer_solver import SolverOptions, fit_layer

INPUTS, OUTPUTS, ROWS = 128, 12, 30


def rows_of(count, seed):
    random = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).normal(size=(24, INPUTS))
    x = np.maximum(random.normal(size=(count, 24)) @ mixed + random.normal(size=(count, INPUTS)), 0)
    x[:, 7] = 0  # a dead channel
    weight = np.random.default_rng(8).normal(size=(OUTPUTS, INPUTS)) / INPUTS**0.5
    y = (x * (1 + 0.1 * np.random.default_rng(7).normal(size=INPUTS))) @ weight.T
    # In float32 the noise of a covariance's products lies outside the rows' span, where lambda is all there is.
    return x, y, weight


def in_library(library, array):
    return array if library == "numpy" else torch.from_numpy(array)


def in_torch(moments):
    arrays = (torch.from_numpy(getattr(moments, name)) for name in ("xx", "yx", "x", "y"))
    return Moments(*arrays, moments.yy, moments.rows)


@pytest.mark.parametrize(
    ("inputs", "rows", "kept"),
    [(4096, 1024, True), (4096, 1025, False), (4092, 8, False), (16384, 4097, False), (16388, 9999, True)],
)
def test_rows_are_kept_if_they_are_few_or_a_matrix_is_too_large(inputs, rows, kept):
    assert are_kept(inputs, rows) is kept


@pytest.mark.parametrize(
    ("inputs", "rows"),
    [(64, 16384), (1024, 24576), (16384, 393216), (16388, 4097), (25088, 6272), (100352, 2674)],
)
def test_layers_of_too_many_inputs_for_a_matrix_draw_fewer_rows(inputs, rows):
    assert rows_to_draw(inputs) == rows
    # Six arrays of float64 in the shape of the rows take no more than six matrices of 16,384 inputs.
    assert inputs <= 16384 or inputs * rows <= 16384**2


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_range_holds_all_of_the_covariance(library):
    rows = rows_of(ROWS, 0)[0] / ROWS**0.5
    rows[3] = rows[4]  # the rank is less than the number of rows
    h = rows.T @ rows
    ridge = 0.5 + np.random.default_rng(3).random(INPUTS)
    covariance = RowCovariance(in_library(library, rows), in_library(library, 0 * ridge))
    basis = eigenbasis(covariance)
    assert basis.thin
    assert tuple(basis.vectors.shape) == (INPUTS, ROWS)
    values, vectors = np.asarray(basis.values), np.asarray(basis.vectors)
    tight = {"atol": 1e-12 * values.max() ** 2}
    np.testing.assert_allclose(vectors * values @ vectors.T, h, **tight)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(ROWS), atol=1e-12)
    np.testing.assert_allclose(np.asarray(basis.inside(covariance)), np.diag(values), **tight)
    inverse = np.linalg.inv(h + 0.3 * np.eye(INPUTS))
    np.testing.assert_allclose(np.asarray(basis.inverse_diagonal(0.3)), np.diag(inverse), rtol=1e-10)
    ridged = with_ridge(covariance, in_library(library, ridge))
    whole = h + np.diag(ridge)
    np.testing.assert_allclose(
        np.asarray(through(in_library(library, h[:5]), ridged)), h[:5] @ whole, **tight
    )
    np.testing.assert_allclose(np.asarray(diagonal(ridged)), np.diag(whole), **tight)
    assert ridged.size == 2 * ROWS * INPUTS, "a row is multiplied with R and with its transpose"
    np.testing.assert_allclose(np.asarray(ridged.part(slice(120, 250))), whole[120:], **tight)
    at = np.array([[0, 5, 9], [7, 90, 127]])
    gathered = np.asarray(ridged.gathered(in_library(library, at)))
    np.testing.assert_allclose(gathered, [whole[np.ix_(some, some)] for some in at], **tight)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("outside", [0, 16], ids=["none held out", "held out"])
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "gradients"])
@pytest.mark.parametrize(
    "how",
    [{}, {"largest": 127}, {"pattern": None}, {"mask": True}],
    ids=["pruned", "int8", "dense", "given mask"],
)
def test_a_fit_of_kept_rows_is_the_fit_of_their_sums(monkeypatch, library, bias, outside, exact, how):
    if not exact:
        monkeypatch.setattr(support_values, "_MOST_EXACT", 0)
    x, y, weight = rows_of(ROWS, 0)
    outer = rows_of(outside, 1)[:2]
    held = moments_of(*outer) if outside else None
    fitted, options = moments_of(x, y), dict(how)
    pattern = options.pop("pattern", NMPattern(2, 4))
    if options.pop("mask", False):
        options["mask"] = in_library(library, np.arange(INPUTS) % 4 < 2 + np.zeros((OUTPUTS, 1), int))
    if library == "torch":
        fitted, held = in_torch(fitted), None if held is None else in_torch(held)
    x, y, *outer, weight = (in_library(library, array) for array in (x, y, *outer, weight))
    rows, more = KeptRows(x[:9], y[:9]) + KeptRows(x[9:], y[9:]), KeptRows(*outer) if outside else None
    found = fit_layer(rows, more, weight, pattern, bias=bias, **options)
    same = SolverOptions(ridges=(found.ridge,))  # kept rows choose lambda by a rule of their own
    whole = fit_layer(fitted, held, weight, pattern, bias=bias, options=same, **options)
    assert (found.ridge, found.chosen) == (whole.ridge, whole.chosen)
    assert found.dense_error == pytest.approx(whole.dense_error, rel=1e-6, abs=1e-9)
    assert found.error == pytest.approx(whole.error, rel=0.02, abs=1e-6)
    if pattern is None:
        np.testing.assert_allclose(np.asarray(found.weight), np.asarray(whole.weight), atol=1e-5)
    else:
        # Near ties may fall the other way.
        assert np.mean(np.asarray(found.mask) == np.asarray(whole.mask)) > 0.995


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_errors_of_kept_rows_are_those_of_the_ridge_formula(bias):
    """Of every output by a solve of its own, on the rows themselves."""
    (x, y, weight), (other, wanted, _) = rows_of(ROWS, 0), rows_of(16, 1)
    fit = fit_layer(KeptRows(x, y), KeptRows(other, wanted), weight, NMPattern(2, 4), bias=bias)
    assert fit.held_out
    mean_x, mean_y = (x.mean(0), y.mean(0)) if bias else (0, 0)
    near = (x - mean_x).T @ (x - mean_x) / ROWS
    spread = np.diag(near) + 1e-3 * np.diag(near).mean() + 1e-10
    cross = (y - mean_y).T @ (x - mean_x) / ROWS
    for output, kept in enumerate(fit.mask):
        system = (near + np.diag(fit.ridge * spread))[np.ix_(kept, kept)]
        pulled = cross[output] + fit.ridge * spread * weight[output]
        np.testing.assert_allclose(fit.weight[output, kept], np.linalg.solve(system, pulled[kept]), rtol=1e-7)
        assert not fit.weight[output, ~kept].any()
    change = mean_y - fit.weight @ mean_x if bias else 0
    left = ((other @ fit.weight.T + change - wanted) ** 2).sum()
    assert fit.error == pytest.approx(left / ((wanted - mean_y) ** 2).sum(), rel=1e-9)


def on_mask(x, y, weight, mask, ridge):
    """Solve every output by itself on the rows, without a bias."""
    near, cross = x.T @ x / len(x), y.T @ x / len(x)
    pull = ridge * (np.diag(near) + 1e-3 * np.diag(near).mean() + 1e-10)
    found = np.zeros_like(weight)
    for output, kept in enumerate(mask):
        system, wanted = (near + np.diag(pull))[np.ix_(kept, kept)], cross[output] + pull * weight[output]
        found[output, kept] = np.linalg.solve(system, wanted[kept])
    return found


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("given", [False, True], ids=["pattern", "given mask"])
@pytest.mark.parametrize("count", [ROWS, 2 * INPUTS], ids=["kept rows", "sums"])
def test_lambda_of_few_rows_is_the_best_of_the_pruned_layer(library, given, count):
    """With wanted outputs that the unpruned weight gives exactly, so that it tells no lambda from another."""
    random = np.random.default_rng(5)
    weight = random.standard_normal((6, INPUTS)) / 8
    x, other = np.maximum(random.standard_normal((2, count, INPUTS)), 0)
    rows, outside = ((near, near @ weight.T) for near in (x, other))
    keep = random.random((6, INPUTS // 4, 4)) if given else np.abs(weight).reshape(6, -1, 4)
    mask = (keep.argsort(-1).argsort(-1) > 1).reshape(6, INPUTS)
    known = KeptRows if count == ROWS else moments_of
    fit = fit_layer(
        *(known(*(in_library(library, array) for array in pair)) for pair in (rows, outside)),
        in_library(library, weight),
        NMPattern(2, 4),
        bias=False,
        mask=in_library(library, mask) if given else None,
    )
    losses = {
        ridge: ((other @ on_mask(*rows, weight, mask, ridge).T - outside[1]) ** 2).sum()
        for ridge in SolverOptions().ridges
    }
    assert losses[fit.ridge] <= 1.001 * min(losses.values())
    assert losses[fit.ridge] < 0.9 * losses[1e-3], "the least lambda follows so few rows too far"
    plain = ((other @ (weight * mask).T - outside[1]) ** 2).sum()
    assert losses[fit.ridge] < 1.05 * plain


def test_rows_of_a_layer_whose_inputs_do_not_vary_keep_its_weight():
    x, (_, y, weight) = np.ones((ROWS, INPUTS)), rows_of(ROWS, 0)
    fit = fit_layer(KeptRows(x, y), None, weight, None, bias=True)
    np.testing.assert_allclose(fit.weight, weight, rtol=1e-12)
    np.testing.assert_allclose(fit.bias_change, y.mean(0) - weight @ x[0], rtol=1e-12)


def test_the_grid_of_kept_rows_is_that_of_their_covariance():
    x, y, weight = rows_of(ROWS, 0)
    problem, mask = (
        centre(KeptRows(x, y), None, None),
        np.arange(INPUTS) % 4 < 2 + np.zeros((OUTPUTS, 1), int),
    )
    mask = mask.astype(bool)
    ridge = np.full(INPUTS, 0.1)
    whole = x.T @ x / ROWS + np.diag(ridge)
    found, step = on_grid(with_ridge(problem.h, ridge), problem.g, weight * mask, mask, 127)
    expected, _ = on_grid(whole, problem.g, weight * mask, mask, 127)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found / step[:, None], np.round(found / step[:, None]), atol=1e-9)
