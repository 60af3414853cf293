"""The layer-wise fit of FCPTS: values on given masks, and BatchNorm statistics that change nothing when dense."""

import copy

import pytest
import torch
from torch import nn

from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.core.calibration_batches import read_batches
from nm2trt.sparsity.core.layer_choice import select
from nm2trt.sparsity.fcpts.layer_fit import LayerFit
from nm2trt.sparsity.sparsify import sparsify


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, dilation=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def signals():
    return nn.Sequential(
        nn.Conv1d(16, 32, (5,), padding=2), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 16, 3)
    )


def tokens():
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


CASES = {
    "convolutions": (convolutions, (3, 12, 12)),
    "signals": (signals, (16, 20)),
    "tokens": (tokens, (7, 16)),
}


@pytest.fixture(params=CASES)
def case(request):
    make, shape = CASES[request.param]
    model = make()
    batches = [torch.randn(32, *shape) for _ in range(8)]
    for batch in batches:  # statistics that are not those of the start
        model.train()(batch)
    return model.eval(), batches


@torch.no_grad()
def test_a_dense_model_stays_as_it_is(case):
    model, batches = case
    dense = copy.deepcopy(model)
    choices = select(model, "2:4", unstructured=True)
    fit = LayerFit(model, read_batches(batches, max_samples=1000), choices, samples=1000)
    weights = {c.entry.weight: model.get_parameter(c.entry.weight) for c in choices}
    fit.apply({n: torch.ones_like(w, dtype=torch.bool) for n, w in weights.items()}, weights)
    assert fit.fits.keys() == weights.keys()
    for batch in batches:
        torch.testing.assert_close(model(batch), dense(batch), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_pruned_model_comes_nearer_also_on_data_not_seen(case):
    model, batches = case
    fresh = torch.randn(64, *batches[0].shape[1:])
    wanted = model(fresh)
    distance = {}
    for layer_fit in (False, True):
        pruned = copy.deepcopy(model)
        session = sparsify(
            pruned, method="fcpts", calibration=batches, loss="mse", steps=0, layer_fit=layer_fit
        )
        weights = {w.name: w.sparse.mask.clone() for w in session.weights}
        report = session.report()
        session.finalize()
        distance[layer_fit] = float((pruned(fresh) - wanted).square().mean())
        for name, mask in weights.items():
            expected = magnitude_mask(model.get_parameter(name), NMPattern(2, 4), axis=1)
            assert torch.equal(mask, expected)
            assert not pruned.get_parameter(name)[~mask].any()
    assert distance[True] < 0.7 * distance[False]
    assert report["loss_fitted"] < report["loss_before"]


@pytest.mark.parametrize("allocation", ["learned", "erk"])
def test_unstructured_keeps_its_exact_count(allocation):
    model = convolutions().eval()
    batches = [torch.randn(16, 3, 12, 12) for _ in range(4)]
    session = sparsify(
        model, method="fcpts", pattern=None, rate=0.6, calibration=batches,
        allocation=allocation, steps=4, layer_fit=True,
    )  # fmt: skip
    sizes = [w.sparse.mask.numel() for w in session.weights]
    zeros = sum(int((~w.sparse.mask).sum()) for w in session.weights)
    assert zeros == round(0.6 * sum(sizes))
    session.finalize()


def test_grouped_convolutions_and_reused_layers_are_left_alone():
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(16, 16)).eval()
    session = sparsify(
        model, method="fcpts", calibration=[torch.randn(32, 16)], loss="mse", steps=0, layer_fit=True
    )
    assert session.report()["loss_fitted"] < session.report()["loss_before"]
    grouped = nn.Sequential(nn.Conv2d(32, 32, 3, groups=2), nn.ReLU(), nn.Conv2d(32, 16, 1)).eval()
    before = grouped[0].weight.detach().clone()
    sparsify(
        grouped, method="fcpts", calibration=[torch.randn(8, 32, 6, 6)], loss="mse", steps=0, layer_fit=True
    )
    assert torch.equal(grouped[0].parametrizations.weight.original, before)


@pytest.mark.parametrize("factor", [1.0, 10.0], ids=["helps", "harms"])
def test_a_fit_that_raises_the_loss_is_dropped_whole_and_said(factor, monkeypatch):
    """Planted fault: after the real fit, every weight and statistic is scaled."""
    real = LayerFit.apply

    def apply(self, masks, weights):
        real(self, masks, weights)
        with torch.no_grad():
            for tensor in (*self.model.parameters(), *self.model.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(factor)

    monkeypatch.setattr(LayerFit, "apply", apply)
    torch.manual_seed(0)
    model = convolutions().eval()
    options = {
        "method": "fcpts", "calibration": [torch.randn(16, 3, 12, 12)], "loss": "mse", "steps": 0, "seed": 0
    }  # fmt: skip
    plain, fitted = copy.deepcopy(model), copy.deepcopy(model)
    without = sparsify(plain, **options)
    report = sparsify(fitted, layer_fit=True, **options).report()
    same = all(torch.equal(v, fitted.state_dict()[k]) for k, v in plain.state_dict().items())
    assert same == (factor != 1)
    if factor == 1:
        assert report["fitted"]
        assert report["loss_after"] == report["loss_fitted"] < without.report()["loss_after"]
    else:
        assert report["fitted"] == []
        assert report["loss_after"] == report["loss_before"] < report["loss_of_dropped_fit"]
