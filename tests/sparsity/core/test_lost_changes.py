"""What torch cannot see on a sparsified layer: in-place changes, later parametrisations, torch.func, meta."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from nm2trt.errors import SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import magnitude_mask
from nm2trt.sparsity.methods.lbc_candidates import candidates
from nm2trt.sparsity.sparsify import sparsify

METHODS = ["sr-ste", "ste", "lbc", "magnitude"]
PATTERN = NMPattern(2, 4)


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))


def train(model, sparse, steps):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(8, 32, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()


# In-place changes of the computed weight.

CHANGES = {
    "nn.init": lambda layer: nn.init.kaiming_normal_(layer.weight),
    "mul_": lambda layer: layer.weight.mul_(2),
    "copy_": lambda layer: layer.weight.copy_(torch.ones(32, 32)),
    "index": lambda layer: layer.weight.__setitem__((0, 0), 3.0),
    "fill_ of a view": lambda layer: layer.weight[0].fill_(1.0),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", CHANGES)
def test_an_in_place_change_of_a_sparse_weight_is_refused(change, method):
    model = net()
    sparse = sparsify(model, method=method, total_steps=4)
    with torch.no_grad():
        CHANGES[change](model[0])
    message = r"0\.weight was changed in place .*initialise, load and tie before sparsify"
    with pytest.raises(SparsifyError, match=message):
        model(torch.ones(1, 32))
    model(torch.ones(1, 32))  # told once
    if method != "lbc":
        with torch.no_grad():
            CHANGES[change](model[0])
        with pytest.raises(SparsifyError, match="was changed in place"):
            sparse.finalize()


def test_the_dense_weight_may_be_initialised_in_place():
    model = net()
    sparse = sparsify(model)
    nn.init.normal_(model[0].parametrizations.weight.original)
    sparse.refresh()
    model(torch.ones(1, 32))
    sparse.finalize()


def test_a_copy_does_not_share_the_watch():
    model = net()
    sparsify(model)
    model(torch.ones(1, 32))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model[0].weight.mul_(2)
    twin(torch.ones(1, 32))


@pytest.mark.filterwarnings("ignore:.torch.jit")
@pytest.mark.parametrize("method", METHODS)
def test_inference_mode_and_tracing_are_left_alone(method):
    model = net()
    sparsify(model, method=method, total_steps=4)
    x = torch.ones(1, 32)
    with torch.inference_mode():
        inside = model(x)
    assert torch.equal(torch.jit.trace(model, x)(x), inside)
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), inside.clone())


# Another parametrisation that is registered later.


class Double(nn.Module):
    def forward(self, weight):
        return weight * 2


LATER = {
    "spectral_norm": parametrizations.spectral_norm,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Double()),
}


@pytest.mark.parametrize("later", LATER)
@pytest.mark.parametrize("of_copy", [False, True], ids=["model", "copy"])
def test_another_parametrisation_registered_later_is_refused(later, of_copy):
    model = net()
    sparse = sparsify(model, method="magnitude")
    target = copy.deepcopy(model) if of_copy else model
    LATER[later](target[0])
    before = {key: value.clone() for key, value in target.state_dict().items()}
    with pytest.raises(
        SparsifyError, match=r"0\.weight has another parametrisation \(.+\), which finalize would"
    ):
        sparse.finalize(target) if of_copy else sparse.finalize()
    assert all(torch.equal(value, before[key]) for key, value in target.state_dict().items())


def test_one_on_another_tensor_stays():
    model = net()
    sparse = sparsify(model, method="magnitude")
    parametrize.register_parametrization(model[0], "bias", Double())
    x = torch.randn(3, 32)
    before = model(x)
    torch.testing.assert_close(sparse.finalize()(x), before)
    assert parametrize.is_parametrized(model[0], "bias")


# torch.func.


@pytest.mark.parametrize("method", [*METHODS, "lbc-done"])
def test_torch_func_gives_the_gradients_of_backward(method):
    model = net()
    sparse = sparsify(model, method=method.removesuffix("-done"), total_steps=4)
    if method == "lbc-done":
        train(model, sparse, 4)
    x = torch.randn(5, 32)
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())

    def loss(params, row):
        return torch.func.functional_call(model, (params, buffers), (row,)).square().mean()

    whole = torch.func.grad(loss)(parameters, x)
    per_row = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    model.zero_grad()
    model(x).square().mean().backward()
    for name, parameter in parameters.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(whole[name], expected, msg=name)
        torch.testing.assert_close(per_row[name].mean(0), expected, msg=name)


# Layers that are made on the meta device.


@pytest.mark.parametrize("way", ["load_state_dict", "assign", "refresh", "attach"])
@pytest.mark.parametrize("method", METHODS)
def test_a_model_from_the_meta_device_is_right_once_it_has_values(method, way):
    given = net()
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8))
    sparse = sparsify(model, method=method, total_steps=4)
    unset = r"0\.weight was attached on the meta device and its mask is not set"
    for early in (sparse.report, sparse.finalize, sparse.masks):
        with pytest.raises(SparsifyError, match=unset):
            early()
    if way != "assign":
        model.to_empty(device="cpu")
        for buffer in model.buffers():  # uninitialised memory may hold anything
            buffer.fill_(1) if buffer.dtype is torch.bool else buffer.fill_(7)
        with pytest.raises(SparsifyError, match=unset):
            model(torch.ones(1, 32))
        sparse.state_dict()  # remembers none of these masks
    if way == "assign":
        model.load_state_dict({key: value.clone() for key, value in given.state_dict().items()}, assign=True)
    elif way == "load_state_dict":
        model.load_state_dict(given.state_dict())
    else:
        with torch.no_grad():
            for weight in sparse.weights:
                weight.original.copy_(given.get_parameter(weight.name))
            for layer in (0, 2):
                model[layer].bias.copy_(given[layer].bias)
    if way == "refresh":
        sparse.refresh()
    plain_sparse = sparsify(given, method=method, total_steps=4)
    train(given, plain_sparse, 4)
    train(model, sparse, 4)
    if method == "lbc":
        assert torch.equal(sparse.weights[0].sparse.table, candidates(PATTERN))
    assert sparse.report() == plain_sparse.report()
    plain_sparse.finalize()
    sparse.finalize()
    for key, value in given.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize("method", ["spre", "fcpts"])
def test_methods_that_need_values_refuse_the_meta_device(method):
    with torch.device("meta"):
        model = nn.Sequential(nn.Conv2d(32, 32, 3, bias=False), nn.BatchNorm2d(32))
    options = {"calibration": [torch.randn(4, 32, 5, 5)]} if method == "fcpts" else {}
    with pytest.raises(
        SparsifyError, match=rf"{method!r} reads .* 0\.weight is on the meta device.*to_empty"
    ):
        sparsify(model, method=method, **options)


def test_masks_are_copies():
    model = net()
    sparse = sparsify(model)
    masks = sparse.masks()
    assert list(masks) == ["0.weight", "2.weight"]
    assert torch.equal(
        masks["0.weight"], magnitude_mask(sparse.weights[0].original.detach(), PATTERN, axis=1)
    )
    masks["0.weight"].fill_(False)
    assert check(sparse.finalize()[0].weight.detach().numpy(), PATTERN, axis=1).holds
    assert int(model[0].weight.count_nonzero()) == 32 * 16


# Adapters that merge into a computed weight.


class Adapter(nn.Module):
    """What a layer of peft 0.21 does when it merges: it writes to `.data`, and notes that it did."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters = []

    def merge(self):
        self.base_layer.weight.data += 1
        self.merged_adapters.append("default")


@pytest.mark.parametrize(
    ("added", "taken_out"), [("before sparsify", True), ("before attach", True), ("after attach", False)]
)
def test_adapters_that_were_merged_while_a_method_was_attached_are_reported(added, taken_out):
    model = net()
    if added == "before sparsify":
        model[0] = Adapter(model[0])
    sparse = sparsify(model, method="magnitude")
    if added == "before attach":
        model[0] = Adapter(model[0])
    sparse.attach(torch.optim.SGD(model.parameters(), 0.1))
    if added == "after attach":
        model[0] = Adapter(model[0])
    adapter = model[0]
    adapter.merge()
    if taken_out:
        model[0] = adapter.base_layer
    with pytest.warns(UserWarning, match=r"merged into 1 sparse layer while .*; merge them before sparsify"):
        sparse.finalize()


def test_adapters_that_were_merged_before_or_taken_back_are_not_reported(recwarn):
    model = net()
    model[0] = Adapter(model[0])
    model[0].merge()
    model[2] = Adapter(model[2])
    sparse = sparsify(model, method="magnitude")
    model[2].merge()
    model[2].merged_adapters.clear()
    sparse.finalize()
    assert not recwarn.list
