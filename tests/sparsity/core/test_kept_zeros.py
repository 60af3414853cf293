"""keep_zeros: a finalised model trains on with its zeros, or one warning says that they went."""

import copy
import warnings

import pytest
import torch
from torch import nn

import nm2trt
from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core import kept_zeros
from tests.packed_tensor import packed

METHODS = ["sr-ste", "lbc", "magnitude", "spre"]


def net():
    torch.manual_seed(0)
    conv = nn.Conv2d(16, 16, 3, padding=1, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(256, 16))


def train(model, optimizer, steps=3):
    for _ in range(steps):
        optimizer.zero_grad()
        (model(torch.randn(4, 16, 4, 4)) - 1).square().mean().backward()
        optimizer.step()


def finalised(method="magnitude"):
    model = net()
    sparse = nm2trt.sparsify(model, method=method, total_steps=2)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    sparse.attach(optimizer)
    train(model, optimizer, 2)
    return sparse.finalize(), optimizer


def zeros(model):
    return {name: p.detach() == 0 for name, p in model.named_parameters() if p.ndim > 1}


def adam(model):
    return torch.optim.AdamW(model.parameters(), 1e-2, weight_decay=0.1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("fresh", [False, True], ids=["same optimizer", "new optimizer"])
def test_training_on_keeps_the_zeros_and_moves_the_rest(method, fresh):
    model, optimizer = finalised(method)
    optimizer = adam(model) if fresh or method == "spre" else optimizer
    before = copy.deepcopy(model)
    kept = nm2trt.keep_zeros(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)
    for name, mask in zeros(before).items():
        assert int(mask.sum()) == mask.numel() // 2, name
        assert torch.equal(zeros(model)[name], mask), name
        assert torch.equal(kept.masks()[name], ~mask), name
        assert not torch.equal(model.get_parameter(name), before.get_parameter(name))


@pytest.mark.parametrize("method", METHODS)
def test_without_it_one_warning_says_so(method):
    model, _ = finalised(method)
    optimizer = adam(model)
    with pytest.warns(UserWarning, match=r"filled zeros of 0\.weight; call nm2trt\.keep_zeros"):
        train(model, optimizer, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)


def test_a_warm_up_from_a_rate_of_zero_is_seen_later():
    model, _ = finalised()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    optimizer.param_groups[0]["lr"] = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer, 3)
    optimizer.param_groups[0]["lr"] = 0.1
    with pytest.warns(UserWarning, match="filled zeros"):
        train(model, optimizer, 5)


@pytest.mark.parametrize("method", ["sr-ste", "magnitude"])
def test_sparsifying_again_warns_of_nothing(method):
    model, _ = finalised()
    sparse = nm2trt.sparsify(model, method=method)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(model, optimizer)
    sparse.finalize()


def test_a_downloaded_model_needs_no_plan_and_dense_layers_stay_free():
    given, _ = finalised()
    model = net()
    model.append(nn.Linear(16, 16))
    model.append(nn.Linear(16, 4))
    nn.init.zeros_(model[5].weight)  # a layer that starts at zero is not a sparse layer
    model.load_state_dict(given.state_dict(), strict=False)
    kept = nm2trt.keep_zeros(model)
    assert list(kept.masks()) == ["0.weight", "3.weight"]
    train(model, adam(model))
    assert torch.equal(zeros(model)["0.weight"], zeros(given)["0.weight"])
    assert int(model[5].weight.count_nonzero()) > 0
    kept.remove()
    train(model, adam(model), 1)
    assert int(zeros(model)["0.weight"].sum()) == 0


def test_a_copy_keeps_its_zeros_or_warns_as_the_model_does():
    model, _ = finalised()
    watched = copy.deepcopy(model)
    with pytest.warns(UserWarning, match="filled zeros"):
        train(watched, adam(watched), 1)
    kept = nm2trt.keep_zeros(model)
    followed = copy.deepcopy(model)
    train(followed, adam(followed))
    assert torch.equal(zeros(followed)["0.weight"], zeros(model)["0.weight"])
    kept.remove()
    train(followed, adam(followed), 1)  # the copy has a keeper of its own
    assert torch.equal(zeros(followed)["0.weight"], zeros(model)["0.weight"])


def test_wrappers_and_pickles(tmp_path):
    model, _ = finalised()
    kept = nm2trt.keep_zeros(torch.compile(model, backend="aot_eager"))
    assert list(kept.masks()) == ["0.weight", "3.weight"]
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert torch.equal(zeros(loaded)["0.weight"], zeros(model)["0.weight"])
    assert list(nm2trt.keep_zeros(loaded).masks()) == ["0.weight", "3.weight"]


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_compiled_copy_that_shares_the_weights_warns_of_nothing():
    # Keepers run in no order that is known: one of several would find the zeros filled.
    for _ in range(6):
        model, _ = finalised()
        compiled = torch.jit.script(model)
        nm2trt.keep_zeros(compiled)
        before = zeros(model)["0.weight"]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            train(compiled, adam(compiled), 1)
        assert torch.equal(zeros(model)["0.weight"], before)


def test_models_that_are_gone_leave_nothing_behind():
    model, _ = finalised()
    nm2trt.keep_zeros(model)
    other = nn.Linear(2, 2)
    del model
    import gc

    gc.collect()
    other(torch.ones(1, 2)).sum().backward()
    torch.optim.SGD(other.parameters(), 0.1).step()
    assert all(any(r() is not None for r, _ in kept._sites.values()) for kept in kept_zeros._KEPT)


def test_mistakes():
    with pytest.raises(SparsifyError, match="Sequential has no weight with zeros to keep"):
        nm2trt.keep_zeros(net())
    model = net()
    nm2trt.sparsify(model)
    with pytest.raises(SparsifyError, match="a method is attached to the model"):
        nm2trt.keep_zeros(model)


@pytest.mark.parametrize("planned", [True, False], ids=["plan", "no plan"])
def test_weights_quantised_by_another_library_are_left_alone(planned):
    model, _ = finalised()
    if not planned:
        model = nn.Sequential(*model)
    packed(model[3])
    kept = nm2trt.keep_zeros(model)
    packed(model[0])
    assert list(kept.masks()) == ["0.weight"]
    adam(model).step()
    with pytest.raises(SparsifyError, match=r"\(0\.weight is of class Packed, not a plain tensor\)"):
        nm2trt.keep_zeros(model)


def test_a_watch_ends_where_the_weight_is_quantised():
    model, _ = finalised()
    packed(model[0])
    packed(model[3])
    adam(model).step()
