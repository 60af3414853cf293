"""load_sparse: an attached checkpoint becomes the model that finalize gives, to the bit."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import nm2trt
from nm2trt.errors import SparsifyError, SparsityError
from nm2trt.nm.plan import PLAN_ATTRIBUTE

STEPS = 6
WAYS = {
    "sr-ste": {"method": "sr-ste"},
    "mixed patterns": {"method": "ste", "pattern": {"0": "1:4", "*": "2:8"}},
    "frozen": {"method": "sr-ste", "freeze": 0.5},
    "lbc": {"method": "lbc"},
    "magnitude": {"method": "magnitude"},
    "gradual": {"method": "magnitude", "gradual": True},
    "spre": {"method": "spre"},
    "spre controls": {"method": "spre", "branch_norm": False, "smoothing": 0.9},
    "fcpts": {"method": "fcpts", "calibration": [torch.randn(8, 16, 4, 4)], "steps": 2},
    "unstructured": {"method": "fcpts", "calibration": [torch.randn(8, 16, 4, 4)], "steps": 2, "rate": 0.6, "pattern": None, "allocation": "erk"},
}  # fmt: skip


def net(outputs=8):
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, outputs))


def trained(way, steps=STEPS, **options):
    model = net()
    sparse = nm2trt.sparsify(model, **{"total_steps": STEPS, **WAYS[way], **options})
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    sparse.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        x = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(step))
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return model, sparse


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("prefix", ["", "module._orig_mod."], ids=["plain", "of wrappers"])
def test_it_is_what_finalize_gives(way, prefix, tmp_path):
    model, sparse = trained(way)
    torch.save({prefix + key: value for key, value in model.state_dict().items()}, tmp_path / "state.pt")
    loaded = net()
    assert nm2trt.load_sparse(loaded, torch.load(tmp_path / "state.pt", weights_only=True)) is loaded
    wanted = sparse.finalize()
    assert loaded.state_dict().keys() == wanted.state_dict().keys()
    for key, value in wanted.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    plans = [
        {(e.weight, e.pattern, e.unstructured) for e in getattr(m, PLAN_ATTRIBUTE)} for m in (loaded, wanted)
    ]
    assert plans[0] == plans[1]


def refused(change):
    model, _ = trained("sr-ste")
    state = copy.deepcopy(dict(model.state_dict()))
    change(state)
    return state


def cut(state):
    del state["4.bias"]


def break_finite(state):
    state["4.parametrizations.weight.original"][0, 0] = float("nan")


def cut_spre():
    state = dict(trained("spre")[0].state_dict())
    cut(state)
    return state


KEPT = r"weight does not hold 2:4 yet: [34] of each 4 are kept after 1 steps; train it to the end"
CASES = {
    "plain": (lambda: net().state_dict(), r"not of an attached model: it holds no pattern"),
    "empty": (dict, r"not of an attached model"),
    "torch.nn.utils.prune": (
        lambda: prune.l1_unstructured(net()[4], "weight", 0.5).state_dict(),
        r"keeps 'weight' as 'weight_orig' and its mask; load it into a model that was pruned alike",
    ),
    "cut": (lambda: refused(cut), r"of another model than Sequential: it lacks 4\.bias"),
    "nan": (lambda: refused(break_finite), r"4\.weight holds NaN or infinity"),
    "unfinished lbc": (lambda: trained("lbc", 1)[0].state_dict(), r"does not hold 2:4 yet: \d candidates"),
    "unfinished gradual": (lambda: trained("gradual", 1)[0].state_dict(), KEPT),
    "unfinished ramp": (lambda: trained("sr-ste", 1, ramp=0.9)[0].state_dict(), KEPT),
    "ramp and freeze": (lambda: trained("frozen", 1, ramp=0.5)[0].state_dict(), KEPT),
    "unfinished spre": (lambda: trained("spre", 1, ramp=0.9)[0].state_dict(), KEPT),
    "cut spre": (lambda: cut_spre(), r"of another model than Sequential: .*4\.bias"),
    "a checkpoint": (lambda: {"epoch": 3, "model": refused(dict)}, r"entry 'model' holds the model"),
}


@pytest.mark.parametrize("case", CASES)
def test_mistakes_are_told_and_leave_the_model_alone(case):
    make, message = CASES[case]
    state, model = make(), net()
    with torch.no_grad():
        model[4].weight.fill_(3.0)
    with pytest.raises(SparsifyError, match=message):
        nm2trt.load_sparse(model, state)
    assert bool((model[4].weight == 3.0).all())
    assert model.state_dict().keys() == net().state_dict().keys()
    assert type(model[0]) is nn.Conv2d


def test_another_architecture_is_told():
    state = trained("sr-ste")[0].state_dict()
    with pytest.raises(SparsifyError, match=r"has shape \(8,.*\) in the state and \(4,.*\) in the model"):
        nm2trt.load_sparse(net(outputs=4), state)
    with pytest.raises(SparsifyError, match=r"sparse weight 0\.weight is missing in Linear"):
        nm2trt.load_sparse(nn.Linear(4, 4), state)


def test_a_mask_that_breaks_the_pattern_is_told():
    state = dict(trained("magnitude")[0].state_dict())
    state["4.parametrizations.weight.0.mask"] = torch.ones(8, 256, dtype=torch.bool)
    with pytest.raises(SparsityError, match=r"weight breaks 2:4 in"):
        nm2trt.load_sparse(net(), state)


def test_tied_weights_stay_tied():
    def tied():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16, bias=False))
        model[2].weight = model[0].weight
        return model

    model = tied()
    sparse = nm2trt.sparsify(model, method="sr-ste")
    loaded = nm2trt.load_sparse(tied(), copy.deepcopy(model.state_dict()))
    sparse.finalize()
    assert loaded[2].weight is loaded[0].weight
    assert torch.equal(loaded[0].weight, model[0].weight)


def test_an_averaged_model_s_state():
    model, sparse = trained("sr-ste", 0)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    loaded = nm2trt.load_sparse(net(), averaged.state_dict())
    assert torch.equal(loaded[4].weight, sparse.finalize()[4].weight)
