"""Allocation: ERK against its definition, the menu's choice against every choice there is."""

import itertools
import math
import random

import pytest

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.fcpts import allocate
from nm2trt.sparsity.fcpts.allocate import allocate_exactly, allocate_greedily, erk_densities

SHAPES = [(32, 3, 3, 3), (32, 1, 3, 3), (64, 32, 1, 1), (128, 64, 3, 3), (10, 128)]


def kept(densities):
    return sum(d * math.prod(shape) for d, shape in zip(densities, SHAPES, strict=True))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_invariant_7_erk_keeps_its_share_with_densities_up_to_one(rate):
    densities = erk_densities(SHAPES, rate)
    total = sum(math.prod(shape) for shape in SHAPES)
    assert kept(densities) == pytest.approx((1 - rate) * total)
    assert all(0 < d <= 1 for d in densities)
    # Of layers that are not clamped, density over (sum of dimensions / size) is one number.
    eps = {round(d * math.prod(s) / sum(s), 6) for d, s in zip(densities, SHAPES, strict=True) if d < 1}
    assert len(eps) <= 1


def test_invariant_7_erk_is_monotone_and_clamps_thin_layers_to_dense():
    grid = [erk_densities(SHAPES, rate / 20) for rate in range(20)]
    for sparser, denser in itertools.pairwise(grid[::-1]):
        assert all(a <= b + 1e-12 for a, b in zip(sparser, denser, strict=True))
    assert erk_densities(SHAPES, 0.5)[1] == 1.0, "the depthwise layer"


def random_case(seed):
    source = random.Random(seed)
    costs, zeros = [], []
    for _ in range(source.randint(1, 5)):
        options = source.randint(1, 4)
        size = source.choice([4, 8, 12, 64])
        zeros.append(sorted(source.sample(range(size + 1), options)))
        costs.append([source.choice([0.0, 1.0, source.random() * size]) for _ in range(options)])
    most = sum(row[-1] for row in zeros)
    return costs, zeros, source.randint(0, most)


def brute_force(costs, zeros, needed):
    ways = itertools.product(*(range(len(row)) for row in costs))
    return min(
        sum(costs[layer][option] for layer, option in enumerate(way))
        for way in ways
        if sum(zeros[layer][option] for layer, option in enumerate(way)) >= needed
    )


@pytest.mark.parametrize("seed", range(150))
def test_invariant_13_exact_choice_costs_what_trying_all_costs(seed):
    costs, zeros, needed = random_case(seed)
    best = allocate_exactly(costs, zeros, needed)
    assert best.zeros >= needed
    assert best.cost == pytest.approx(brute_force(costs, zeros, needed))
    assert best.cost == pytest.approx(sum(costs[i][o] for i, o in enumerate(best.options)))
    assert best.zeros == sum(zeros[i][o] for i, o in enumerate(best.options))


@pytest.mark.parametrize("seed", range(150))
def test_invariant_13_greedy_choice_is_feasible_settled_and_never_cheaper(seed):
    costs, zeros, needed = random_case(seed)
    found = allocate_greedily(costs, zeros, needed)
    assert found.zeros >= needed
    assert found.cost >= brute_force(costs, zeros, needed) - 1e-9
    for layer, option in enumerate(found.options):
        for other in range(len(costs[layer])):
            feasible = found.zeros + zeros[layer][other] - zeros[layer][option] >= needed
            assert not (feasible and costs[layer][other] < costs[layer][option]), "a move was left"


def test_invariant_13_a_uniform_rate_is_met_exactly():
    sizes = [64, 128, 4096]
    zeros = [[n * k // 4 for k in range(4)] for n in sizes]
    costs = [[n * (k / 4 - 0.5) ** 2 for k in range(4)] for n in sizes]
    for solve in (allocate_exactly, allocate_greedily):
        found = solve(costs, zeros, sum(sizes) // 2)
        assert found.options == (2, 2, 2)
        assert found.zeros == sum(sizes) // 2


def test_large_tables_fall_back_to_greedy(monkeypatch):
    costs, zeros = [[0.0, 1.0]] * 3, [[0, 7], [0, 11], [0, 13]]
    assert allocate.allocate(costs, zeros, 11).exact
    monkeypatch.setattr(allocate, "_TABLE_LIMIT", 10)
    found = allocate.allocate(costs, zeros, 11)
    assert not found.exact
    assert found.zeros >= 11


def test_out_of_reach_says_what_is_in_reach():
    for solve in (allocate_exactly, allocate_greedily):
        with pytest.raises(SparsifyError, match="9 zeros are out of reach; the menu gives 8 at most"):
            solve([[0.0, 1.0]] * 2, [[0, 4]] * 2, 9)
    with pytest.raises(SparsifyError, match=r"a rate of 1\.0 cannot be allocated"):
        erk_densities(SHAPES, 1.0)
