"""Calibration that is a function of the epoch: fresh samples each time, the dense model on the same ones."""

import copy

import pytest
import torch
from torch import nn

from nm2trt.errors import DataError
from nm2trt.sparsity.sparsify import sparsify

STEPS = 7


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def samples(epoch):
    generator = torch.Generator().manual_seed(epoch)
    return [torch.randn(8, 16, generator=generator) for _ in range(2)]


def run(calibration, **more):
    model = net()
    options = {"steps": STEPS, "lr": 0.05, "refresh_every": 0, "loss": "mse", **more}
    session = sparsify(model, method="fcpts", calibration=calibration, **options)
    return session, session.finalize().state_dict()


def same(one, two):
    return all(torch.equal(value, two[key]) for key, value in one.items())


def test_the_same_samples_each_time_are_the_plain_run():
    assert same(run(samples(0))[1], run(lambda _epoch: samples(0))[1])


def test_each_epoch_has_its_own_samples_and_the_dense_model_sees_them():
    asked = []

    def calibration(epoch):
        asked.append(epoch)
        return samples(epoch)

    state = run(calibration)[1]
    assert asked == [0, 1, 2, 3]  # 7 steps of 2 batches
    assert not same(state, run(samples(0))[1])
    # Oracle: the same training by hand, with targets of the dense model on each epoch's samples.
    dense, student = net(), net()
    masks = {k: v != 0 for k, v in run(samples(0), steps=0)[1].items() if k.endswith("weight")}
    parameters = list(student.parameters())
    optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9, weight_decay=3e-4)
    warmup = 1
    for step in range(STEPS):
        epoch, within = divmod(step, 2)
        index = int(torch.randperm(2, generator=torch.Generator().manual_seed(epoch))[within])
        x = samples(epoch)[index]
        share = (step + 1) / warmup if step < warmup else 0.5 * (
            1 + torch.cos(torch.tensor(torch.pi * (step - warmup) / (STEPS - warmup), dtype=torch.float64)).item()
        )  # fmt: skip
        optimizer.param_groups[0]["lr"] = 0.05 * share
        masked = {k: p * masks[k] if k in masks else p for k, p in student.named_parameters()}
        optimizer.zero_grad()
        out = torch.func.functional_call(student, masked, (x,))
        nn.functional.mse_loss(out, dense(x).detach()).backward()
        optimizer.step()
    for key, value in student.state_dict().items():
        wanted = value * masks[key] if key in masks else value
        torch.testing.assert_close(state[key], wanted, rtol=1e-5, atol=1e-6)


def test_a_stopped_run_resumes_to_the_same_bits(tmp_path):
    whole = run(samples)[1]

    class Stop(Exception):
        pass

    def stopping(epoch):
        if epoch == 2:
            raise Stop
        return samples(epoch)

    options = {"checkpoint": str(tmp_path / "run.safetensors"), "checkpoint_every": 1}
    with pytest.raises(Stop):
        run(stopping, **options)
    session, state = run(samples, **options)
    assert session.facts["resumed_at"] == 4
    assert same(whole, state)


def test_the_teacher_is_not_trained():
    model = net()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(DataError, match="calibration gave 1 batch for epoch 1 and 2 for epoch 0"):
        sparsify(
            model, method="fcpts", calibration=lambda epoch: samples(epoch)[: 2 - (epoch > 0)], steps=STEPS
        )
    assert same(before, model.state_dict()), "a failed run leaves the model as it was"
