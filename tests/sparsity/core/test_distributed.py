"""DDP and FSDP2 over gloo: two processes train to what one process does on the whole batch."""

import pytest
import torch
from torch import nn

from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE
from nm2trt.sparsity.sparsify import sparsify
from tests.sparsity.two_processes import WORLD, run_two

STEPS = 4


def net():
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(16, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 16),
    )
    return nn.Sequential(*layers, nn.Linear(16, 8)).eval()  # statistics of half a batch would differ


def attach(model, method):
    # A strong decay: an effective lambda of world size times lambda would show.
    options = {"lambda_w": 0.2} if method == "sr-ste" else {}
    return sparsify(model, method=method, total_steps=STEPS, **options)


def train(model, sparse, part):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse.attach(optimizer)
    gradients = []
    for step in range(STEPS):
        x = torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model(part(x)).square().mean().backward()
        optimizer.step()
        gradient = sparse.weights[0].original.grad
        gradients.append(gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient.clone())
    return gradients


def wrap(model, kind):
    if kind == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (WORLD,))
    if kind == "fsdp2-by-layer":
        for layer in model:
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def train_one_half(rank, kind, method, out):
    model = net()
    sparse = attach(model, method)
    gradients = train(wrap(model, kind), sparse, lambda x: x.chunk(WORLD)[rank])
    state = model.state_dict()
    model.load_state_dict(state)
    masks = {weight.name: weight.sparse.mask.clone() for weight in sparse.weights}
    finished = sparse.finalize()
    if rank == 0:
        plan = getattr(finished, PLAN_ATTRIBUTE).to_json()
        kinds = [type(layer).__name__ for layer in finished]
        saved = {"gradients": gradients, "masks": masks, "state": finished.state_dict(), "plan": plan}
        torch.save({**saved, "kinds": kinds}, out)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # Python 3.12 warns where there are threads
@pytest.mark.parametrize("method", ["sr-ste", "lbc", "magnitude"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp2-by-layer", "fsdp2-whole"])
def test_two_processes_equal_one_and_finalize_to_a_plain_model(kind, method, tmp_path):
    """Invariant 9 of SR-STE: gradients, and so the strength of the decay, do not depend on the world size."""
    path = tmp_path / "found.pt"
    run_two(train_one_half, (kind, method, path), tmp_path)
    found = torch.load(path, weights_only=True)
    model = net()
    sparse = attach(model, method)
    gradients = train(model, sparse, lambda x: x)
    masks = {weight.name: weight.sparse.mask.clone() for weight in sparse.weights}
    sparse.finalize()
    for one, two in zip(gradients, found["gradients"], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-7)
    for name, mask in masks.items():
        assert torch.equal(mask, found["masks"][name]), name
    for key, value in model.state_dict().items():
        torch.testing.assert_close(found["state"][key], value, rtol=1e-5, atol=1e-6)
    assert found["kinds"] == ["Conv2d", "BatchNorm2d", "ReLU", "Flatten", "Linear", "Linear"]
    assert found["plan"] == getattr(model, PLAN_ATTRIBUTE).to_json()
    assert check(found["state"]["0.weight"].numpy(), NMPattern(2, 4), axis=1).holds
