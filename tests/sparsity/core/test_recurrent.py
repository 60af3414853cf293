"""Sparse weights of nn.LSTM, nn.GRU and nn.RNN: each trains as the same network written with cells does."""

import copy

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import nm2trt

STEPS = 5
SHAPE = (3, 4, 16)  # samples, steps of time, features
CELLS = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}


class Whole(nn.Module):
    """A bidirectional recurrent layer and a classifier."""

    def __init__(self, kind=nn.LSTM):
        super().__init__()
        self.rnn = kind(16, 32, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        return self.head(self.rnn(x)[0].mean(1))


class Cells(nn.Module):
    """The same network, step by step in time."""

    def __init__(self, whole):
        super().__init__()
        self.ahead, self.back = (CELLS[type(whole.rnn)](16, 32) for _ in range(2))
        self.head = copy.deepcopy(whole.head)
        for cell, suffix in ((self.ahead, ""), (self.back, "_reverse")):
            for name, parameter in cell.named_parameters():
                parameter.data.copy_(getattr(whole.rnn, f"{name}_l0{suffix}").data)

    def forward(self, x):
        total = 0
        for cell, steps in ((self.ahead, x.unbind(1)), (self.back, x.flip(1).unbind(1))):
            state, outputs = None, []
            for step in steps:
                state = cell(step, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            total = (*total, torch.stack(outputs).mean(0)) if total else (torch.stack(outputs).mean(0),)
        return self.head(torch.cat(total, 1))


CELL_NAME = {
    f"rnn.weight_{part}_l0{suffix}": f"{cell}.weight_{part}"
    for part in ("ih", "hh")
    for suffix, cell in (("", "ahead"), ("_reverse", "back"))
}


def make(kind=nn.LSTM):
    torch.manual_seed(0)
    return Whole(kind)


def attached(model, method="sr-ste", **options):
    include = ["*", "rnn"] if isinstance(model, Whole) else ()
    sparse = nm2trt.sparsify(model, method=method, total_steps=STEPS, include=include, **options)
    optimizer = torch.optim.SGD(model.parameters(), 0.2, momentum=0.5)
    sparse.attach(optimizer)
    return sparse, optimizer


def backward(model, optimizer, seed):
    optimizer.zero_grad()
    x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))
    (model(x) - 1).square().mean().backward()


def train(model, optimizer, steps=range(STEPS)):
    for seed in steps:
        backward(model, optimizer, seed)
        optimizer.step()


@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("method", ["sr-ste", "ste", "lbc", "magnitude"])
def test_masks_and_gradients_are_those_of_the_network_of_cells(method, kind):
    whole = make(kind)
    cells = Cells(whole)
    options = {"lambda_w": 0.1} if method == "sr-ste" else {}
    pairs = [(model, *attached(model, method, **options)) for model in (whole, cells)]
    for seed in range(STEPS):
        for model, _, optimizer in pairs:
            backward(model, optimizer, seed)
        (theirs, mine) = ({w.name: w for w in sparse.weights} for _, sparse, _ in reversed(pairs))
        assert set(mine) == {*CELL_NAME, "head.weight"}
        for name, weight in mine.items():
            other = theirs[CELL_NAME.get(name, name)]
            torch.testing.assert_close(weight.original.grad, other.original.grad, rtol=1e-4, atol=1e-6)
            assert torch.equal(weight.sparse.mask, other.sparse.mask), (seed, name)
        for _, _, optimizer in pairs:
            optimizer.step()
    flipped = pairs[0][1].report()["sad_anchored"]["count"]
    assert flipped > 0 or method == "magnitude"  # else the masks would be equal without having been set
    x = torch.randn(SHAPE)
    wanted = whole(x)
    finished = pairs[0][1].finalize()
    torch.testing.assert_close(finished(x), wanted)
    assert type(finished.rnn) is kind
    assert list(finished.state_dict()) == list(make(kind).state_dict())
    for name in CELL_NAME:
        groups = finished.get_parameter(name).detach().view(-1, 4)
        assert bool(((groups != 0).sum(1) <= 2).all())


def trained(kind, method, device):
    """A finalised network after a few steps on `device`: each step's batch is the same everywhere."""
    model = make(kind).to(device)
    sparse, optimizer = attached(model, method)
    for seed in range(STEPS):
        optimizer.zero_grad()
        x = torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(device)
        (model(x) - 1).square().mean().backward()
        optimizer.step()
    return sparse.finalize()


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk")
@pytest.mark.parametrize("kind", CELLS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("method", ["sr-ste", "lbc", "magnitude"])
def test_a_gpu_trains_what_the_cpu_trains(method, kind, monkeypatch):
    if hasattr(torch.backends.cudnn, "rnn"):  # PyTorch refuses the older setting beside this one
        monkeypatch.setattr(torch.backends.cudnn.rnn, "fp32_precision", "ieee")
    else:
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = (trained(kind, method, device) for device in ("cpu", "cuda"))
    for name in CELL_NAME:
        mine, theirs = here.get_parameter(name).detach(), there.get_parameter(name).detach().cpu()
        assert bool(((theirs.view(-1, 4) != 0).sum(1) <= 2).all()), name
        same = (mine != 0) == (theirs != 0)
        assert float(same.double().mean()) > 0.99, name
        torch.testing.assert_close(theirs[same], mine[same], rtol=1e-3, atol=1e-4)


def test_without_its_name_in_include_a_layer_stays_dense_with_the_reason():
    sparse = nm2trt.sparsify(make())
    assert [w.name for w in sparse.weights] == ["head.weight"]
    reasons = {entry.reason for entry in sparse.plan if entry.pattern is None}
    assert reasons == {"LSTM has no known sparse kernel; name it in include to train it sparse"}


def test_one_weight_alone_may_be_named():
    model = make()
    sparse = nm2trt.sparsify(model, include="rnn.weight_hh_l0")
    assert [w.name for w in sparse.weights] == ["rnn.weight_hh_l0"]
    assert model(torch.randn(SHAPE)).shape == (3, 8)
    assert int(sparse.finalize().rnn.weight_hh_l0.count_nonzero()) == 32 * 128 // 2


def test_a_copy_of_the_moving_average_is_finalised():
    model = make()
    sparse, optimizer = attached(model)
    train(model, optimizer, range(2))
    average = torch.optim.swa_utils.AveragedModel(model)  # a deepcopy after a call, and after .to()
    train(model, optimizer, range(2, STEPS))
    average.update_parameters(model)
    average.update_parameters(model)
    mean = average.module.rnn.parametrizations.weight_ih_l0.original.detach().clone()
    finished = sparse.finalize(average.to(torch.float64)).module
    kept = finished.rnn.weight_ih_l0.detach()
    assert torch.equal(kept[kept != 0], mean.double()[kept != 0])
    assert int(kept.count_nonzero()) == 16 * 128 // 2
    assert copy.deepcopy(model.to(torch.float64)).rnn(torch.randn(SHAPE).double())[0].shape == (3, 4, 64)


@pytest.mark.parametrize("method", ["sr-ste", "lbc", "magnitude"])
def test_a_checkpoint_resumes_and_loads_as_a_finalised_model(method):
    model = make()
    sparse, optimizer = attached(model, method)
    train(model, optimizer, range(2))
    other = make()
    resumed, its_optimizer = attached(other, method)
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(sparse.state_dict())
    its_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for one, its in ((model, optimizer), (other, its_optimizer)):
        train(one, its, range(2, STEPS))
    for key, value in model.state_dict().items():
        assert torch.equal(other.state_dict()[key], value), key
    loaded = nm2trt.load_sparse(make(), model.state_dict())
    finished = sparse.finalize()
    for key, value in finished.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    x = torch.randn(SHAPE)
    assert torch.equal(loaded(x), finished(x))


def test_a_dense_checkpoint_loads_and_the_dense_weights_come_back():
    dense = make(nn.GRU)
    model = Whole(nn.GRU)
    sparse, _ = attached(model)
    model.load_state_dict(dense.state_dict())
    assert torch.equal(sparse.weights[0].original, dense.rnn.weight_ih_l0)
    assert {k: v.shape for k, v in sparse.dense_state_dict().items()} == {
        k: v.shape for k, v in dense.state_dict().items()
    }


def test_zeros_are_kept_after_finalize():
    model = make()
    sparse, optimizer = attached(model)
    train(model, optimizer)
    finished = sparse.finalize()
    kept = nm2trt.keep_zeros(finished)
    train(finished, torch.optim.SGD(finished.parameters(), 0.1, momentum=0.9))
    assert int(finished.rnn.weight_ih_l0.count_nonzero()) == 16 * 128 // 2
    assert set(kept.masks()) == {*CELL_NAME, "head.weight"}


def test_torch_func_and_a_packed_sequence_see_the_same_weights():
    model = make()
    attached(model)
    x = torch.randn(SHAPE)
    wanted = model(x)
    parameters = dict(model.named_parameters())
    assert torch.equal(torch.func.functional_call(model, parameters, (x,)), wanted)
    doubled = {k: v * 2 if "weight_ih_l0." in k else v for k, v in parameters.items()}
    assert not torch.equal(torch.func.functional_call(model, doubled, (x,)), wanted)
    assert torch.equal(model(x), wanted)
    packed = nn.utils.rnn.pack_padded_sequence(x, [4, 4, 4], batch_first=True)
    outputs, _ = nn.utils.rnn.pad_packed_sequence(model.rnn(packed)[0], batch_first=True)
    # Up to PyTorch 2.9 packed sequences are summed in another order.
    torch.testing.assert_close(outputs, model.rnn(x)[0], rtol=0, atol=1e-6)


def test_the_exported_file_holds_the_pattern_under_the_names_of_the_plan(tmp_path):
    model = make()
    sparse, optimizer = attached(model)
    train(model, optimizer)
    path = tmp_path / "model.onnx"
    plan = nm2trt.export(sparse.finalize(), torch.randn(SHAPE), path).plan
    names = ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    assert [(entry.weight, str(entry.pattern)) for entry in plan] == [(name, "2:4") for name in names]
    report = nm2trt.verify(path)
    assert {row.weight: row.pattern for row in report.weights} == dict.fromkeys(names, "holds")
    assert not report.missing
    graph = onnx.load(path).graph
    (node,) = (node for node in graph.node if node.op_type == "LSTM")
    assert list(node.input[1:3]) == names[:2]
    for tensor in graph.initializer:
        if tensor.name in names:
            values = onnx.numpy_helper.to_array(tensor)
            assert (np.count_nonzero(values.reshape(-1, 4), axis=1) == 2).all()


def test_directions_with_different_patterns_are_told_in_the_exported_plan(tmp_path):
    model = make(nn.GRU)
    sparse = nm2trt.sparsify(model, method="magnitude", include=["*", "rnn"], exclude="*_hh_l0_reverse")
    plan = nm2trt.export(
        sparse.finalize(), torch.randn(SHAPE), tmp_path / "model.onnx", dynamic_batch=False
    ).plan
    assert [entry.weight for entry in plan] == ["rnn.weight_ih_l0", "rnn.weight_hh_l0", "head.weight"]
    whole, half, _ = plan
    assert (str(whole.pattern), whole.shape, whole.axis) == ("2:4", (2, 96, 16), 2)
    assert half.pattern is None
    assert half.reason.startswith("rnn.weight_hh_l0 and rnn.weight_hh_l0_reverse share a tensor")
