"""Optimizers that change while a model trains: followed, refused at once, or warned of; never left behind."""

import copy
import gc
import warnings
from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from nm2trt.errors import SparsifyError
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.sparsify import sparsify

STEPS = 8
WAYS = {
    "sr-ste": {"method": "sr-ste"},
    "ste": {"method": "ste"},
    "lbc": {"method": "lbc", "total_steps": STEPS},
    "magnitude": {"method": "magnitude"},
    "gradual": {"method": "magnitude", "gradual": True, "total_steps": STEPS},
    "ramp": {"method": "ste", "ramp": 0.5, "total_steps": STEPS},
    "spre": {"method": "spre"},
}


def net():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    return nn.Sequential(
        conv, nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 16), nn.Linear(16, 8)
    )


def train(model, optimizer, steps):
    for step in range(steps):
        x = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(x) - 1).square().mean().backward()
        optimizer.step()


def sgd(model, lr=0.1):
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr, momentum=0.9)


@pytest.fixture(params=WAYS)
def attach(request):
    return lambda model: sparsify(model, pattern="2:4", **WAYS[request.param])


def masks_are_current(sparse):
    return all(
        torch.equal(w.sparse.mask, magnitude_mask(w.original.detach(), w.sparse.pattern, axis=w.sparse.axis))
        for w in sparse.weights
        if w.sparse.mask_follows_weight
    )


def test_a_second_optimizer_is_followed_as_one_optimizer_is(attach):
    """Two phases of SGD without momentum, each with an optimizer of its own, equal one optimizer."""
    found = []
    for phases in ([STEPS], [3, STEPS - 3]):
        model = net()
        sparse = attach(model)
        for steps in phases:
            optimizer = torch.optim.SGD(model.parameters(), 0.3)
            sparse.attach(optimizer)
            train(model, optimizer, 1)
            for _ in range(steps - 1):
                train(model, optimizer, 1)
        assert sparse.step == STEPS
        found.append(sparse.finalize().state_dict())
    for key, value in found[0].items():
        assert torch.equal(value, found[1][key]), key


def test_attaching_the_same_optimizer_again_counts_its_steps_once():
    model = net()
    sparse = sparsify(model)
    optimizer = sgd(model)
    for _ in range(3):
        sparse.attach(optimizer)
    train(model, optimizer, 2)
    assert sparse.step == 2


def test_a_layer_that_is_unfrozen_and_joins_by_a_parameter_group_is_followed(attach):
    model = net()
    model[4].requires_grad_(False)
    sparse = attach(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, 2)
    model[4].requires_grad_(True)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    optimizer.add_param_group({"params": [p for p in model[4].parameters() if id(p) not in held]})
    train(model, optimizer, STEPS - 2)
    assert masks_are_current(sparse)
    joined = next(w for w in sparse.weights if w.name == "4.weight")
    assert joined.sparse.updates >= STEPS - 2
    sparse.finalize()


@pytest.mark.parametrize("freeze_at", ["before", "after"])
def test_frozen_layers_at_the_end_hold_their_pattern(attach, freeze_at):
    model = net()
    if freeze_at == "before":
        model[4].requires_grad_(False)
    sparse = attach(model)
    if freeze_at == "after":  # LBC's scores are frozen with the layer
        model[4].requires_grad_(False)
    before = dict(model.named_parameters())["4.parametrizations.weight.original"].detach().clone()
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, STEPS)
    model = sparse.finalize()
    kept = model[4].weight != 0
    assert torch.equal(model[4].weight, before * kept), "a frozen weight only loses entries"
    assert int(kept.sum()) == before.numel() // 2


@pytest.mark.parametrize("options", [{"method": "magnitude", "gradual": True}, {"ramp": 0.5}])
def test_a_schedule_that_no_optimizer_advances_says_which_one_would(options):
    for held, ends in (("trained", False), ("all", True)):
        model = net()
        model[:5].requires_grad_(False)
        sparse = sparsify(model, exclude="5", total_steps=STEPS, **options)
        optimizer = sgd(model) if held == "trained" else torch.optim.SGD(model.parameters(), 0.1)
        sparse.attach(optimizer)
        train(model, optimizer, STEPS)
        if ends:
            sparse.finalize()
            continue
        with pytest.raises(
            SparsifyError, match=r"no attached optimizer holds.*model\.parameters\(\), frozen"
        ):
            sparse.finalize()


def test_lbc_prunes_a_layer_whose_scores_were_never_trained_by_magnitude():
    model = net()
    sparse = sparsify(model, method="lbc", total_steps=STEPS)
    model[4].requires_grad_(False)
    weight = sparse.weights[1].original.detach().clone()
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, STEPS)
    assert torch.equal(
        sparse.masks()["4.weight"], magnitude_mask(weight, sparse.weights[1].sparse.pattern, axis=1)
    )


def test_a_gradual_schedule_of_a_frozen_layer_keeps_pace():
    model = net()
    model[4].requires_grad_(False)
    sparse = sparsify(model, method="magnitude", gradual=True, pattern="1:8", total_steps=STEPS)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    kept = []
    for _ in range(STEPS):
        train(model, optimizer, 1)
        masks = sparse.masks()
        assert masks["4.weight"].float().mean() == masks["5.weight"].float().mean()
        kept.append(masks["4.weight"])
    assert all(not (after & ~before).any() for before, after in pairwise(kept))


def test_detach_stops_following_and_leaves_the_optimizer_alone():
    model = net()
    sparse = sparsify(model)
    first, second = sgd(model), sgd(model)
    sparse.attach(first, second)
    sparse.detach(first)
    with pytest.warns(UserWarning, match="without being attached"):
        train(model, first, 1)
    train(model, second, 1)
    assert sparse.step == 1
    sparse.detach()
    with pytest.warns(UserWarning, match="without being attached"):
        train(model, second, 1)
    with pytest.raises(SparsifyError, match="detach: the SGD is not attached"):
        sparse.detach(first)


def test_each_optimizer_that_is_not_followed_warns_when_training_begins_again(attach):
    model = net()
    sparse = attach(model)
    followed = sgd(model)
    sparse.attach(followed)
    train(model, followed, 1)
    for _ in range(2):
        stray = torch.optim.SGD(model.parameters(), 0.1)
        with pytest.warns(UserWarning, match=r"SGD\) stepped a sparsified model without being attached"):
            train(model, stray, 1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(model, stray, 2)


def test_an_optimizer_of_other_weights_only_is_not_warned_of():
    model, other = net(), nn.Linear(4, 4)
    sparsify(model)
    mixed = torch.optim.SGD([*other.parameters(), model[1].weight], 0.1)
    other(torch.randn(2, 4)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        mixed.step()


def test_a_forgotten_optimizer_leaves_nothing_behind():
    model = net()
    sparse = sparsify(model)
    sparse.attach(sgd(model))
    gc.collect()
    with pytest.raises(SparsifyError, match=r"the optimizer does not train 0\.weight"):
        sparse.attach(torch.optim.SGD(model[4].parameters(), 0.1))
    sparse.attach(sgd(model))


@pytest.mark.parametrize("method", ["sr-ste", "ste", "spre"])
def test_finalize_refuses_masks_that_are_not_the_weights(method):
    model = net()
    sparse = sparsify(model, method=method)
    stray = sgd(model)
    with pytest.warns(UserWarning, match="without being attached"):
        train(model, stray, 5)
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(SparsifyError, match=r"mask entries of .*weight are not those of its values.*refresh"):
        sparse.finalize()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    sparse.refresh()
    sparse.finalize()


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_whose_masks_do_not_follow_warns_until_they_are_set(way):
    model = net()
    sparse = sparsify(model, pattern="2:4", **WAYS[way])
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, STEPS // 2)
    ema = torch.optim.swa_utils.AveragedModel(model)
    x = torch.zeros(2, 16, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ema(x)  # an exact copy
        ema.update_parameters(model)
        sparse.refresh(ema)
        ema(x)
    ema.update_parameters(model)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        ema(x)
        ema(x)
    stays = way == "magnitude"  # its mask is every copy's
    assert len(seen) == (0 if stays else len(sparse.weights)), "once a weight"
    assert stays or "call refresh(copy)" in str(seen[0].message)


def test_a_copy_of_model_and_session_is_trained_like_the_first(attach):
    model = net()
    sparse = attach(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    train(model, optimizer, 2)
    other, copied, its_optimizer = copy.deepcopy((model, sparse, optimizer))
    with pytest.warns(UserWarning, match="without being attached"):
        its_optimizer.step()
    other, copied, its_optimizer = copy.deepcopy((model, sparse, optimizer))
    copied.attach(its_optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(other, its_optimizer, STEPS - 2)
        train(model, optimizer, STEPS - 2)
    assert (copied.step, copied.model) == (sparse.step, other)
    for mine, theirs in zip(sparse.finalize().parameters(), copied.finalize().parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_an_optimizer_of_another_model_is_refused():
    model = net()
    sparse = sparsify(model)
    with pytest.raises(SparsifyError, match="the optimizer does not train"):
        sparse.attach(sgd(net()))
    with pytest.raises(SparsifyError, match="the SGD holds no parameter of the sparsified Sequential"):
        sparse.attach(sgd(model), sgd(net()))


def test_lbc_leaves_scores_frozen_that_were_frozen():
    model = net()
    sparse = sparsify(model, method="lbc", total_steps=STEPS)
    model[4].requires_grad_(False)
    scores = sparse.weights[1].sparse.scores
    before = scores.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    train(model, optimizer, STEPS // 2 - 1)
    assert sparse.report()["layers"]["4.weight"]["survivors"] < 6, "some were removed"
    assert not scores.requires_grad
    assert torch.equal(scores, before)


def test_scores_in_an_optimizer_of_their_own_count_each_step_once():
    model = net()
    sparse = sparsify(model, method="lbc", total_steps=STEPS)
    scores = {id(weight.sparse.scores) for weight in sparse.weights}
    of_scores = torch.optim.SGD([p for p in model.parameters() if id(p) in scores], 0.1)
    of_weights = torch.optim.AdamW([p for p in model.parameters() if id(p) not in scores])
    sparse.attach(of_weights, of_scores)
    of_weights.register_step_post_hook(lambda *_: of_scores.step())
    train(model, of_weights, 3)
    assert sparse.step == 3
    assert len(sparse.weights[0].sparse.scores.unique()) > 1, "they were trained"


def test_an_optimizer_that_steps_another_inside_counts_once():
    class Outer(torch.optim.SGD):
        def step(self, closure=None):
            inner.step(closure)

    model = net()
    sparse = sparsify(model)
    inner = sgd(model)
    outer = Outer(model.parameters(), 0.1)
    sparse.attach(outer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, outer, 2)
    assert sparse.step == 2


def test_nan_gradients_are_told_at_the_latest_when_the_model_is_finalised(attach):
    model = net()
    sparse = attach(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)

    def run():
        for _ in range(STEPS):
            optimizer.zero_grad()
            (model(torch.randn(2, 16, 4, 4)).sum() * float("nan")).backward()
            optimizer.step()
        sparse.finalize()

    with pytest.raises(SparsifyError, match=r"NaN or infinit.*load an earlier checkpoint"):
        run()


def test_a_parametrisation_that_torch_removed_is_told_and_harms_no_other_optimizer():
    model, other = net(), nn.Linear(4, 4)
    sparse = sparsify(model)
    optimizer = sgd(model)
    sparse.attach(optimizer)
    for module in model:
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")
    other(torch.ones(1, 4)).sum().backward()
    sgd(other).step()
    with pytest.raises(SparsifyError, match=r"weight was removed; end a session by finalize\(\)"):
        optimizer.step()
