"""Schedules of the methods that follow the weight: freezing, the ramp, and a decay that is scaled to the run."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.methods.mask_schedule import still_to_go
from nm2trt.sparsity.sparsify import sparsify

STEPS = 20
METHODS = ["sr-ste", "ste", "spre"]


def net():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16))


def train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        x = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(step))
        (model(x) - 1).square().mean().backward()
        optimizer.step()


def attached(method="sr-ste", lr=0.1, **options):
    model = net()
    sparse = sparsify(model, method=method, total_steps=STEPS, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    sparse.attach(optimizer)
    return model, sparse, optimizer


@pytest.mark.parametrize("method", METHODS)
def test_frozen_masks_stay_for_the_last_share_and_move_before_it(method):
    model, sparse, optimizer = attached(method, freeze=0.25, pattern="1:4")
    seen = []
    for step in range(STEPS):
        train(model, optimizer, [step])
        seen.append(sparse.masks())
    for name in seen[0]:
        # 15 of 20 steps set the mask; from then on the weights move and the mask does not.
        assert all(torch.equal(later[name], seen[14][name]) for later in seen[15:])
        assert any(not torch.equal(later[name], seen[0][name]) for later in seen[1:15])
    assert all(layer["frozen"] for layer in sparse.report()["layers"].values())
    weight = sparse.weights[-1]
    current = magnitude_mask(weight.original.detach(), NMPattern(1, 4), axis=1)
    assert not torch.equal(weight.sparse.mask, current), "the test froze nothing"
    sparse.refresh()  # refreshing does not thaw
    assert torch.equal(weight.sparse.mask, seen[-1][weight.name])
    sparse.finalize()


@pytest.mark.parametrize("method", METHODS)
def test_a_ramp_starts_dense_and_lets_weights_come_back(method):
    model, sparse, optimizer = attached(method, ramp=0.5, pattern="1:8")
    with pytest.raises(
        SparsifyError, match=r"does not hold 1:8 yet: gradual pruning ends at step 10, and 0 were taken"
    ):
        sparse.finalize()
    kept, masks = [], []
    for step in range(STEPS):
        train(model, optimizer, [step])
        mask = sparse.masks()["4.weight"]
        kept.append(int(mask.sum()) * 8 // mask.numel())
        masks.append(mask)
    # 1 + ceil(7 (1 - t / 10)^3), by hand
    assert kept == [7, 5, 4, 3, 2, 2, 2, 2, 2, 1] + [1] * 10
    assert any((b & ~a).any() for a, b in pairwise(masks[10:])), "nothing came back"
    sparse.finalize()


@pytest.mark.parametrize("at", [3, 12, 18])
@pytest.mark.parametrize("method", METHODS)
def test_a_schedule_resumes_bit_for_bit(method, at, tmp_path):
    options = {"freeze": 0.25, "ramp": 0.3, **({} if method == "ste" else {"lambda_w": "auto"})}
    model, sparse, optimizer = attached(method, **options)
    train(model, optimizer, range(at))
    torch.save([model.state_dict(), optimizer.state_dict(), sparse.state_dict()], tmp_path / "state.pt")
    train(model, optimizer, range(at, STEPS))
    report, whole = sparse.report(), sparse.finalize().state_dict()
    model, sparse, optimizer = attached(method, **options)
    for part, state in zip((model, optimizer, sparse), torch.load(tmp_path / "state.pt"), strict=True):
        part.load_state_dict(state)
    train(model, optimizer, range(at, STEPS))
    assert sparse.report() == report
    for key, value in sparse.finalize().state_dict().items():
        assert torch.equal(value, whole[key]), key


SCHEDULERS = {
    "constant": (lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1.0), 0.99),
    "cosine": (lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS), 0.85),
    "linear": (lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 1e-3, STEPS), 0.85),
    "one cycle": (
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=STEPS + 1, cycle_momentum=False),
        0.85,
    ),
    "step": (lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [8, 14]), 0.6),
}


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_auto_decays_pruned_entries_by_about_the_stated_efoldings(name, decoupled):
    """Oracle: weights without a gradient of their own, whose pruned entries only decay."""
    make, least = SCHEDULERS[name]
    torch.manual_seed(0)
    model = nn.Linear(64, 16, bias=False)
    sparse = sparsify(model, lambda_w="auto", efoldings=1.0, decoupled=decoupled, total_steps=STEPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.0)
    sparse.attach(optimizer)
    scheduler = make(optimizer)
    weight = sparse.weights[0].original
    start, mask = weight.detach().clone(), sparse.masks()["weight"]
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(torch.ones(1, 64)).sum() * 0).backward()
        optimizer.step()
        scheduler.step()
    assert torch.equal(weight[mask], start[mask])
    shrunk = (weight[~mask] / start[~mask]).mean().item()
    told = sparse.report()["layers"]["weight"]["efoldings"]
    assert least <= told <= 1.0 + 1e-6
    # Each step takes off a share d, where the continuous law takes off 1 - exp(-d).
    assert shrunk == pytest.approx(math.exp(-told), abs=0.06)


def test_efoldings_of_a_plain_run_are_the_sum_of_rates():
    model, sparse, optimizer = attached(lambda_w=3e-3)
    train(model, optimizer, range(7))
    for layer in sparse.report()["layers"].values():
        assert layer["efoldings"] == pytest.approx(7 * 0.1 / (1 - 0.9) * 3e-3)


def test_efoldings_are_not_told_under_adam():
    model = net()
    sparse = sparsify(model)
    optimizer = torch.optim.AdamW(model.parameters())
    sparse.attach(optimizer)
    train(model, optimizer, range(2))
    assert "efoldings" not in sparse.report()["layers"]["4.weight"]


def test_a_branch_gamma_of_zero_leaves_the_model_as_it_was_at_the_start():
    model = net()
    x = torch.randn(4, 16, 4, 4)
    plain = net()
    sparsify(plain, method="sr-ste")
    sparsify(model, method="spre", branch_gamma=0.0)
    torch.testing.assert_close(model(x), plain(x))
    again = net()
    sparsify(again, method="spre")
    assert not torch.allclose(again(x), plain(x))


REFUSED = {
    "overlap": ({"freeze": 0.6, "ramp": 0.5}, r"ramp=0\.5 and freeze=0\.6 overlap"),
    "range": ({"freeze": 1.5}, r"freeze is a share of total_steps, 0 to 1, not 1\.5"),
    "freeze too short": (
        {"freeze": 0.1, "total_steps": 4},
        r"total_steps=4 is too small: freeze=0\.1 of it is",
    ),
    "ramp too short": ({"ramp": 0.1, "total_steps": 4}, r"total_steps=4 is too small: ramp=0\.1 of it is"),
    "no length": ({"freeze": 0.1, "total_steps": None}, r"has a schedule: give total_steps"),
    "auto without length": ({"lambda_w": "auto", "total_steps": None}, r"has a schedule: give total_steps"),
    "efoldings": ({"efoldings": 0.0}, r"efoldings must be a positive number, not 0\.0"),
    "lbc": ({"method": "lbc", "total_steps": 1, "end": 0.3}, r"total_steps=1 is too small: end=0\.3"),
    "gradual": (
        {"method": "magnitude", "gradual": True, "total_steps": 1, "end": 0.3},
        r"total_steps=1 is too",
    ),
    "spre ramp": (
        {"method": "spre", "base": "magnitude", "ramp": 0.5},
        r'the masks of base="magnitude" stay',
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_told_and_leave_the_model_alone(case):
    options, message = REFUSED[case]
    model = net()
    before = list(model.state_dict())
    with pytest.raises(SparsifyError, match=message):
        sparsify(model, **{"total_steps": STEPS, **options})
    assert list(model.state_dict()) == before


def test_auto_under_adam_is_refused_unless_decoupled():
    model = net()
    sparse = sparsify(model, lambda_w="auto", total_steps=STEPS)
    with pytest.raises(SparsifyError, match=r'lambda_w="auto" counts on SGD.*decoupled=True'):
        sparse.attach(torch.optim.AdamW(model.parameters()))
    model = net()
    sparse = sparsify(model, lambda_w="auto", decoupled=True, total_steps=STEPS)
    sparse.attach(torch.optim.AdamW(model.parameters()))


@pytest.mark.parametrize("kind", [torch.optim.Rprop, torch.optim.LBFGS], ids=lambda kind: kind.__name__)
def test_auto_is_refused_under_optimizers_whose_step_is_no_sum_of_gradients(kind):
    model = net()
    sparse = sparsify(model, lambda_w="auto", total_steps=STEPS)
    with pytest.raises(SparsifyError, match=r'lambda_w="auto" counts on SGD'):
        sparse.attach(kind(model.parameters()))


@pytest.mark.parametrize(("exponent", "count"), [(3, 5), (3, 27), (4, 69)])
@pytest.mark.parametrize("last", [3, 27, 30, 81, 100_000])
def test_what_is_still_to_go_is_the_formula_in_whole_numbers(exponent, count, last):
    for step in {*range(-1, 31), *range(last - 60, last + 2)}:
        left = last - min(max(step, 0), last)
        wanted = -(-count * left**exponent // last**exponent)
        assert still_to_go(count, step, last, float(exponent)) == wanted, step


@pytest.mark.parametrize(("ramp", "freeze", "total"), [(0.5, 0.5, 3), (0.5, 0.5, 7), (0.3, 0.7, 5)])
def test_shares_that_are_both_rounded_up_freeze_no_mask_before_the_pattern_holds(ramp, freeze, total):
    model = net()
    sparse = sparsify(model, method="ste", ramp=ramp, freeze=freeze, total_steps=total)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    train(model, optimizer, range(total))
    sparse.finalize()
    assert (model[4].weight == 0).float().mean() == 0.5
