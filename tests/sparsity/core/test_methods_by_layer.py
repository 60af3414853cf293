"""Several methods in one session: each layer trains as it would under its own method alone."""

import pytest
import torch
from torch import nn

import nm2trt
from nm2trt.errors import SparsifyError

STEPS = 6


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 16))


def step(model, optimizer, seed):
    optimizer.zero_grad()
    x = torch.randn(8, 32, generator=torch.Generator().manual_seed(seed))
    (model(x) - 1).square().mean().backward()
    optimizer.step()


MIXED = {"0": "lbc", "2": "magnitude", "4": "sr-ste"}


def test_each_layer_has_its_method_and_all_hold_the_pattern():
    model = net()
    sparse = nm2trt.sparsify(model, method=MIXED, total_steps=STEPS, lambda_w=0.1, end=0.5)
    kinds = [weight.sparse.nm2trt_method for weight in sparse.weights]
    assert kinds == ["lbc", "magnitude", "sr-ste"]
    assert sparse.plan.method == "lbc, magnitude, sr-ste"
    assert [entry.reason.rpartition("; ")[2] for entry in sparse.plan] == [
        "by lbc",
        "by magnitude",
        "by sr-ste",
    ]
    assert sparse.weights[2].sparse.options.lambda_w == 0.1
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    for seed in range(STEPS):
        step(model, optimizer, seed)
    state = model.state_dict()
    loaded = nm2trt.load_sparse(net(), state)
    for key, value in sparse.finalize().state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert all(int(model[i].weight.count_nonzero()) * 2 == model[i].weight.numel() for i in (0, 2, 4))


@pytest.mark.parametrize("method", ["sr-ste", "ste", "lbc", "magnitude"])
def test_a_dict_of_one_method_is_that_method(method):
    states = []
    for given in (method, {"*": method}):
        model = net()
        sparse = nm2trt.sparsify(model, method=given, total_steps=STEPS)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sparse.attach(optimizer)
        for seed in range(STEPS):
            step(model, optimizer, seed)
        assert sparse.plan.method == method
        states.append(sparse.finalize().state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_the_first_glob_decides_and_a_layer_without_one_stays_dense():
    sparse = nm2trt.sparsify(net(), method={"2.weight": "ste", "[02]": "magnitude"})
    assert [w.sparse.nm2trt_method for w in sparse.weights] == ["magnitude", "ste"]
    assert sparse.plan.get("4.weight").reason == "no method is given for its name"


REFUSED = {
    "empty": ({}, {}, "the methods by name are empty"),
    "unknown": ({"*": "asp"}, {}, "method 'asp' is unknown"),
    "glob": ({"tail": "ste", "*": "lbc"}, {"total_steps": 4}, "method: 'tail' matches no layer"),
    "start": ({"0": "spre", "*": "ste"}, {}, "'spre' changes more than weights and cannot share a session"),
    "option": ({"0": "ste", "*": "lbc"}, {"lamda": 1}, "none of ste, lbc knows the option 'lamda'"),
    "schedule": ({"0": "ste", "*": "lbc"}, {}, "'lbc' has a schedule: give total_steps"),
    "layer": (
        {"0": "lbc", "*": "ste"},
        {"pattern": "4:16", "total_steps": 4},
        r"^0\.weight: 4:16 has 1820 combinations",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_told_and_leave_the_model_alone(case):
    method, options, message = REFUSED[case]
    model = net()
    before = list(model.state_dict())
    with pytest.raises(SparsifyError, match=message):
        nm2trt.sparsify(model, method=method, **options)
    assert list(model.state_dict()) == before


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(16, 32, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(64, 32)

    def forward(self, x):
        outputs, _ = self.rnn(x)
        hidden = torch.zeros(x.shape[0], 32)
        for time in range(outputs.shape[1]):
            hidden = self.cell(outputs[:, time], hidden)
        return hidden


@pytest.mark.parametrize("method", ["sr-ste", "lbc", "magnitude"])
def test_cells_become_sparse_and_whole_recurrent_layers_say_why_they_do_not(method):
    torch.manual_seed(0)
    model = Recurrent()
    sparse = nm2trt.sparsify(model, method=method, total_steps=STEPS)
    assert [w.name for w in sparse.weights] == ["cell.weight_ih", "cell.weight_hh"]
    dense = {entry.weight: entry.reason for entry in sparse.plan if entry.pattern is None}
    assert len(dense) == 4
    assert all("LSTM has no known sparse kernel" in reason for reason in dense.values())
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    sparse.attach(optimizer)
    for _ in range(STEPS):
        optimizer.zero_grad()
        (model(torch.randn(4, 3, 16)) - 1).square().mean().backward()
        optimizer.step()
    x = torch.randn(2, 3, 16)
    wanted = model(x)
    torch.testing.assert_close(sparse.finalize()(x), wanted)
    for weight in (model.cell.weight_ih, model.cell.weight_hh):
        groups = weight.detach().view(-1, 4)
        assert bool(((groups != 0).sum(1) <= 2).all())
