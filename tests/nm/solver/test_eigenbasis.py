"""The range of a covariance of few rows does what its whole eigenbasis does."""

import numpy as np
import pytest
import torch

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver import eigenbasis, support_values
from nm2trt.nm.solver.layer_moments import Moments, moments_of
from nm2trt.nm.solver.layer_solver import fit_layer

INPUTS, OUTPUTS, ROWS = 128, 12, 30


@pytest.fixture
def thin(monkeypatch):
    """Let layers of any size be solved in the range; returns how to forbid it again."""
    monkeypatch.setattr(eigenbasis, "_MANY_INPUTS", INPUTS)
    return lambda: monkeypatch.setattr(eigenbasis, "_MANY_INPUTS", INPUTS + 1)


def rows_of(count, seed):
    random = np.random.default_rng(seed)
    mixed = np.random.default_rng(9).normal(size=(24, INPUTS))
    x = np.maximum(random.normal(size=(count, 24)) @ mixed + random.normal(size=(count, INPUTS)), 0)
    x[:, 7] = 0  # a dead channel
    weight = np.random.default_rng(8).normal(size=(OUTPUTS, INPUTS)) / INPUTS**0.5
    y = (x * (1 + 0.1 * np.random.default_rng(7).normal(size=INPUTS))) @ weight.T
    # In float32 the noise of a covariance's products lies outside the rows' span, where lambda is all there is.
    return x, y, weight


def in_torch(moments):
    arrays = (torch.from_numpy(getattr(moments, name)) for name in ("xx", "yx", "x", "y"))
    return Moments(*arrays, moments.yy, moments.rows)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_the_range_holds_all_of_the_covariance(thin, library):
    x = rows_of(ROWS, 0)[0]
    h = x.T @ x / len(x)
    given = h if library == "numpy" else torch.from_numpy(h)
    basis = eigenbasis.eigenbasis(given, ROWS)
    assert tuple(basis.vectors.shape) == (INPUTS, ROWS + 8)
    values, vectors = np.asarray(basis.values), np.asarray(basis.vectors)
    np.testing.assert_allclose(vectors * values @ vectors.T, h, atol=1e-12 * values.max())
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(ROWS + 8), atol=1e-12)
    through = np.asarray(basis.through(given[:5], 0.5))
    np.testing.assert_allclose(through, h[:5] @ h + 0.5 * h[:5], atol=1e-12 * values.max() ** 2)


@pytest.mark.parametrize("rows", [ROWS, INPUTS // 4 + 1])
def test_small_layers_and_those_of_many_rows_have_the_whole_basis(rows, monkeypatch):
    h = np.diag(np.arange(float(INPUTS)))
    if rows != ROWS:
        monkeypatch.setattr(eigenbasis, "_MANY_INPUTS", INPUTS)
    basis = eigenbasis.eigenbasis(h, rows)
    assert not basis.thin
    np.testing.assert_array_equal(basis.values, np.arange(INPUTS))


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("outside", [0, 16], ids=["none held out", "held out"])
@pytest.mark.parametrize(
    "how",
    [{}, {"largest": 127}, {"pattern": None}, {"mask": True}],
    ids=["pruned", "int8", "dense", "given mask"],
)
def test_a_fit_in_the_range_is_the_fit_in_the_whole_basis(thin, monkeypatch, library, bias, outside, how):
    monkeypatch.setattr(support_values, "_MOST_EXACT", 0)  # as of layers of that size
    x, y, weight = rows_of(ROWS, 0)
    held = moments_of(*rows_of(outside, 1)[:2]) if outside else None
    fitted, options = moments_of(x, y), dict(how)
    pattern = options.pop("pattern", NMPattern(2, 4))
    if options.pop("mask", False):
        options["mask"] = np.arange(INPUTS) % 4 < 2 + np.zeros((OUTPUTS, 1), int)
    if library == "torch":
        fitted, held = in_torch(fitted), None if held is None else in_torch(held)
        options = {k: torch.from_numpy(v) if k == "mask" else v for k, v in options.items()}
        weight = torch.from_numpy(weight)
    found = fit_layer(fitted, held, weight, pattern, bias=bias, **options)
    thin()
    whole = fit_layer(fitted, held, weight, pattern, bias=bias, **options)
    assert (found.ridge, found.chosen) == (whole.ridge, whole.chosen)
    assert found.dense_error == pytest.approx(whole.dense_error, rel=1e-6, abs=1e-9)
    assert found.error == pytest.approx(whole.error, rel=0.02, abs=1e-6)
    if pattern is None:
        np.testing.assert_allclose(np.asarray(found.weight), np.asarray(whole.weight), atol=1e-5)
    else:
        # Near ties may fall the other way.
        assert np.mean(np.asarray(found.mask) == np.asarray(whole.mask)) > 0.995
