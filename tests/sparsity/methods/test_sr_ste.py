"""SR-STE and STE: each numbered invariant of the method, against formulas written out here."""

import copy
import itertools

import pytest
import torch
from torch import nn
from torch.nn import functional

from nm2trt.errors import SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.sparsify import sparsify

LAYERS = {
    "conv-1x1": (lambda m: nn.Conv2d(2 * m, 6, 1), lambda m: torch.randn(2, 2 * m, 4, 4)),
    "conv-3x3": (lambda m: nn.Conv2d(2 * m, 6, 3), lambda m: torch.randn(2, 2 * m, 5, 5)),
    "linear": (lambda m: nn.Linear(2 * m, 6), lambda m: torch.randn(3, 2 * m)),
}


def brute_force_mask(weight, pattern):
    """The best N of each M consecutive elements of axis 1, by trying every choice."""
    lines = weight.detach().abs().movedim(1, -1)
    mask = torch.zeros_like(lines, dtype=torch.bool)
    for where in itertools.product(*(range(size) for size in lines.shape[:-1])):
        for start in range(0, lines.shape[-1], pattern.m):
            run = lines[where][start : start + pattern.m].tolist()
            best = max(
                itertools.combinations(range(pattern.m), pattern.n), key=lambda c: sum(run[i] for i in c)
            )
            mask[where][[start + i for i in best]] = True
    return mask.movedim(-1, 1)


def original(layer, name="weight"):
    return layer.parametrizations[name].original


def mask_of(layer, name="weight"):
    return layer.parametrizations[name][0].mask


def linear(method="sr-ste", pattern="2:4", size=(16, 8), **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(*size)).double()
    return model, sparsify(model, method=method, pattern=pattern, **options)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "2:16"])
def test_invariant_1_each_group_keeps_its_n_largest(layer, pattern):
    pattern = NMPattern.parse(pattern)
    torch.manual_seed(0)
    model = LAYERS[layer][0](pattern.m)
    sparsify(model, pattern=pattern, min_channels=1)
    assert torch.equal(mask_of(model), brute_force_mask(original(model), pattern))


def test_invariant_2_groups_are_input_channels_not_kernel_positions():
    # One input channel of four is large at every kernel position: along channels it and the first of the
    # others are kept, while flat OIHW groups would hold four kernel positions of one channel.
    weight = torch.ones(1, 4, 2, 2)
    weight[:, 3] = 9
    model = nn.Conv2d(4, 1, 2)
    model.weight.data.copy_(weight)
    sparsify(model, min_channels=1)
    assert mask_of(model)[0, :, 0, 0].tolist() == [True, False, False, True]


def test_invariant_3_zeros_still_give_n_a_group_and_the_same_each_time():
    model = nn.Linear(16, 4)
    model.weight.data.zero_()
    sparse = sparsify(model)
    first = mask_of(model).clone()
    sparse.refresh()
    assert torch.equal(first, mask_of(model))
    assert first.view(4, 4, 4).tolist() == [[[True, True, False, False]] * 4] * 4


def test_invariant_4_three_input_channels_stay_dense_with_the_reason():
    model = nn.Sequential(nn.Conv2d(3, 16, 7), nn.Conv2d(16, 16, 3))
    sparse = sparsify(model, min_channels=1)
    assert sparse.plan.get("0.weight").pattern is None
    assert sparse.plan.get("0.weight").reason == "3 input channels are not a multiple of 4"


@pytest.mark.parametrize("layer", LAYERS)
def test_invariant_5_gradient_is_that_of_the_masked_weight_plus_the_decay(layer):
    torch.manual_seed(0)
    make, data = LAYERS[layer]
    model, x = make(8).double(), data(8).double()
    reference = copy.deepcopy(model)
    sparse = sparsify(model, lambda_w=0.3)
    mask = mask_of(model).clone()
    masked = (original(model).detach() * mask).requires_grad_()
    torch.func.functional_call(reference, {"weight": masked}, (x,)).square().sum().backward()
    seen = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparse.attach(optimizer)
    optimizer.register_step_pre_hook(lambda *_: seen.update(grad=original(model).grad.clone()))
    model(x).square().sum().backward()
    optimizer.step()
    expected = masked.grad + 0.3 * (original(model).detach() * ~mask)
    torch.testing.assert_close(seen["grad"], expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("method", ["ste", "sr-ste"])
def test_invariant_6_pruned_entries_get_the_task_gradient(method):
    model, _ = linear(method)
    model(torch.randn(5, 16).double()).square().sum().backward()
    grad = original(model[0]).grad
    assert (grad[~mask_of(model[0])] != 0).all()


def test_invariant_6_lambda_zero_is_plain_ste_and_otherwise_it_is_not():
    weights = {}
    for name, method, options in (
        ("ste", "ste", {}),
        ("zero", "sr-ste", {"lambda_w": 0.0}),
        ("decayed", "sr-ste", {"lambda_w": 0.1}),
    ):
        model, sparse = linear(method, **options)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparse.attach(optimizer)
        torch.manual_seed(1)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(5, 16).double()).square().mean().backward()
            optimizer.step()
        weights[name] = original(model[0]).detach().clone()
    assert torch.equal(weights["ste"], weights["zero"])
    assert not torch.allclose(weights["ste"], weights["decayed"])


@pytest.mark.parametrize("maximize", [False, True])
def test_invariant_7_three_sgd_steps_match_the_closed_form(maximize):
    sign = -1 if maximize else 1
    rate, momentum, decay, strength = 0.1, 0.9, 0.01, 0.2
    model, sparse = linear(lambda_w=strength)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=momentum, weight_decay=decay, maximize=maximize
    )
    sparse.attach(optimizer)
    weight = original(model[0]).detach().clone()
    bias = model[0].bias.detach().clone()
    velocity, bias_velocity = torch.zeros_like(weight), torch.zeros_like(bias)
    torch.manual_seed(1)
    for _ in range(3):
        x = torch.randn(5, 16).double()
        optimizer.zero_grad()
        model(x).square().sum().mul(0.01 * sign).backward()
        optimizer.step()

        mask = brute_force_mask(weight, NMPattern(2, 4))
        masked = (weight * mask).requires_grad_()
        leaf = bias.clone().requires_grad_()
        functional.linear(x, masked, leaf).square().sum().mul(0.01).backward()
        velocity = momentum * velocity + masked.grad + strength * (weight * ~mask) + decay * weight
        bias_velocity = momentum * bias_velocity + leaf.grad + decay * bias
        weight, bias = weight - rate * velocity, bias - rate * bias_velocity
        torch.testing.assert_close(original(model[0]).detach(), weight, rtol=1e-12, atol=1e-14)


def test_invariant_8_without_task_gradient_pruned_entries_shrink_and_kept_ones_decay_only_by_wd():
    model, sparse = linear(lambda_w=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=0.1)
    sparse.attach(optimizer)
    start, mask = original(model[0]).detach().clone(), mask_of(model[0]).clone()
    for step in range(1, 4):
        optimizer.zero_grad()
        (model(torch.randn(5, 16).double()).sum() * 0).backward()
        before = original(model[0]).detach().clone()
        optimizer.step()
        now = original(model[0]).detach()
        assert (now[~mask].abs() < before[~mask].abs()).all()
        torch.testing.assert_close(now[mask], start[mask] * 0.99**step)
        torch.testing.assert_close(now[~mask], start[~mask] * (1 - 0.1 * 0.6) ** step)


def test_invariant_10_input_gradient_uses_the_masked_weight_and_the_bias_is_added():
    model, _ = linear()
    x = torch.randn(5, 16).double().requires_grad_()
    masked = (original(model[0]) * mask_of(model[0])).detach()
    y = model(x)
    torch.testing.assert_close(y, x @ masked.T + model[0].bias)
    y.sum().backward()
    torch.testing.assert_close(x.grad, masked.sum(0).expand(5, 16))


@pytest.mark.parametrize("layer", LAYERS)
def test_invariant_12_finalised_layer_computes_the_same_and_holds_the_pattern(layer):
    torch.manual_seed(0)
    make, data = LAYERS[layer]
    model, x = make(8), data(8)
    sparse = sparsify(model)
    before = model(x)
    sparse.finalize()
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    weight = model.weight.detach()
    assert check(weight.numpy(), NMPattern(2, 4), axis=1).holds
    again = sparsify(model)
    assert torch.equal(model.weight.detach(), weight), "masking a sparse weight again changes nothing"
    again.finalize()


def mean_sad(method, seed, **options):
    """Mean normalised step-to-step SAD of the second half of a short noisy regression."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 8))
    teacher = nn.Linear(32, 8)
    sparse = sparsify(model, method=method, **options)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    sparse.attach(optimizer)
    flips = []
    for step in range(120):
        x = torch.randn(32, 32)
        loss = functional.mse_loss(model(x), teacher(x).detach() + 0.3 * torch.randn(32, 8))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step >= 60:
            flips.append(sparse.report()["sad_step"]["normalised"])
    return sum(flips) / len(flips)


def test_invariant_13_sr_ste_flips_fewer_weights_than_ste_on_every_seed():
    # lambda is larger than the default because the run is short: 120 steps instead of 600,000.
    for seed in range(3):
        assert mean_sad("sr-ste", seed, lambda_w=0.05) < mean_sad("ste", seed)


def test_decoupled_decay_shrinks_by_lr_times_lambda_whatever_the_optimizer():
    model, sparse = linear(lambda_w=0.5, decoupled=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
    sparse.attach(optimizer)
    start, mask = original(model[0]).detach().clone(), mask_of(model[0]).clone()
    (model(torch.randn(5, 16).double()).sum() * 0).backward()
    optimizer.step()
    expected = torch.where(mask, start, start * (1 - 0.1 * 0.5))
    torch.testing.assert_close(original(model[0]).detach(), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_a_lambda_that_is_no_number(value):
    with pytest.raises(SparsifyError, match=r"lambda_w must be a finite number.*default is 2e-4"):
        sparsify(nn.Linear(16, 4), lambda_w=value)
