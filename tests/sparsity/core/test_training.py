"""Training as people do it: loss scaling, accumulation, clipping, AdamW, compile, a killed run."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.sparsify import sparsify

LAMBDA = 0.5


def attached(method="sr-ste", **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    if method == "sr-ste":
        options = {"lambda_w": LAMBDA, **options}
    return model, sparsify(model, method=method, total_steps=8, **options)


def original(model):
    return model[0].parametrizations.weight.original


def batch(seed, size=8):
    return torch.randn(size, 16, generator=torch.Generator().manual_seed(seed))


def plain_steps(make, steps=3):
    model, sparse = attached()
    optimizer = make(model.parameters())
    sparse.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        model(batch(step)).square().mean().backward()
        optimizer.step()
    return original(model).detach()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "sgd-fused": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, fused=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adamw-fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adamw-foreach": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=True),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("scale", [1.0, 65536.0])
def test_decay_does_not_depend_on_the_loss_scale(name, scale):
    model, sparse = attached()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparse.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(batch(step)).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(original(model).detach(), plain_steps(OPTIMIZERS[name]))


@pytest.mark.parametrize("name", ["sgd", "adamw-fused"])
def test_unscaling_by_hand_to_clip_counts_once(name):
    model, sparse = attached()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparse.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for step in range(3):
        optimizer.zero_grad()
        scaler.scale(model(batch(step)).square().mean()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        scaler.step(optimizer)
        scaler.update()
    torch.testing.assert_close(original(model).detach(), plain_steps(OPTIMIZERS[name]))


@pytest.mark.parametrize("name", ["sgd", "adamw-fused"])
def test_a_step_that_overflows_changes_neither_weights_nor_schedule(name):
    model, sparse = attached()
    optimizer = OPTIMIZERS[name](model.parameters())
    sparse.attach(optimizer)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = original(model).detach().clone()
    (scaler.scale(model(batch(0)).square().mean()) * float("inf")).backward()
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(original(model), before)
    assert sparse.step == 0


def test_clipping_leaves_the_decay_whole():
    model, sparse = attached()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    sparse.attach(optimizer)
    mask, start = model[0].parametrizations.weight[0].mask.clone(), original(model).detach().clone()
    model(batch(0)).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-12)
    optimizer.step()
    torch.testing.assert_close(original(model).detach(), torch.where(mask, start, start * (1 - LAMBDA)))


def test_accumulated_micro_batches_decay_once_a_step():
    model, sparse = attached()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    sparse.attach(optimizer)
    for step in range(3):
        optimizer.zero_grad()
        for part in batch(step).chunk(4):
            (model(part).square().mean() / 4).backward()
        optimizer.step()
    assert sparse.step == 3
    torch.testing.assert_close(original(model).detach(), plain_steps(OPTIMIZERS["sgd"]))


def test_adamw_divides_the_coupled_decay_by_the_second_moment_and_not_the_decoupled():
    shrink = {}
    for decoupled in (False, True):
        model, sparse = attached(decoupled=decoupled)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.0)
        sparse.attach(optimizer)
        mask, start = model[0].parametrizations.weight[0].mask.clone(), original(model).detach().clone()
        (model(batch(0)).sum() * 0).backward()
        optimizer.step()
        shrink[decoupled] = (start - original(model).detach())[~mask], start[~mask]
    # Adam's first step is lr * sign(g), whatever the size of lambda * W.
    torch.testing.assert_close(shrink[False][0], 0.1 * shrink[False][1].sign(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(shrink[True][0], 0.1 * LAMBDA * shrink[True][1])


@pytest.mark.parametrize("method", ["sr-ste", "ste", "lbc", "magnitude"])
def test_channels_last_trains_to_the_same_masks(method):
    results = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3)).double()
        model = model.to(memory_format=memory_format)
        sparse = sparsify(model, method=method, total_steps=8)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparse.attach(optimizer)
        for step in range(8):
            x = torch.randn(2, 16, 6, 6, generator=torch.Generator().manual_seed(step)).double()
            optimizer.zero_grad()
            model(x.to(memory_format=memory_format)).square().mean().backward()
            optimizer.step()
        sparse.finalize()
        assert model[0].weight.is_contiguous(memory_format=memory_format)
        results.append(model[0].weight.detach())
    assert torch.equal(results[0] != 0, results[1] != 0)
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # from torch.compile's own imports
@pytest.mark.filterwarnings("ignore:Guards may run slower")  # PyTorch 2.15 of Python 3.13.0
@pytest.mark.parametrize(("method", "graphs"), [("sr-ste", 1), ("lbc", 2)])
def test_compiles_without_breaks_and_follows_the_masks(method, graphs):
    """LBC is traced once more when its scores freeze; nothing is traced anew at every step."""
    import torch._dynamo

    traced, results = [], []

    def backend(graph, inputs):
        traced.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    for compiled in (False, True):
        torch._dynamo.reset()
        model, sparse = attached(method)
        run = torch.compile(model, backend=backend, fullgraph=True) if compiled else model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        sparse.attach(optimizer)
        for step in range(8):
            optimizer.zero_grad()
            run(batch(step)).square().mean().backward()
            optimizer.step()
        results.append(original(model).detach().clone())
    torch.testing.assert_close(*results)
    assert len(traced) == graphs


def test_attention_encoder_trains_evaluates_and_finalises():
    torch.manual_seed(0)
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 1, enable_nested_tensor=False
    )
    sparse = sparsify(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparse.attach(optimizer)
    x = torch.randn(2, 5, 16)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        before = model(x)  # the fast path
    sparse.finalize()
    with torch.no_grad():
        torch.testing.assert_close(model(x), before, rtol=0, atol=1e-6)
    attention = model.layers[0].self_attn
    assert check(attention.in_proj_weight.detach().numpy(), NMPattern(2, 4), axis=1).holds
    assert check(attention.out_proj.weight.detach().numpy(), NMPattern(2, 4), axis=1).holds


SCRIPT = """
import sys, time, torch
from pathlib import Path
from torch import nn
from nm2trt.sparsity.sparsify import sparsify

path, out, slow = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "slow"
torch.manual_seed(0)
model = nn.Linear(16, 8)
sparse = sparsify(model, method="lbc", total_steps=20)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
sparse.attach(optimizer)
if path.exists():
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"]); optimizer.load_state_dict(saved["optimizer"])
    sparse.load_state_dict(saved["sparse"])
for step in range(sparse.step, 20):
    optimizer.zero_grad()
    model(torch.randn(4, 16, generator=torch.Generator().manual_seed(step))).square().mean().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "sparse": sparse.state_dict()}
    torch.save(state, path.with_suffix(".tmp")); path.with_suffix(".tmp").replace(path)
    if slow and step > 3:
        time.sleep(0.3)
sparse.finalize()
torch.save(model.state_dict(), out)
"""


@pytest.mark.slow
def test_a_killed_run_resumes_bit_for_bit(tmp_path):
    def start(state, out, speed):
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path / state), str(tmp_path / out), speed]
        )

    whole = start("whole.pt", "whole.out", "fast")
    killed = start("killed.pt", "killed.out", "slow")
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "killed.out").exists()
    again = start("killed.pt", "killed.out", "fast")
    assert (whole.wait(), again.wait()) == (0, 0)
    expected, resumed = (
        torch.load(tmp_path / f"{name}.out", weights_only=True) for name in ("whole", "killed")
    )
    for key, value in expected.items():
        assert torch.equal(resumed[key], value), key
