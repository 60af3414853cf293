"""torch.distributed.checkpoint of attached models: one process, DDP and FSDP2, full and sharded, bit for bit."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.sparsify import sparsify
from tests.sparsity.two_processes import WORLD, run_two

pytestmark = pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")  # PyTorch 2.9's own call
STEPS, SAVED_AT = 6, 3
WAYS = {
    "sr-ste": {"method": "sr-ste", "lambda_w": 0.1},
    "freeze": {"method": "ste", "freeze": 0.5},
    "lbc": {"method": "lbc", "end": 0.9},
    "lbc-done": {"method": "lbc", "end": 0.3},
    "magnitude": {"method": "magnitude"},
    "gradual": {"method": "magnitude", "gradual": True},
    "spre": {"method": "spre", "seed": 0},
}
SHARDED = [way for way in WAYS if way != "spre"]  # SpRe merges unsharded models only


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(16, 32, 3, bias=False)
        self.norm = nn.BatchNorm2d(32)
        self.head = nn.Sequential(nn.Linear(512, 16), nn.ReLU(), nn.Linear(16, 8))
        self.eval()  # statistics of half a batch would differ

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().flatten(1))


def make(way, kind):
    model = Net()
    sparse = sparsify(model, total_steps=STEPS, **WAYS[way])
    if kind == "ddp":
        model = nn.parallel.DistributedDataParallel(model)
    elif kind != "one":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (WORLD,))
        if kind == "checkpointed":
            from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
                apply_activation_checkpointing,
            )

            apply_activation_checkpointing(model, check_fn=lambda m: isinstance(m, nn.Linear | nn.Conv2d))
        fully_shard(model.head, mesh=mesh)
        fully_shard(model, mesh=mesh)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparse.attach(optimizer)
    return model, sparse, optimizer


def train(model, optimizer, steps, rank=0, world=1):
    for step in steps:
        x = torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(step)).chunk(world)[rank]
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def finalised_state(sparse, model):
    return sparse.finalize().state_dict()


def save_and_resume(way, kind, options, folder, rank=0, world=1):
    """Train whole, and again with a checkpoint in the middle; return both finalised states."""
    model, sparse, optimizer = make(way, kind)
    train(model, optimizer, range(SAVED_AT), rank, world)
    state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer, options=options), strict=True))
    if options is not None and options.full_state_dict:
        if rank == 0:
            torch.save(state, f"{folder}/full.pt")
    else:
        dcp.save(state, checkpoint_id=folder)
    train(model, optimizer, range(SAVED_AT, STEPS), rank, world)
    whole = finalised_state(sparse, model)
    if world > 1:
        dist.barrier()
    model, sparse, optimizer = make(way, kind)
    if options is not None and options.full_state_dict:
        state = torch.load(f"{folder}/full.pt")
    else:
        state = dict(zip(("model", "optimizer"), get_state_dict(model, optimizer), strict=True))
        dcp.load(state, checkpoint_id=folder)
    set_state_dict(
        model,
        optimizer,
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
        options=options,
    )
    train(model, optimizer, range(SAVED_AT, STEPS), rank, world)
    return whole, finalised_state(sparse, model)


def assert_equal(whole, resumed):
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
    assert check(whole["head.0.weight"].numpy(), NMPattern(2, 4), axis=1).holds


@pytest.fixture
def process_group(tmp_path):
    """A group of one process; without one, torch.distributed.checkpoint warns."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


FULL = StateDictOptions(full_state_dict=True)


@pytest.mark.parametrize("options", [None, FULL], ids=["file", "full"])
@pytest.mark.parametrize("way", WAYS)
def test_one_process(way, options, tmp_path, process_group):
    assert_equal(*save_and_resume(way, "one", options, str(tmp_path)))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("way", ["lbc-done", "sr-ste"])
def test_one_process_without_a_group(way, tmp_path):
    assert_equal(*save_and_resume(way, "one", None, str(tmp_path)))


def resume_one_half(rank, way, kind, options, folder):
    whole, resumed = save_and_resume(way, kind, options, folder, rank, WORLD)
    if rank == 0:
        assert_equal(whole, resumed)


CASES = [
    *((way, "ddp", None) for way in WAYS),
    *((way, "fsdp2", None) for way in SHARDED),
    *((way, "fsdp2", FULL) for way in ("sr-ste", "lbc", "gradual")),
    *((way, "checkpointed", None) for way in ("sr-ste", "lbc", "magnitude")),
]


# The others take half a minute together.
QUICK = [("sr-ste", "fsdp2", None), ("lbc", "checkpointed", None), ("spre", "ddp", None)]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("way", "kind", "options"),
    [pytest.param(*case, marks=[] if case in QUICK else pytest.mark.slow) for case in CASES],
    ids=[f"{w}-{k}{'-full' if o else ''}" for w, k, o in CASES],
)
def test_two_processes(way, kind, options, tmp_path):
    run_two(resume_one_half, (way, kind, options, str(tmp_path)), tmp_path)
