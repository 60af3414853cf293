"""FCPTS: each numbered invariant of the method, its three forms, and one sentence for each mistake."""

import contextlib
import copy
import importlib
import itertools
import math
import multiprocessing
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nm2trt
from nm2trt.errors import DataError, SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.calibration_batches import read_batches
from nm2trt.sparsity.core.state_keys import sparse_weights
from nm2trt.sparsity.fcpts import session as fcpts
from nm2trt.sparsity.fcpts import thresholds
from nm2trt.sparsity.fcpts.distill import Distiller, distillation_loss
from nm2trt.sparsity.fcpts.options import FcptsOptions
from nm2trt.sparsity.fcpts.thresholds import (
    Bridge,
    ThresholdWeight,
    exact_masks,
    histogram_density,
    kernel_density,
    rate_loss,
)
from nm2trt.sparsity.sparsify import sparsify

ANYWHERE = NMPattern(1, 1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.conv = nn.Conv2d(16, 32, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(32)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(32, 6)

    def forward(self, x):
        x = torch.relu(self.bn1(self.stem(x)))
        x = torch.relu(self.bn2(self.conv(self.depthwise(x))))
        return self.fc(self.drop(x.mean((2, 3))))


def net():
    torch.manual_seed(0)
    model = Net()
    with torch.no_grad():
        for step in range(4):
            model(torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(step)))
    return model.eval()


def batches(count=4, size=8):
    return [torch.randn(size, 3, 6, 6, generator=torch.Generator().manual_seed(10 + i)) for i in range(count)]


def pruned(model=None, **arguments):
    model = net() if model is None else model
    arguments = {"calibration": batches(), "steps": 8, **arguments}
    return model, sparsify(model, method="fcpts", **arguments)


def layer(weight, raw=0.0):
    sparse = ThresholdWeight(weight, ANYWHERE, axis=1, options=None)
    with torch.no_grad():
        sparse.raw.fill_(raw)
    return sparse


def logit(t):
    return math.log(t / (1 - t))


def test_invariant_1_rate_is_the_brute_force_count():
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(0)) * 0.2
    sparse = layer(weight)
    found = []
    for t in (0.001, 0.05, 0.1, 0.3, 0.9):
        with torch.no_grad():
            sparse.raw.fill_(logit(t))
        exact = float(sparse.threshold.detach())
        found.append(float(sparse.rate(weight, Bridge()).detach()))
        assert found[-1] == sum(abs(w) < exact for w in weight.flatten().tolist()) / 600
    assert found == sorted(found)
    with torch.no_grad():
        sparse.raw.fill_(-1000.0)  # t = 0
    assert float(sparse.rate(weight, Bridge()).detach()) == 0
    with torch.no_grad():
        sparse.raw.fill_(40.0)  # t = 1, above every magnitude
    assert float(sparse.rate(weight, Bridge()).detach()) == 1


DISTRIBUTIONS = {
    "gaussian": lambda g: torch.randn(200_000, generator=g) * 0.05,
    "laplace": lambda g: (
        (torch.rand(200_000, generator=g).log() * 0.05) * (torch.rand(200_000, generator=g) - 0.5).sign()
    ),
    "uniform": lambda g: (torch.rand(200_000, generator=g) - 0.5) * 0.4,
}


@pytest.mark.parametrize(
    "bridge", [Bridge(), Bridge("gaussian"), Bridge(clip=0.999)], ids=["histogram", "kernel", "clipped"]
)
@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_invariant_2_bridge_follows_the_counts_finite_difference(kind, bridge):
    weight = DISTRIBUTIONS[kind](torch.Generator().manual_seed(1))
    for t in (0.02, 0.05, 0.08):
        h = 0.008
        count = [(weight.abs() < t + side * h).double().mean() for side in (1, -1)]
        slope = float(count[0] - count[1]) / (2 * h)
        density = float(bridge.density(weight, torch.tensor(t, dtype=torch.float64)))
        assert density == pytest.approx(slope, rel=0.15)
        assert density >= 0
    beyond = weight.abs().max().double() * 1.01
    assert float(bridge.density(weight, beyond)) == 0


def test_invariant_2_gradient_runs_through_the_sigmoid_and_never_to_the_weights():
    weight = (torch.randn(400, generator=torch.Generator().manual_seed(2)) * 0.1).requires_grad_()
    sparse = layer(weight.detach(), logit(0.08))
    sparse.rate(weight, Bridge()).backward()
    t = float(sparse.threshold.detach())
    density = float(histogram_density(weight, torch.tensor(t)))
    assert float(sparse.raw.grad) == pytest.approx(density * t * (1 - t), rel=1e-5)
    assert weight.grad is None
    # The chain itself, by finite differences on a smooth stand-in for the count.
    smooth = lambda raw: torch.sigmoid(20 * (sparse.scale * torch.sigmoid(raw) - 0.3))  # noqa: E731
    assert torch.autograd.gradcheck(smooth, torch.tensor(0.1, dtype=torch.float64, requires_grad=True))


def test_invariant_3_histogram_has_unit_area_and_symmetric_weights_count_twice():
    weight = torch.randn(50_000, generator=torch.Generator().manual_seed(3))
    weight = torch.cat([weight, -weight])
    low, high = float(weight.min()), float(weight.max())
    width = (high - low) / 100
    middles = [low + (i + 0.5) * width for i in range(100)]
    right = [m for m in middles if m > 0]
    area = sum(float(histogram_density(weight, torch.tensor(m))) * width for m in right)
    assert area == pytest.approx(1, abs=1e-3)  # p(t) + p(-t) over t > 0
    one_side = float((weight > 0.48).float().mean() - (weight > 0.52).float().mean()) / 0.04
    assert float(histogram_density(weight, torch.tensor(0.5))) == pytest.approx(2 * one_side, rel=0.1)


@pytest.mark.parametrize(
    "weight",
    [torch.full((8, 8), 0.3), torch.zeros(4, 4), torch.tensor([[1.0, 0, 0, -5.0]])],
    ids=["constant", "zeros", "empty-bins"],
)
@pytest.mark.parametrize("density", [histogram_density, kernel_density], ids=lambda d: d.__name__)
def test_invariant_3_degenerate_tensors_give_no_nan(weight, density):
    for t in (0.0, 0.3, 2.5):
        assert math.isfinite(float(density(weight, torch.tensor(t, dtype=torch.float64))))


@pytest.mark.parametrize("live", [True, False], ids=["ste", "release"])
def test_invariant_4_threshold_gradient(live):
    # Within the straight-through sign's window, and under 1, so that t is the sigmoid itself.
    weight = (torch.rand(6, 8, dtype=torch.float64) - 0.5).requires_grad_()
    sparse = layer(weight.detach(), logit(0.2))
    sparse.live = live
    upstream = torch.randn(6, 8, dtype=torch.float64)
    out = sparse(weight)
    kept = weight.detach().abs() >= sparse.threshold.detach()
    assert torch.equal(out.detach(), weight.detach() * kept)
    out.backward(upstream)
    if not live:
        assert sparse.raw.grad is None
        torch.testing.assert_close(weight.grad, upstream * kept)
        return
    t = float(sparse.threshold.detach())
    expected = -0.5 * float((upstream * weight.detach()).sum()) * t * (1 - t)
    assert float(sparse.raw.grad) == pytest.approx(expected)
    torch.testing.assert_close(weight.grad, upstream * kept + 0.5 * weight.detach().abs() * upstream)


def test_invariant_4_a_tie_is_kept_whole():
    weight = torch.tensor([[0.5, -0.5, 0.25, 0.75]])
    sparse = layer(weight, 0.0)  # t = 0.5
    assert sparse(weight).tolist() == [[0.5, -0.5, 0.0, 0.75]]
    assert float(sparse.rate(weight, Bridge()).detach()) == 0.25


def test_invariant_5_rate_loss_has_one_sign_and_weighs_by_size():
    rates = [torch.tensor(r, dtype=torch.float64, requires_grad=True) for r in (0.2, 0.6)]
    sizes = [100, 300]
    for target, sign in ((0.9, -1), (0.1, 1)):
        for rate in rates:
            rate.grad = None
        rate_loss(rates, sizes, target).backward()
        assert [float(r.grad) for r in rates] == pytest.approx([sign * 0.25, sign * 0.75])
    for rate in rates:
        rate.grad = None
    met = rate_loss(rates, sizes, float(0.25 * 0.2 + 0.75 * 0.6))
    met.backward()
    assert float(met.detach()) == pytest.approx(0)
    exact = [torch.tensor(0.5, dtype=torch.float64, requires_grad=True)]
    rate_loss(exact, [8], 0.5).backward()
    assert float(exact[0].grad) == 0


# One from below and one from above; the others go up too.
@pytest.mark.parametrize(
    ("start", "target"),
    [
        (0.3, 0.9),
        (0.75, 0.5),
        *(pytest.param(start, t, marks=pytest.mark.slow) for start, t in ((0.3, 0.5), (0.75, 0.9))),
    ],
)
def test_invariant_6_thresholds_alone_reach_the_target(target, start):
    generator = torch.Generator().manual_seed(4)
    weights = [
        torch.randn(size, generator=generator) * std for size, std in ((2000, 0.05), (8000, 0.1), (500, 0.3))
    ]
    layers = [layer(weight) for weight in weights]
    for weight, sparse in zip(weights, layers, strict=True):
        sparse.prune_smallest(weight, round(start * weight.numel()))
    sizes = [weight.numel() for weight in weights]
    optimizer = torch.optim.SGD([sparse.raw for sparse in layers], lr=0.1, momentum=0.9)
    steps = 200
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        rates = [sparse.rate(weight, Bridge()) for sparse, weight in zip(layers, weights, strict=True)]
        rate_loss(rates, sizes, target).backward()
        optimizer.step()
        for sparse, weight in zip(layers, weights, strict=True):
            sparse.guard(weight)
    rates = [
        float(sparse.rate(weight, Bridge()).detach()) for sparse, weight in zip(layers, weights, strict=True)
    ]
    total = sum(rate * size for rate, size in zip(rates, sizes, strict=True)) / sum(sizes)
    assert abs(total - target) < 1e-3
    assert max(rates) < 1


def test_invariant_6_guard_holds_a_runaway_threshold():
    weight = torch.randn(1000, generator=torch.Generator().manual_seed(5))
    sparse = layer(weight, 30.0)
    assert sparse.guard(weight)
    assert 0.99 <= float(sparse.rate(weight, Bridge()).detach()) < 1
    assert not sparse.guard(weight)


@pytest.mark.parametrize("rate", [0.3, 0.7, 0.95])
def test_invariant_8_start_is_within_two_weights_of_the_allocation(rate):
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(6))
    sparse = layer(weight)
    sparse.prune_smallest(weight, round(rate * weight.numel()))
    assert (
        abs(float(sparse.rate(weight, Bridge()).detach()) * weight.numel() - round(rate * weight.numel()))
        <= 2
    )
    sparse.prune_smallest(weight, 0)
    assert float(sparse.rate(weight, Bridge()).detach()) * weight.numel() <= 1


@pytest.mark.parametrize("zeros", [0, 1, 999, 2500, 4000])
def test_invariant_9_exact_correction_counts_exactly_and_is_idempotent(zeros):
    generator = torch.Generator().manual_seed(7)
    weights = [
        torch.randn(40, 50, generator=generator) * 0.1,
        (torch.randn(30, 100, generator=generator)).round() / 4,
    ]
    layers = [layer(weight, logit(0.1)) for weight in weights]
    masks = exact_masks(weights, layers, zeros)
    assert sum(int((~mask).sum()) for mask in masks) == zeros
    again = exact_masks([w * m for w, m in zip(weights, masks, strict=True)], layers, zeros)
    assert all(torch.equal(a, b) for a, b in zip(masks, again, strict=True))
    for weight, mask in zip(weights, masks, strict=True):
        assert mask.any()
        if mask.all() or not (~mask).any():
            continue
        assert weight.abs()[mask].min() >= weight.abs()[~mask].max()


def test_invariant_10_without_pruning_the_loss_is_zero():
    model = net()
    distiller = Distiller(model, read_batches(batches(), max_samples=99), FcptsOptions().settings(0))
    assert distiller.loss() == pytest.approx(0, abs=1e-9)
    with torch.no_grad():
        model.fc.weight.mul_(3)
    assert distiller.loss() > 1e-4


def test_invariant_10_divergence_is_not_negative_and_means_what_it_says():
    generator = torch.Generator().manual_seed(8)
    for _ in range(20):
        a, b = torch.randn(2, 5, 7, generator=generator)
        loss = float(distillation_loss([a], [b], loss="kl", temperature=4.0))
        p, q = (functional.softmax(t / 4, 1).double().numpy() for t in (b, a))
        assert loss >= 0
        assert loss == pytest.approx(16 * float((p * np.log(p / q)).sum(1).mean()), rel=1e-3, abs=1e-5)
    assert float(distillation_loss([a], [b], loss="mse", temperature=4.0)) == pytest.approx(
        float(((a - b) ** 2).mean())
    )


def test_invariant_10_labels_are_never_touched():
    results = []
    for seed in (0, 1):
        labels = torch.randint(0, 6, (8,), generator=torch.Generator().manual_seed(seed))
        model, sparse = pruned(calibration=[(x, labels) for x in batches()])
        sparse.finalize()
        results.append(model.state_dict())
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key]), key


def test_invariant_10_the_teachers_outputs_are_those_of_the_dense_model_in_eval_mode():
    model = net()
    dense = copy.deepcopy(model)
    data = read_batches(batches(), max_samples=99)
    distiller = Distiller(model.train(), data, FcptsOptions().settings(3))
    kept = [tuple(t.clone() for t in targets) for targets in distiller.targets]
    for batch, targets in zip(data, kept, strict=True):
        assert torch.equal(targets[0], dense(*batch.args).detach())
    sparse = sparsify(model, method="fcpts", calibration=batches(), steps=3)
    sparse.finalize()
    assert model.training, "the mode is put back"
    for targets, now in zip(kept, distiller.targets, strict=True):
        assert torch.equal(targets[0], now[0])


@pytest.mark.parametrize(
    "arguments",
    [{"pattern": "2:4"}, {"pattern": "2:4", "rate": 0.3}, {"pattern": None, "rate": 0.7}],
    ids=["uniform", "menu", "unstructured"],
)
def test_invariant_11_masks_are_the_exported_zeros_and_outputs_stay(arguments, tmp_path):
    model, sparse = pruned(**arguments)
    x = batches()[0]
    before = model.eval()(x).detach()
    masks = {weight.name: weight.sparse.mask.clone() for weight in sparse.weights}
    assert sparse.finalize() is model
    torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    state = model.state_dict()
    for name, mask in masks.items():
        assert torch.equal(state[name] != 0, mask), name
    assert not [key for key in state if "parametrizations" in key]
    if "rate" not in arguments:
        return  # its file is one of a menu with one pattern
    nm2trt.export(model, x, tmp_path / "m.onnx", dynamic_batch=False)
    statuses = {v.weight: v.pattern for v in nm2trt.verify(tmp_path / "m.onnx").weights}
    assert "broken" not in statuses.values()
    assert ("holds" in statuses.values()) == (arguments["pattern"] is not None)


def test_invariant_12_every_layer_is_found_and_shared_ones_once():
    model = net()
    model.twin = nn.Linear(32, 6)
    model.twin.weight = model.fc.weight
    _, sparse = pruned(model, pattern=None, rate=0.6)
    assert [weight.name for weight in sparse.weights] == [
        "stem.weight",
        "depthwise.weight",
        "conv.weight",
        "fc.weight",
    ]
    assert all(entry.unstructured for entry in sparse.plan)
    report = sparse.report()
    total = sum(math.prod(entry.shape) for entry in sparse.plan)
    zeros = sum(int((~weight.sparse.mask).sum()) for weight in sparse.weights)
    assert zeros == round(0.6 * total)
    assert report["rate"] == pytest.approx(zeros / total)
    assert report["layers"]["conv.weight"]["pattern"] == "unstructured"


@pytest.mark.parametrize(
    ("cost", "rate"),
    [*(("rates", rate) for rate in (0.1, 0.3, 0.45, 0.6)), ("sensitivity", 0.3), ("sensitivity", 0.6)],
)
def test_invariant_13_menu_meets_the_rate_with_whole_patterns(rate, cost):
    model, sparse = pruned(menu=["3:4", "2:4", "1:4"], rate=rate, cost=cost)
    stem, depthwise = model.stem.weight.detach().clone(), model.depthwise.weight
    report = sparse.report()
    assert report["rate_of_all"] >= rate
    assert report["allocated_rate"] == pytest.approx(report["rate_of_all"])
    sparse.finalize()
    assert torch.count_nonzero(stem) == stem.numel(), "an ineligible layer is untouched"
    assert torch.count_nonzero(depthwise) == depthwise.numel()
    for entry in sparse.plan.sparse:
        weight = model.get_parameter(entry.weight).detach()
        found = check(weight.numpy(), entry.pattern, axis=1)
        assert found.holds
        assert found.zeros == weight.numel() * entry.pattern.sparsity
    before = {key: value.clone() for key, value in model.state_dict().items()}
    again = sparsify(model, method="magnitude", pattern={e.weight: e.pattern for e in sparse.plan.sparse})
    again.finalize()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_invariant_13_out_of_reach_says_what_is_in_reach():
    with pytest.raises(
        SparsifyError,
        match=r"a rate of 0.6 is out of reach: .* 0\.\d+ of all weights are zero; lower rate, or add patterns to menu",
    ):
        pruned(rate=0.6)


@pytest.mark.parametrize(
    "arguments", [{"pattern": "2:4"}, {"pattern": None, "rate": 0.7}], ids=["uniform", "unstructured"]
)
def test_invariant_14_one_seed_one_result(arguments):
    states = []
    for seed in (0, 0, 1):
        model, sparse = pruned(seed=seed, **arguments)
        sparse.finalize()
        states.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.gpu
def test_invariant_14_cpu_and_gpu_agree_on_counts():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(9))
    here, there = layer(weight), layer(weight.cuda())
    for sparse in (here, there):
        with torch.no_grad():
            sparse.raw.fill_(logit(0.3))
    assert float(here.rate(weight, Bridge()).detach()) == float(there.rate(weight.cuda(), Bridge()).detach())
    masks = exact_masks([weight], [here], 1000), exact_masks([weight.cuda()], [there], 1000)
    assert torch.equal(masks[0][0], masks[1][0].cpu())


def trained_mlp():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 4))
    data = torch.randn(256, 16)
    labels = (data[:, :4] * 2 + data[:, 4:8]).argmax(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(data), labels).backward()
        optimizer.step()
    return model, list(data.split(32))


def test_invariant_15_beats_one_shot_uniform_magnitude():
    model, data = trained_mlp()
    losses = {}
    for name, arguments in {
        "one-shot": {"allocation": "uniform", "steps": 0},
        "fcpts": {"steps": 120},
    }.items():
        sparse = sparsify(
            copy.deepcopy(model), method="fcpts", pattern=None, rate=0.8, calibration=data, **arguments
        )
        losses[name] = sparse.report()["loss_after"]
    assert losses["fcpts"] < 0.7 * losses["one-shot"]


def test_uniform_repair_beats_one_shot_and_without_steps_it_is_one_shot():
    model, data = trained_mlp()
    losses = []
    for steps in (0, 120):
        sparse = sparsify(copy.deepcopy(model), method="fcpts", calibration=data, steps=steps)
        report = sparse.report()
        losses.append(report["loss_after"])
        assert report["loss_before"] == pytest.approx(losses[0])
    assert losses[1] < 0.5 * losses[0]
    one_shot = copy.deepcopy(model)
    sparsify(one_shot, method="magnitude").finalize()
    none = copy.deepcopy(model)
    sparsify(none, method="fcpts", calibration=data, steps=0).finalize()
    for key, value in one_shot.state_dict().items():
        assert torch.equal(none.state_dict()[key], value), key


def test_allocations_differ():
    layers = {}
    for allocation in ("learned", "erk", "uniform"):
        _, sparse = pruned(pattern=None, rate=0.7, allocation=allocation, steps=12, threshold_lr=0.5)
        layers[allocation] = [layer["sparsity"] for layer in sparse.report()["layers"].values()]
    assert layers["uniform"] == pytest.approx([0.7] * 4, abs=0.01)
    assert layers["erk"][1] == 0, "ERK keeps the depthwise layer dense"
    assert layers["learned"] != layers["erk"]


@pytest.mark.parametrize("loss", ["kl", "mse"])
@pytest.mark.parametrize("norms", ["train", "frozen"])
def test_options_of_loss_and_batch_norm(loss, norms):
    model = net()
    before = model.bn1.running_mean.clone()
    pruned(model, loss=loss, batch_norm=norms)
    assert torch.equal(model.bn1.running_mean, before) == (norms == "frozen")


def test_straight_through_moves_pruned_weights():
    for option, moves in ((False, False), (True, True)):
        dense = net().conv.weight.detach()
        _, sparse = pruned(straight_through=option, weight_decay=0.0, refresh_every=0)
        weight = next(w for w in sparse.weights if w.name == "conv.weight")
        changed = (weight.original.detach() != dense)[~weight.sparse.mask].any()
        assert bool(changed) == moves


def test_further_training_keeps_the_masks():
    model, sparse = pruned()
    mask = sparse.weights[0].sparse.mask.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    sparse.attach(optimizer)
    model(batches()[0]).square().sum().backward()
    optimizer.step()
    assert torch.equal(sparse.weights[0].sparse.mask, mask)
    sparse.finalize()


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(16, 32)

    def forward(self, *, tokens, scale):
        return {"scores": self.inner(tokens) * scale, "count": torch.ones(1, dtype=torch.int64)}


@pytest.mark.parametrize(
    "batch",
    [
        pytest.param(
            lambda x: {"tokens": x, "scale": torch.ones(8, 1), "labels": torch.full((8,), torch.nan)},
            id="mapping",
        ),
        pytest.param(lambda x: ({"tokens": x.numpy(), "scale": torch.ones(8, 1)}, 0), id="mapping-and-label"),
    ],
)
def test_inputs_by_name_and_outputs_in_a_dict(batch):
    torch.manual_seed(0)
    data = [batch(torch.randn(8, 16)) for _ in range(3)]
    _, sparse = pruned(Named(), calibration=data, loss="mse")
    assert sparse.report()["samples"] == 24


def test_a_loader_is_read_up_to_max_samples():
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.cat(batches(8)), torch.zeros(64)), batch_size=8
    )
    _, sparse = pruned(calibration=loader, max_samples=20)
    assert sparse.report()["samples"] == 24


def interrupted_after(steps, monkeypatch):
    real = Distiller._step
    count = itertools.count()

    def step(self, *arguments):
        if next(count) == steps:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(Distiller, "_step", step)


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"rate": 0.3},
        {"pattern": None, "rate": 0.7},
        {"layer_fit": True, "batch_norm": "frozen"},
    ],
    ids=["uniform", "menu", "unstructured", "fitted"],
)
def test_a_stopped_run_goes_on_and_ends_as_if_never_stopped(arguments, tmp_path, monkeypatch):
    arguments = {"steps": 12, "refresh_every": 3, **arguments}
    whole, sparse = pruned(**arguments)
    told = sparse.report()
    sparse.finalize()
    file = tmp_path / "run.safetensors"
    stopped = net()
    with monkeypatch.context() as patch:
        interrupted_after(9, patch)
        with pytest.raises(KeyboardInterrupt):
            pruned(stopped, checkpoint=str(file), checkpoint_every=2, **arguments)
    assert file.is_file()
    for key, value in net().state_dict().items():
        assert torch.equal(stopped.state_dict()[key], value), "the model is as it was"
    resumed, sparse = pruned(stopped, checkpoint=str(file), checkpoint_every=2, **arguments)
    told_again = sparse.report()
    assert told_again["resumed_at"] > 0
    assert told_again == {**told, "resumed_at": told_again["resumed_at"]}
    assert not file.exists()
    sparse.finalize()
    for key, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], value), key


def test_the_density_estimate_is_one_value_of_the_options():
    weights = {}
    for kind in ("histogram", "gaussian"):
        model, sparse = pruned(pattern=None, rate=0.6, steps=4, bridge=Bridge(kind))
        sparse.finalize()
        weights[kind] = model.state_dict()
    assert any(not torch.equal(w, weights["gaussian"][name]) for name, w in weights["histogram"].items())
    with pytest.raises(SparsifyError, match="bridge is a Bridge of"):
        pruned(pattern=None, rate=0.6, bridge="gaussian")
    with pytest.raises(SparsifyError, match="of kind histogram or gaussian, not 'box'"):
        Bridge("box")
    with pytest.raises(SparsifyError, match="a clip above 0, at most 1, not 100 and 0"):
        Bridge(clip=0)


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_told(tmp_path, monkeypatch):
    file = tmp_path / "run.safetensors"
    with monkeypatch.context() as patch:
        interrupted_after(3, patch)
        with pytest.raises(KeyboardInterrupt):
            pruned(checkpoint=str(file), checkpoint_every=1)
    with pytest.raises(SparsifyError, match="is of a run with other options, weights or samples; delete it"):
        pruned(checkpoint=str(file), lr=0.02)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SparsifyError, match="is not a sound checkpoint; delete it to start again"):
        pruned(checkpoint=str(file))


BAD = {
    "no-calibration": ({"calibration": None}, DataError, "give calibration=, an iterable of input batches"),
    "empty": ({"calibration": []}, DataError, "calibration holds no sample"),
    "one-sample": ({"calibration": [torch.zeros(1, 3, 6, 6)]}, DataError, "calibration holds one sample, from which nothing can be learned"),
    "equal-samples": ({"calibration": [torch.ones(2, 3, 6, 6)] * 3}, DataError, "calibration holds 6 equal samples, from which nothing can be learned; give some"),
    "tensor": ({"calibration": torch.zeros(4, 3, 6, 6)}, DataError, r"calibration is a Tensor, not an iterable of batches; give \[batch"),
    "wrong-shape": ({"calibration": [torch.rand(4, 5, 6, 6)]}, DataError, r"Net cannot run calibration batch 0, shape \(4, 5, 6, 6\): .*channels"),
    "nan": ({"calibration": [torch.zeros(4, 3, 6, 6), torch.full((4, 3, 6, 6), torch.nan)]}, DataError, "calibration batch 1 holds NaN;"),
    "infinite": ({"calibration": [torch.randn(4, 3, 6, 6) / 0]}, SparsifyError, "the distillation cannot start: its loss is nan; remove"),
    "infinite-later": ({"calibration": [torch.ones(4, 3, 6, 6), torch.full((4, 3, 6, 6), torch.inf)]}, SparsifyError, r"diverged at step 2: its loss is nan; lower lr, now [\d.]+, or remove infinite values from the calibration"),
    "text": ({"calibration": ["a picture"]}, DataError, "calibration batch 0 is a str without a tensor"),
    "no-file": ({"calibration": "calib/none.yaml"}, ValueError, "calib/none.yaml does not exist"),
    "no-rate": ({"pattern": None}, SparsifyError, r"pattern=None puts zeros anywhere: give rate=.*rate=0.7"),
    "rate-one": ({"rate": 1.0}, SparsifyError, "rate is the share of zeros, above 0 and below 1, not 1.0"),
    "menu-alone": ({"menu": ["1:4"]}, SparsifyError, "a menu needs rate="),
    "menu-dense": ({"menu": ["dense"], "rate": 0.3}, SparsifyError, "the menu has no pattern"),
    "menu-names": ({"pattern": {"*": "2:4"}, "rate": 0.3}, SparsifyError, "with rate= the layers' patterns are chosen"),
    "diverged": ({"lr": 1e18, "steps": 60, "batch_norm": "frozen"}, SparsifyError, r"the distillation diverged at step \d+: its loss is (nan|inf); lower lr, now 1e\+18"),
    "runaway": ({"pattern": None, "rate": 0.5, "threshold_lr": 1e5, "steps": 10}, SparsifyError, r"the thresholds ran away: the rate is 0\.\d+ after training for 0.5.*; lower threshold_lr, now 100000"),
    "loss": ({"loss": "ce"}, SparsifyError, "loss must be one of kl, mse, not 'ce'"),
    "steps": ({"steps": -1}, SparsifyError, "steps must be a whole number of at least 0, not -1"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_mistakes_are_told_and_leave_the_model_as_it_was(case):
    arguments, error, message = BAD[case]
    model, before = net(), net().state_dict()
    with pytest.raises(error, match=message):
        pruned(model, **arguments)
    assert list(model.state_dict()) == list(before)
    for key, value in before.items():
        assert torch.equal(model.state_dict()[key], value), key
    assert not [name for name, m in model.named_modules() for _ in sparse_weights(m)]


def test_plan_says_why(tmp_path):
    _, sparse = pruned(rate=0.3)
    reasons = {entry.weight: entry.reason for entry in sparse.plan}
    assert reasons["conv.weight"] == "chosen under the global rate from dense, 2:4"
    assert "depthwise" in reasons["depthwise.weight"]
    assert fcpts.FcptsSession is type(sparse)
    assert thresholds.ThresholdWeight.nm2trt_method == "fcpts"


def import_anew_and_prune(absent):
    """Run in a process of its own, which has torch: the package is imported again, without some others."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("nm2trt", *absent)]:
        del sys.modules[name]
    sys.modules.update(dict.fromkeys(absent))
    fresh = importlib.import_module("nm2trt")
    assert fresh is not nm2trt
    model = nn.Sequential(nn.Linear(16, 16))
    fresh.sparsify(model, method="fcpts", steps=1, calibration=[torch.randn(4, 16)] * 2).finalize()
    assert type(model[0]) is nn.Linear
    assert (model[0].weight == 0).any()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads
def test_tensors_need_no_package_that_reads_recipes():
    absent = ("pydantic", "yaml", "PIL", "onnx")
    child = multiprocessing.get_context("fork").Process(target=import_anew_and_prune, args=(absent,))
    child.start()
    child.join()
    assert child.exitcode == 0


@pytest.mark.parametrize("given", ["frozen", "inference"])
def test_a_model_that_cannot_be_trained_is_refused_and_left_alone(given):
    model = net().requires_grad_(given != "frozen")
    before = copy.deepcopy(model.state_dict())
    message = {"frozen": "all are frozen", "inference": r"outside of torch\.inference_mode"}[given]
    context = torch.inference_mode if given == "inference" else contextlib.nullcontext
    with context(), pytest.raises(SparsifyError, match=message):
        pruned(model, pattern="2:4")
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], value) for key, value in before.items())


@pytest.mark.parametrize("form", [{"pattern": "2:4"}, {"rate": 0.2}, {"pattern": None, "rate": 0.5}], ids=str)
def test_a_state_goes_on_in_a_model_that_was_pruned_anew(form):
    model, sparse = pruned(**form)
    with torch.no_grad():
        for weight in sparse.weights:
            weight.original.mul_(1.5)
    state = copy.deepcopy(model.state_dict())
    other, again = pruned(**form)
    other.load_state_dict(state)
    sparse.finalize()
    again.finalize()
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("distance", [1e-4, 1e-2, 1.0, 300.0])
def test_a_divergence_in_float32_is_that_of_float64_however_small(distance):
    """A repair of little damage is judged by it; rounding must not drown it, or bring it below 0."""
    theirs = torch.randn(64, 100, generator=torch.Generator().manual_seed(0)) * 3
    moved = theirs + distance * torch.randn(64, 100, generator=torch.Generator().manual_seed(1))
    mine = moved.clone().requires_grad_()
    found = distillation_loss([mine], [theirs], loss="kl", temperature=4.0)
    found.backward()
    wide, goal = moved.double().requires_grad_(), (theirs.double() / 4).softmax(1)
    # The definition, in which float64 loses as little as matters here.
    wanted = 16 * (goal * (goal.log() - (wide / 4).log_softmax(1))).sum(1).mean()
    wanted.backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=2e-3)
    assert (mine.grad - wide.grad).abs().max() < 1e-2 * wide.grad.abs().max()


@pytest.mark.parametrize("loss", ["kl", "mse"])
def test_the_loss_of_half_precision_outputs_is_that_of_the_same_numbers_in_float32(loss):
    torch.manual_seed(0)
    mine, theirs = (torch.randn(64, 1000).bfloat16() for _ in range(2))
    found = distillation_loss([mine], [theirs], loss=loss, temperature=4.0)
    assert found == distillation_loss([mine.float()], [theirs.float()], loss=loss, temperature=4.0)
    assert found.dtype == torch.float32


def test_no_grad_and_samples_of_inference_mode_change_nothing():
    model, _ = pruned(pattern="2:4")
    with torch.inference_mode():
        samples = batches()
    with torch.no_grad():
        other, _ = pruned(pattern="2:4", calibration=samples)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
