"""LBC: each numbered invariant of the method."""

import copy
import itertools
import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from nm2trt.errors import SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.methods import lbc
from nm2trt.sparsity.sparsify import sparsify

PATTERNS = ["1:4", "2:4", "2:8", "4:8", "1:16"]


def attached(layer, pattern="2:4", total_steps=8, **options):
    sparse = sparsify(
        layer, method="lbc", pattern=pattern, total_steps=total_steps, min_channels=1, **options
    )
    return sparse, layer.parametrizations.weight[0]


def groups_of(tensor, m):
    """(groups, m) of axis 1, by slicing: the order of the weight with its reduction axis last."""
    lines = tensor.movedim(1, -1)
    return torch.stack(
        [
            lines[where][start : start + m]
            for where in itertools.product(*(range(size) for size in lines.shape[:-1]))
            for start in range(0, lines.shape[-1], m)
        ]
    )


def train(sparse, model, steps, *, seed=0, data=None, **options):
    """SGD with momentum and decay on noise; yields after each step."""
    optimizer = torch.optim.SGD(
        model.parameters(), **{"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-2, **options}
    )
    sparse.attach(optimizer)
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(data or (6, 16), generator=generator)
        model(x).square().mean().backward()
        optimizer.step()
        yield step


@pytest.mark.parametrize("pattern", PATTERNS)
def test_invariant_1_candidates_are_all_choices_once(pattern):
    pattern = NMPattern.parse(pattern)
    table = lbc.candidates(pattern)
    assert table.shape == (math.comb(pattern.m, pattern.n), pattern.m)
    assert (table.sum(1) == pattern.n).all()
    assert len({tuple(row.tolist()) for row in table}) == len(table)
    assert (table.sum(0) == math.comb(pattern.m - 1, pattern.n - 1)).all()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_invariant_2_starts_as_the_dense_layer_bit_for_bit(pattern):
    dense = nn.Conv2d(16, 8, 3)
    layer = copy.deepcopy(dense)
    _, weight = attached(layer, pattern)
    torch.testing.assert_close(
        (weight.scores @ weight.table), torch.ones(weight.scores.shape[0], weight.table.shape[1])
    )
    assert weight.mask.all()
    x = torch.randn(2, 16, 5, 5)
    assert torch.equal(layer(x), dense(x))


def test_invariant_3_gradients_of_scores_and_weight():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 4, (1, 3))
    _, weight = attached(layer)
    with torch.no_grad():  # two candidates of the first groups are gone
        weight.alive[:5, :2] = False
        weight.mask.copy_(weight._union(weight.mask))
    original = layer.parametrizations.weight.original
    masked = (original * weight.mask).detach().requires_grad_()
    x = torch.randn(3, 8, 4, 6)
    functional.conv2d(x, masked, layer.bias).square().sum().backward()
    layer(x).square().sum().backward()
    torch.testing.assert_close(original.grad, masked.grad * weight.mask)
    expected = groups_of(masked.grad * original.detach(), 4) @ weight.table.T
    torch.testing.assert_close(weight.scores.grad, expected * weight.alive)
    assert (weight.scores.grad[:5, :2] == 0).all()


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(lambda: nn.Conv2d(8, 6, 3), id="3x3"),
        pytest.param(lambda: nn.Conv2d(8, 6, (1, 3), stride=2), id="1x3-strided"),
        pytest.param(lambda: nn.Conv2d(16, 6, (3, 2), groups=2), id="grouped"),
    ],
)
def test_invariant_4_removing_in_one_group_changes_only_its_positions(layer):
    layer = layer()
    _, weight = attached(layer)
    out, block, row, column = 3, 1, 0, layer.weight.shape[3] - 1
    blocks, height, width = layer.weight.shape[1] // 4, *layer.weight.shape[2:]
    group = ((out * height + row) * width + column) * blocks + block
    with torch.no_grad():
        weight.alive[group, 1:] = False  # leaves the candidate {0, 1}
        weight.mask.copy_(weight._union(weight.mask))
    expected = torch.ones_like(weight.mask)
    expected[out, 4 * block + 2 : 4 * block + 4, row, column] = False
    assert torch.equal(weight.mask, expected)


@pytest.mark.parametrize("pattern", ["2:4", "2:8"])
def test_invariants_5_and_8_survivors_follow_the_schedule_and_are_nested(pattern):
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer, pattern, total_steps=16)
    count, n = weight.table.shape[0], NMPattern.parse(pattern).n
    alive, density = weight.alive.clone(), 1.0
    for step in train(sparse, layer, 16):
        left = lbc.survivors(step + 1, end_step=8, count=count)
        assert (weight.alive.sum(1) == left).all()
        assert not (weight.alive & ~alive).any(), "what was removed stays removed"
        now = weight.mask.float().mean().item()
        assert now <= density
        assert (groups_of(weight.mask, weight.table.shape[1]).sum(1) >= n).all()
        if pattern == "2:4" and left >= 4:
            assert now == 1.0
        alive, density = weight.alive.clone(), now
    assert left == 1


@pytest.mark.parametrize(
    ("count", "end", "exponent", "table"),
    [
        pytest.param(6, 60, 3, {0: 6, 5: 5, 10: 4, 16: 3, 25: 2, 60: 1}, id="2:4"),
        pytest.param(4, 60, 3, {0: 4, 8: 3, 19: 2, 60: 1}, id="1:4"),
        pytest.param(28, 60, 3, {0: 28, 22: 8, 29: 5, 35: 3, 41: 2, 60: 1}, id="2:8"),
        pytest.param(70, 60, 3, {0: 70, 1: 67, 33: 8, 42: 3, 46: 2, 60: 1}, id="4:8"),
        pytest.param(16, 60, 3, {0: 16, 2: 15, 14: 8, 25: 4, 36: 2, 60: 1}, id="1:16"),
        pytest.param(6, 200, 4, {11: 5, 24: 4, 41: 3, 67: 2, 200: 1}, id="2:4-vision-transformer"),
    ],
)
def test_invariant_6_survivors_match_the_published_schedule(count, end, exponent, table):
    for step, left in table.items():
        assert lbc.survivors(step, end_step=end, count=count, exponent=exponent) == left
    assert lbc.survivors(-3, end_step=end, count=count, exponent=exponent) == count
    assert lbc.survivors(end + 7, end_step=end, count=count, exponent=exponent) == 1


def test_invariants_7_and_11_after_the_schedule_the_mask_is_exact_and_frozen():
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer, total_steps=12)
    masks = []
    for _ in train(sparse, layer, 12):
        # What an evaluation sees now is what the next training forward sees.
        layer.eval()
        seen = layer.weight.detach() != 0
        layer.train()
        assert torch.equal(seen, layer.weight.detach() != 0)
        assert torch.equal(seen, weight.mask)
        masks.append(weight.mask.clone())
    assert (groups_of(masks[5], 4).sum(1) == 2).all()
    assert all(torch.equal(mask, masks[5]) for mask in masks[5:])
    sparse.finalize()
    assert (layer.weight == 0).float().mean() == 0.5


def test_invariant_9_the_lowest_signed_score_goes_first_and_candidate_order_does_not_matter():
    torch.manual_seed(0)
    scores = torch.randn(8, 6) * 3
    masks = []
    for order in (list(range(6)), [4, 0, 5, 2, 1, 3]):
        layer = nn.Linear(16, 2)
        _, weight = attached(layer, total_steps=8)
        with torch.no_grad():
            weight.scores.copy_(scores[:, order])
            weight.table.copy_(weight.table[order])
        weight.updates = 2  # r = 4 of 6
        weight.refresh(layer.parametrizations.weight.original)
        lowest = weight.scores.detach().argsort(dim=1)[:, : 6 - lbc.survivors(2, end_step=4, count=6)]
        assert not weight.alive.gather(1, lowest).any()
        masks.append(weight.mask.clone())
    assert torch.equal(*masks)


def test_invariant_10_scaling_a_groups_scores_changes_nothing():
    torch.manual_seed(0)
    scores, alive = torch.randn(8, 6), []
    for scale in (1.0, 17.0):
        layer = nn.Linear(16, 2)
        _, weight = attached(layer, total_steps=8)
        with torch.no_grad():
            weight.scores.copy_(scores)
            weight.scores[3] *= scale
        weight.updates = 2
        weight.refresh(layer.parametrizations.weight.original)
        alive.append(weight.alive.clone())
    assert torch.equal(*alive)


def test_invariant_11_dead_candidates_stay_dead_though_momentum_moves_their_scores():
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer, total_steps=20)
    dead = None
    for step in train(sparse, layer, 10, weight_decay=0.1):
        if step == 4:
            dead = (~weight.alive).clone()
        if step > 4:
            assert not weight.alive[dead].any()
    assert dead.any()


def test_invariant_12_everything_kept_needs_no_removal():
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer, "4:4")
    assert weight.table.shape == (1, 4)
    assert weight.mask.all()
    sparse.finalize()
    assert (layer.weight != 0).all()


def test_invariant_12_with_one_kept_a_candidate_is_a_weight():
    assert torch.equal(lbc.candidates(NMPattern(1, 4)), torch.eye(4))


def test_invariant_12_ineligible_layers_stay_dense_and_are_reported():
    model = nn.Sequential(nn.Linear(6, 16), nn.Linear(16, 4))
    sparse = sparsify(model, method="lbc", total_steps=4, min_channels=1)
    assert sparse.plan.get("0.weight").reason == "6 input channels are not a multiple of 4"


@pytest.mark.parametrize("at", [3, 9], ids=["mid-schedule", "after-it"])
def test_invariant_13_state_round_trip_resumes_bit_for_bit(at):
    def run(stop=None, state=None):
        torch.manual_seed(0)
        layer = nn.Linear(16, 8)
        sparse, weight = attached(layer, total_steps=14)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        sparse.attach(optimizer)
        first = 0
        if state is not None:
            layer.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            first = at
            assert weight.updates == at
        for step in range(first, 14):
            if step == stop:
                return copy.deepcopy({"model": layer.state_dict(), "optimizer": optimizer.state_dict()})
            optimizer.zero_grad()
            layer(
                torch.randn(6, 16, generator=torch.Generator().manual_seed(step))
            ).square().mean().backward()
            optimizer.step()
        x = torch.randn(6, 16)
        before = layer(x)
        sparse.finalize()
        torch.testing.assert_close(layer(x), before, rtol=0, atol=0)
        return layer.weight.detach()

    whole = run()
    resumed = run(state=run(stop=at))
    assert torch.equal(whole, resumed)
    assert check(resumed.numpy(), NMPattern(2, 4), axis=1).holds


def test_invariant_14_finds_most_supports_of_a_sparse_teacher():
    torch.manual_seed(0)
    true = torch.zeros(8, 32)
    for row, start in itertools.product(range(8), range(0, 32, 4)):
        chosen = torch.randperm(4)[:2]
        true[row, start + chosen] = torch.randn(2).sign() * (0.5 + torch.rand(2))
    layer = nn.Linear(32, 8, bias=False)
    sparse, weight = attached(layer, total_steps=400)
    # No momentum: a score sums g W along the weight's path, and overshooting gives it the wrong sign.
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.05)
    sparse.attach(optimizer)
    for _ in range(400):
        x = torch.randn(64, 32)
        optimizer.zero_grad()
        functional.mse_loss(layer(x), x @ true.T).mul(8).backward()
        optimizer.step()
    assert (weight.mask == (true != 0)).float().mean() > 0.95


def test_invariant_15_scores_stay_float32_under_autocast_and_low_precision_weights():
    layer = nn.Linear(16, 8)
    _, weight = attached(layer)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(6, 16)).float().square().mean().backward()
    assert weight.scores.dtype == weight.scores.grad.dtype == torch.float32
    half = nn.Linear(16, 8).bfloat16()
    _, weight = attached(half)
    half(torch.randn(6, 16).bfloat16()).square().mean().backward()
    assert weight.scores.grad.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_invariant_15_scores_stay_float32_when_the_model_is_cast_while_it_trains(dtype):
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer)
    list(train(sparse, layer, 2))
    scores, parameter = weight.scores.detach().clone(), weight.scores
    layer(torch.randn(6, 16)).square().mean().backward()
    layer.to(dtype)
    assert layer.parametrizations.weight.original.dtype == dtype
    assert weight.scores is parameter, "the optimizer's"
    assert torch.equal(weight.scores, scores), "to the bit"
    assert weight.scores.grad.dtype == torch.float32
    layer(torch.randn(6, 16, dtype=dtype)).square().mean().backward()
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-6)
    sparse.attach(optimizer)
    for _ in range(6):
        optimizer.step()
    assert (groups_of(weight.mask, 4).sum(1) == 2).all()


@pytest.mark.parametrize(("pattern", "bits"), [("4:4", 0), ("1:4", 2), ("2:4", 3), ("2:8", 5), ("4:8", 7)])
def test_winners_are_packed_into_ceil_log2_bits(pattern, bits):
    count = len(lbc.candidates(NMPattern.parse(pattern)))
    winners = torch.randint(count, (37,), generator=torch.Generator().manual_seed(0))
    alive = functional.one_hot(winners, count).bool()
    packed = lbc.pack_winners(alive)
    assert packed.dtype == torch.uint8
    assert packed.numel() == math.ceil(37 * bits / 8)
    assert torch.equal(lbc.unpack_winners(packed, groups=37, count=count), alive)


def test_a_finished_state_keeps_the_winner_in_place_of_scores(monkeypatch):
    monkeypatch.delitem(sys.modules, "torch.distributed.checkpoint", raising=False)
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer)
    assert "parametrizations.weight.0.scores" in layer.state_dict()
    for _ in train(sparse, layer, 8):
        pass
    state = copy.deepcopy(layer.state_dict())
    found = [k.rpartition(".")[2] for k in state if "parametrizations" in k]
    assert sorted(found) == ["_extra_state", "original", "winner"]
    other = nn.Linear(16, 8)
    _, loaded = attached(other)
    other.load_state_dict(state)
    assert torch.equal(loaded.mask, weight.mask)
    assert not loaded.scores.requires_grad


def test_scores_are_trained_until_one_survives():
    layer = nn.Linear(16, 8)
    sparse, weight = attached(layer, total_steps=8)
    assert any(p is weight.scores for p in layer.parameters())
    trained = [weight.scores.requires_grad for _ in train(sparse, layer, 8)]
    assert trained == [True] * 3 + [False] * 5


def test_refuses_patterns_with_too_many_combinations():
    with pytest.raises(
        SparsifyError, match=r"^weight: 4:16 has 1820 combinations.*max_candidates=256.*sr-ste"
    ):
        sparsify(nn.Linear(16, 8), method="lbc", pattern="4:16", total_steps=8)


def test_refuses_to_finalise_before_one_survives():
    layer = nn.Linear(16, 8)
    sparse, _ = attached(layer)
    with pytest.raises(
        SparsifyError, match=r"does not hold 2:4 yet: 6 candidates per group are left at step 0, one after 4"
    ):
        sparse.finalize()


def test_finalize_says_that_scores_were_frozen_with_their_layer_and_not_before_it():
    layer, head = nn.Linear(16, 8), nn.LayerNorm(8)

    def steps(*, late):
        model = nn.Sequential(copy.deepcopy(layer), copy.deepcopy(head))
        model[0].requires_grad_(late)
        sparse = sparsify(model, method="lbc", pattern="2:4", total_steps=4)
        if late:
            model[0].requires_grad_(False)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        sparse.attach(optimizer)
        for _ in range(4):
            model(torch.ones(2, 16)).sum().backward()
            optimizer.step()
        sparse.finalize()

    steps(late=False)
    with pytest.raises(
        SparsifyError, match=r"at step 0, one after 2; no attached optimizer holds a sparse weight"
    ):
        steps(late=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"end": 0.0}, "end must be above 0"), ({"exponent": 0.0}, "exponent must be positive")],
)
def test_refuses_a_schedule_that_makes_no_sense(options, message):
    with pytest.raises(SparsifyError, match=message):
        attached(nn.Linear(16, 8), **options)
