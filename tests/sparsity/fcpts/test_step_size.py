"""FCPTS's learning rate that finds itself, and the loss on block outputs."""

import copy

import pytest
import torch
from torch import nn

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.calibration_batches import read_batches
from nm2trt.sparsity.fcpts.block_loss import BlockLoss
from nm2trt.sparsity.fcpts.distill import Distiller
from nm2trt.sparsity.sparsify import sparsify


def net(sharpness=1.0):
    """A network whose loss is the sharper the more its frozen BatchNorm multiplies."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 6)
    )
    with torch.no_grad():
        model[1].running_var.fill_(1 / sharpness**2)
    return model.eval()


def pruned(model, **options):
    batches = [torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(i)) for i in range(4)]
    arguments = {"steps": 24, "batch_norm": "frozen", "loss": "mse", "calibration": batches, **options}
    session = sparsify(model, method="fcpts", **arguments)
    return session.report(), session.finalize().state_dict()


def assert_equal(one, other):
    for key, value in one.items():
        assert torch.equal(value, other[key]), key


def test_a_rate_that_is_too_large_is_halved_until_the_loss_falls():
    with pytest.raises(SparsifyError, match="diverged"):
        pruned(net(30.0), lr=0.01)
    report, found = pruned(net(30.0), lr="auto")
    rate = report["learning_rates"]["distil"]
    assert 0.01 / rate in {2.0**k for k in range(1, 13)}
    assert report["loss_after"] < report["loss_before"]
    # As a run that was given the rate: nothing of the failed ones is left.
    assert_equal(found, pruned(net(30.0), lr=rate)[1])


def test_a_rate_that_is_right_is_left_alone():
    report, found = pruned(net(), lr="auto")
    assert report["learning_rates"] == {"distil": 0.01}
    assert_equal(found, pruned(net(), lr=0.01)[1])


def test_thresholds_are_taken_back_too():
    arguments = {"pattern": None, "rate": 0.6, "steps": 12, "rate_band": 0.01}
    report, found = pruned(net(30.0), lr="auto", **arguments)
    rate = report["learning_rates"]["thresholds"]
    assert rate < 0.01
    assert_equal(found, pruned(net(30.0), lr=rate, **arguments)[1])


def test_a_stopped_run_goes_on_with_the_rate_that_it_had(tmp_path, monkeypatch):
    whole, wanted = pruned(net(30.0), lr="auto")
    asked = {"lr": "auto", "checkpoint": str(tmp_path / "run.safetensors"), "checkpoint_every": 2}
    real, calls = Distiller._step, []

    def stopping(self, optimizer, penalty, step):
        if step == 20:  # failed rates do not come that far
            raise KeyboardInterrupt
        calls.append(step)
        return real(self, optimizer, penalty, step)

    with monkeypatch.context() as patch:
        patch.setattr(Distiller, "_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            pruned(net(30.0), **asked)
    assert calls.count(0) > 1
    report, resumed = pruned(net(30.0), **asked)
    assert report["resumed_at"] == 20
    assert report["learning_rates"] == whole["learning_rates"]
    assert_equal(resumed, wanted)


def test_no_rate_helps():
    # The dense model's outputs are where a pruned model cannot come nearer: its loss is 0 at the start.
    model = net()
    with torch.no_grad():
        for index in (0, 4):
            model[index].weight.zero_()
            model[index].bias.normal_()
        model[1].running_var.fill_(1e-12)
    report, _ = pruned(model, lr="auto", weight_decay=0.0)
    assert report["loss_after"] == report["loss_before"] == 0
    with pytest.raises(SparsifyError, match=r'lr="auto": the loss rises above its start, 0, even.*steps=0'):
        pruned(model, lr="auto", weight_decay=1e30)


def test_the_loss_on_blocks_is_their_distance_over_the_variance():
    model = net()
    dense = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.mul_(0.5)
    for module in (model, dense):
        module.requires_grad_(False)
    blocks = BlockLoss(model, dense, ["0", "2"])
    (batch,) = read_batches([torch.randn(8, 16, 4, 4)], max_samples=8)
    with blocks.recording():
        model(*batch.args)
    expected = []
    for depth in (1, 3):
        mine, theirs = model[:depth](*batch.args), dense[:depth](*batch.args)
        expected.append(float(((mine - theirs) ** 2).mean() / theirs.var(correction=0)))
    assert float(blocks.value(batch, 0)) == pytest.approx(sum(expected) / 2, rel=1e-4)


def test_blocks_draw_their_outputs_towards_the_dense_ones():
    dense, x = net(), torch.randn(64, 16, 4, 4, generator=torch.Generator().manual_seed(9))
    dense.requires_grad_(False)
    distance = []
    for options in ({}, {"blocks": "2"}):
        model = net()
        pruned(model, steps=60, loss="kl", calibration=[x], **options)
        distance.append(float((model[:3](x) - dense[:3](x)).square().mean().detach()))
    assert distance[1] < 0.9 * distance[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blocks": "layer9.*"}, r"blocks: 'layer9\.\*' matches no module; the model has 0, 1"),
        ({"blocks": "*", "block_weight": 0}, "block_weight must be a positive number, not 0"),
        ({"lr": "fast"}, "lr must be a positive number or \"auto\", not 'fast'"),
        ({"lr": float("nan")}, "lr must be a positive number"),
    ],
)
def test_mistakes(options, message):
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsifyError, match=message):
        pruned(model, **options)
    assert_equal(before, model.state_dict())
