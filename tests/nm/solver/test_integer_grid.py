"""on_grid: on the grid, inside the mask, and as good as exhaustive search where that is possible."""

import itertools

import numpy as np
import pytest

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.solver.array_namespace import top_mask
from nm2trt.nm.solver.integer_grid import on_grid

PATTERN = NMPattern(2, 4)


def problem(outputs, inputs, seed):
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(400, inputs)) @ random.normal(size=(inputs, inputs))
    h = mixed.T @ mixed / 400 + 0.05 * np.eye(inputs)
    dense = random.normal(size=(outputs, inputs))
    g = dense @ h
    mask = top_mask(np.abs(dense), PATTERN)
    weight = np.zeros_like(dense)
    for row, kept in enumerate(mask):
        at = np.flatnonzero(kept)
        weight[row, at] = np.linalg.solve(h[np.ix_(at, at)], g[row, at])
    return h, g, weight, mask


def loss(h, g, weight):
    return np.einsum("oi,ij,oj->o", weight, h, weight) - 2 * (weight * g).sum(1)


def test_every_weight_is_on_its_grid_and_in_its_mask():
    h, g, weight, mask = problem(6, 16, 0)
    found, scale = on_grid(h, g, weight, mask, 7)
    integers = found / scale[:, None]
    np.testing.assert_allclose(integers, np.rint(integers), atol=1e-9)
    assert np.abs(integers).max() <= 7 + 1e-9
    assert not found[~mask].any()


@pytest.mark.parametrize("seed", range(4))
def test_no_choice_of_integers_is_much_better(seed):
    h, g, weight, mask = problem(3, 8, seed)
    found, scale = on_grid(h, g, weight, mask, 3)
    exact = loss(h, g, weight)
    for row in range(3):
        at = np.flatnonzero(mask[row])
        grid = np.array(list(itertools.product(range(-3, 4), repeat=len(at)))) * scale[row]
        some = h[np.ix_(at, at)]
        best = (np.einsum("ni,ij,nj->n", grid, some, grid) - 2 * grid @ g[row, at]).min() - exact[row]
        assert loss(h, g, found)[row] - exact[row] <= 1.25 * best + 1e-9


def test_it_loses_much_less_than_the_nearest_integers():
    h, g, weight, mask = problem(32, 64, 5)
    found, scale = on_grid(h, g, weight, mask, 7)
    step = np.abs(weight).max(1, keepdims=True) / 7
    nearest = np.rint(weight / step) * step
    exact = loss(h, g, weight)
    assert ((loss(h, g, found) - exact) / (loss(h, g, nearest) - exact)).mean() < 0.7
    assert (scale <= step[:, 0] + 1e-12).all()


def test_a_depthwise_layer_is_one_problem_per_channel():
    parts = [problem(1, 8, seed) for seed in range(3)]
    h = np.stack([part[0] for part in parts])
    g, weight, mask = (np.concatenate([part[i] for part in parts]) for i in (1, 2, 3))
    together, _ = on_grid(h, g, weight, mask, 7)
    for row, part in enumerate(parts):
        np.testing.assert_allclose(together[row], on_grid(*part, 7)[0][0])


def test_an_output_of_zeros_stays_zero():
    h, g, weight, mask = problem(2, 8, 1)
    weight[0], g[0] = 0, 0
    found, scale = on_grid(h, g, weight, mask, 127)
    assert not found[0].any()
    assert scale[0] == 1


def test_tensors_give_what_arrays_give():
    torch = pytest.importorskip("torch")
    h, g, weight, mask = problem(4, 16, 2)
    found = on_grid(*(torch.from_numpy(array) for array in (h, g, weight, mask)), 7)
    for tensor, array in zip(found, on_grid(h, g, weight, mask, 7), strict=True):
        np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-9, atol=1e-12)
