"""Mask, values and bias of one layer, against brute force, closed forms and the other array library."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from nm2trt.errors import SparsityError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver import layer_solver
from nm2trt.nm.solver.layer_moments import Moments, moments_of
from nm2trt.nm.solver.layer_solver import SolverOptions, fit_layer
from nm2trt.nm.solver.support_values import support_values

TWO_FOUR = NMPattern(2, 4)


def layer(outputs, inputs, rows, seed=0, offset=0.0):
    """Correlated, one-sided inputs as a ReLU makes them, outputs of clean inputs, and the weight."""
    random = np.random.default_rng(seed)
    latent = random.normal(size=(rows, inputs // 2))
    mixed = random.normal(size=(inputs // 2, inputs)) * np.exp(-8 * np.arange(inputs // 2) / inputs)[:, None]
    clean = np.maximum(latent @ mixed + 0.1 * random.normal(size=(rows, inputs)), 0) + offset
    weight = random.normal(size=(outputs, inputs)) / inputs**0.5
    error = random.normal(size=(rows, inputs // 4)) @ random.normal(size=(inputs // 4, inputs))
    seen = clean + 0.3 * clean.std() * error / inputs**0.5
    return seen.astype(np.float32), (clean @ weight.T).astype(np.float32), weight


def split(x, y, share=0.8):
    cut = int(len(x) * share)
    return moments_of(x[:cut], y[:cut]), moments_of(x[cut:], y[cut:])


def group_counts(mask, m):
    return np.asarray(mask).reshape(len(mask), -1, m).sum(-1)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:4", "4:8", "1:2"])
def test_mask_holds_pattern_and_weight_is_zero_outside_it(pattern):
    x, y, weight = layer(16, 32, 800)
    pattern = NMPattern.parse(pattern)
    found = fit_layer(*split(x, y), weight, pattern, bias=True)
    assert (group_counts(found.mask, pattern.m) == pattern.n).all()
    assert not found.weight[~found.mask].any()


def test_values_are_the_least_squares_minimum_on_their_support():
    x, y, weight = layer(6, 16, 400)
    rows = x.astype(np.float64)
    mask = np.abs(weight) >= np.sort(np.abs(weight).reshape(6, 4, 4), -1)[..., 2:3].repeat(4, -1).reshape(
        6, 16
    )
    found = support_values(rows.T @ rows, y.astype(np.float64).T @ rows, mask)
    for output in range(6):
        oracle = np.linalg.lstsq(rows[:, mask[output]], y[:, output], rcond=None)[0]
        np.testing.assert_allclose(found[output, mask[output]], oracle, rtol=1e-6)


def test_many_outputs_come_from_conjugate_gradients_and_agree(monkeypatch):
    x, y, _ = layer(24, 64, 3000)
    rows = x.astype(np.float64)
    h, g = rows.T @ rows / 3000 + 0.05 * np.eye(64), y.astype(np.float64).T @ rows / 3000
    mask = np.tile([True, False, True, False], (24, 16))
    exact = support_values(h, g, mask)
    monkeypatch.setattr("nm2trt.nm.solver.support_values._MOST_EXACT", 0)
    np.testing.assert_allclose(support_values(h, g, mask), exact, atol=2e-3 * np.abs(exact).max())


def test_blocks_of_outputs_give_what_all_outputs_give(monkeypatch):
    monkeypatch.setattr("nm2trt.nm.solver.support_values._MOST_EXACT", 0)
    x, y, weight = layer(24, 64, 3000)
    whole = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    assert whole.chosen == "admm"
    monkeypatch.setattr("nm2trt.nm.solver.array_namespace._LARGE", 0)
    monkeypatch.setattr("nm2trt.nm.solver.array_namespace._BLOCK_ROWS", 7)
    blocks = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    np.testing.assert_array_equal(blocks.mask, whole.mask)
    np.testing.assert_allclose(blocks.weight, whole.weight, atol=1e-4)


def test_near_the_best_of_all_supports():
    excess = []
    for seed in range(6):
        x, y, weight = layer(4, 8, 600, seed)
        found = fit_layer(moments_of(x, y), None, weight, TWO_FOUR, bias=False)
        rows = x.astype(np.float64)
        for output in range(4):
            pairs = list(itertools.combinations(range(4), 2))
            supports = [[*a, *(4 + i for i in b)] for a in pairs for b in pairs]
            losses = [residual(rows[:, s], y[:, output]) for s in supports]
            mine = residual(rows[:, np.flatnonzero(found.mask[output])], y[:, output])
            assert mine >= min(losses) * (1 - 1e-9)
            excess.append(mine / min(losses))
    assert np.exp(np.mean(np.log(excess))) < 1.15


def residual(rows, wanted):
    return ((rows @ np.linalg.lstsq(rows, wanted, rcond=None)[0] - wanted) ** 2).sum()


def test_excess_loss_is_well_below_magnitude_with_the_same_fit():
    ratios = []
    for seed in range(5):
        x, y, weight = layer(64, 64, 4000, seed)
        found = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
        assert found.chosen == "admm"
        ratios.append((found.error - found.dense_error) / (found.magnitude_error - found.dense_error))
    assert np.exp(np.mean(np.log(ratios))) <= 0.70


@pytest.mark.parametrize("rows", [40, 60, 1000])
def test_never_worse_than_magnitude_on_held_out_rows(rows):
    for seed in range(4):
        x, y, weight = layer(16, 32, rows, seed)
        found = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
        assert found.held_out
        assert found.error <= found.magnitude_error * (1 + 1e-9)


def test_errors_are_those_of_the_rows():
    x, y, weight = layer(8, 16, 500, offset=3.0)
    found = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    fitted, held = slice(0, 400), slice(400, None)
    old_bias = np.zeros(8)
    out = x[held] @ found.weight.T + old_bias + found.bias_change
    centred = y[held] - y[fitted].mean(0)
    assert found.error == pytest.approx(((out - y[held]) ** 2).sum() / (centred**2).sum(), rel=1e-3)


def test_bias_takes_the_difference_of_the_means():
    x, y, weight = layer(8, 16, 500, offset=2.0)
    found = fit_layer(moments_of(x, y), None, weight, TWO_FOUR, bias=True)
    left = (y - x @ found.weight.T - found.bias_change).mean(0)
    np.testing.assert_allclose(left, 0, atol=1e-5)
    assert fit_layer(moments_of(x, y), None, weight, TWO_FOUR, bias=False).bias_change is None


def test_dead_channels_do_not_break_the_solve():
    x, y, weight = layer(8, 16, 300)
    x[:, 4:9] = 0
    found = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    assert np.isfinite(found.weight).all()
    assert np.isfinite(found.error)
    assert found.error < 1


def test_fewer_rows_than_inputs_pick_a_larger_ridge():
    x, y, weight = layer(16, 64, 4000)
    many = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    few = fit_layer(*split(x[:40], y[:40]), weight, TWO_FOUR, bias=True)
    assert few.ridge > many.ridge
    assert few.ridge in SolverOptions().ridges


def test_unpruned_refit_recovers_what_pruned_inputs_lost():
    x, y, weight = layer(16, 32, 3000)
    found = fit_layer(*split(x, y), weight, None, bias=True)
    assert found.mask is None
    assert found.chosen == "dense"
    old = ((x @ weight.T - y) ** 2).sum() / ((y - y.mean(0)) ** 2).sum()
    assert found.error < old


def test_depthwise_is_one_small_system_per_channel():
    random = np.random.default_rng(0)
    x = random.normal(size=(500, 5, 9)) + 1  # rows, channels, kernel positions
    weight = random.normal(size=(5, 9))
    y = np.einsum("nck,ck->nc", x, weight) + 2.0

    def sums(x, y):
        xx, yx = np.einsum("nck,ncl->ckl", x, x), np.einsum("nc,nck->ck", y, x)
        return Moments(xx, yx, x.sum(0), y.sum(0), float((y**2).sum()), len(x))

    found = fit_layer(sums(x[:400], y[:400]), sums(x[400:], y[400:]), 0.5 * weight, None, bias=True)
    for channel in range(5):
        ones = np.concatenate([x[:400, channel], np.ones((400, 1))], 1)
        oracle = np.linalg.lstsq(ones, y[:400, channel], rcond=None)[0]
        np.testing.assert_allclose(found.weight[channel], oracle[:9], atol=0.01)
        assert found.bias_change[channel] == pytest.approx(oracle[9], abs=0.02)


def test_moments_add_up():
    x, y, _ = layer(4, 8, 90)
    both, parts = moments_of(x, y), moments_of(x[:40], y[:40]) + moments_of(x[40:], y[40:])
    assert both.rows == parts.rows == 90
    for name in ("xx", "yx", "x", "y", "yy"):
        np.testing.assert_allclose(getattr(both, name), getattr(parts, name), rtol=1e-5)


def test_same_bits_again():
    x, y, weight = layer(32, 64, 900)
    first, again = (fit_layer(*split(x, y), weight, TWO_FOUR, bias=True) for _ in range(2))
    assert first.weight.tobytes() == again.weight.tobytes()


def test_torch_tensors_give_the_same_layer():
    torch = pytest.importorskip("torch")
    x, y, weight = layer(16, 32, 2000)
    mine = fit_layer(*split(x, y), weight, TWO_FOUR, bias=True)
    moments = split(torch.from_numpy(x), torch.from_numpy(y))
    theirs = fit_layer(*moments, torch.from_numpy(weight), TWO_FOUR, bias=True)
    assert isinstance(theirs.weight, torch.Tensor)
    assert (theirs.mask.numpy() == mine.mask).mean() > 0.99
    assert theirs.ridge == mine.ridge
    assert theirs.error == pytest.approx(mine.error, rel=0.01)


def test_nan_is_named():
    x, y, weight = layer(4, 8, 50)
    x[3, 2] = np.nan
    with pytest.raises(SparsityError, match="NaN or infinity on the calibration samples"):
        fit_layer(moments_of(x, y), None, weight, TWO_FOUR, bias=True)


@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_moments_keep_a_covariance_that_is_small_beside_the_mean(scale):
    random = np.random.default_rng(0)
    x = (scale + random.normal(size=(2000, 16))).astype(np.float32)
    y = (x.astype(np.float64) @ random.normal(size=(16, 4))).astype(np.float32)
    sums = moments_of(x, y)
    exact = np.cov(x.astype(np.float64), rowvar=False, bias=True)
    mean = sums.x / sums.rows
    np.testing.assert_allclose(sums.xx / sums.rows - np.outer(mean, mean), exact, atol=1e-3)
    np.testing.assert_allclose(mean, x.astype(np.float64).mean(0), rtol=1e-12)


@pytest.mark.parametrize("share", [0.2, 0.5, 1.0])
def test_values_on_a_given_mask_are_the_ridge_solution_of_each_output(share):
    """Masks as unstructured pruning leaves them: another number of weights, or none, in each output."""
    x, y, weight = layer(12, 24, 2000, offset=0.5)
    mask = np.random.default_rng(1).random((12, 24)) < share
    mask[0] = share == 1
    found = fit_layer(*split(x, y), weight, None, bias=True, mask=mask)
    assert found.chosen == "given"
    assert not found.weight[~mask].any()
    rows, wanted = x[:1600].astype(np.float64), y[:1600].astype(np.float64)
    inputs, outputs = rows - rows.mean(0), wanted - wanted.mean(0)
    h, g = inputs.T @ inputs / 1600, outputs.T @ inputs / 1600
    near = found.ridge * (np.diag(h) + 1e-3 * np.diag(h).mean())
    for output in range(12):
        kept = np.flatnonzero(mask[output])
        system = h[np.ix_(kept, kept)] + np.diag(near[kept])
        oracle = np.linalg.solve(system, g[output, kept] + near[kept] * weight[output, kept])
        np.testing.assert_allclose(found.weight[output, kept], oracle, atol=5e-3 * np.abs(weight).max())
    bias = wanted.mean(0) - found.weight @ rows.mean(0)
    np.testing.assert_allclose(found.bias_change, bias, atol=1e-4)


def few_rows(seed, rows=14, held=2, inputs=32, outputs=8):
    """Return moments of a few rows of correlated inputs, and how far a weight is off on many."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(inputs, inputs)) / inputs**0.5
    weight = random.normal(size=(outputs, inputs))
    drifted = mixing + 0.1 * random.normal(size=mixing.shape) / inputs**0.5

    def drawn(count):
        hidden = random.normal(size=(count, inputs))
        return (hidden @ drifted).astype(np.float32), (hidden @ mixing @ weight.T).astype(np.float32)

    x, y = drawn(2000)

    def error(found):
        return float(((x @ found.weight.T + found.bias_change - y) ** 2).mean())

    return moments_of(*drawn(rows)), moments_of(*drawn(held)), weight, error


def test_a_handful_of_held_out_rows_picks_nothing(monkeypatch):
    fitted, held, weight, _ = few_rows(0)
    found = fit_layer(fitted, held, weight, TWO_FOUR, bias=True)
    assert not found.held_out
    same = fit_layer(fitted + held, None, weight, TWO_FOUR, bias=True)
    np.testing.assert_array_equal(found.weight, same.weight)
    assert found.ridge == pytest.approx(0.01 + 0.2 * 32 / 16)
    assert fit_layer(fitted, few_rows(0, held=8)[1], weight, TWO_FOUR, bias=True).held_out
    # On rows that nobody has seen it is the better rule.
    ratios = []
    for seed in range(16):
        fitted, held, weight, error = few_rows(seed)
        now = error(fit_layer(fitted, held, weight, TWO_FOUR, bias=True))
        with monkeypatch.context() as old:
            old.setattr(layer_solver, "_LEAST_HELD_OUT", 1)
            ratios.append(now / error(fit_layer(fitted, held, weight, TWO_FOUR, bias=True)))
    assert np.exp(np.log(ratios).mean()) < 0.95


def test_outputs_that_are_zero_but_for_rounding_have_a_solution():
    """The sum of their squares may be just below 0, since it was taken about a mean and moved back."""
    x, y = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32), np.zeros((200, 8), np.float32)
    fitted, held_out = (replace(sums, yy=-1e-17) for sums in split(x, y))
    fit = fit_layer(fitted, held_out, np.zeros((8, 16)), TWO_FOUR, bias=False)
    assert not fit.weight.any()
