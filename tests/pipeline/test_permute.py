"""permute of torch modules: parameters move in place, the function stays, and one-shot N:M keeps more."""

import numpy as np
import pytest

import nm2trt
from nm2trt.errors import DifferenceError, InputError, SparsifyError

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.usefixtures("one_export")


class Block(nn.Module):
    """Inverted residual with BatchNorms, a per-channel scale and a Linear head."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.up, self.dw = nn.Conv2d(16, 32, 1, bias=False), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.wide, self.act = nn.BatchNorm2d(32), nn.PReLU(32)
        self.down, self.head = nn.Conv2d(32, 16, 1), nn.Linear(16, 10)
        self.scale = nn.Parameter(torch.rand(32, 1, 1) + 0.5)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.down(self.act(self.wide(self.dw(self.up(x)))) * self.scale)
        return self.head(x.mean((2, 3)))


class Tokens(nn.Module):
    """An MLP behind attention; the embedding is the output layer too."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(40, 32)
        self.norm, self.attend = nn.LayerNorm(32), nn.MultiheadAttention(32, 4, batch_first=True)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.head = nn.Linear(32, 40, bias=False)
        self.head.weight = self.table.weight

    def forward(self, ids):
        x = self.table(ids)
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return self.head(x + self.down(nn.functional.gelu(self.up(x))))


def made(cls, seed=0):
    torch.manual_seed(seed)
    model = cls()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.copy_(torch.randn_like(tensor))
            module.running_var.uniform_(0.5, 2)
    return model


EXAMPLES = {Block: lambda: torch.randn(2, 3, 8, 8), Tokens: lambda: torch.randint(0, 40, (2, 7))}
MOVES = {Block: {16, 32}, Tokens: {32, 64}}


@pytest.mark.parametrize("cls", [Block, Tokens])
def test_the_function_stays_in_both_modes_and_more_magnitude_is_kept(cls):
    model, example = made(cls), EXAMPLES[cls]()
    sums = {name: tensor.detach().double().sum() for name, tensor in model.state_dict().items()}
    outputs = [made(cls).train(mode)(example).detach() for mode in (True, False)]
    model = made(cls).train()
    names = {name: id(tensor) for name, tensor in model.named_parameters()}
    report = nm2trt.permute(model, example)
    assert model.training
    assert {space.channels for space in report.spaces if space.moved} == MOVES[cls]
    assert report.kept_after > report.kept_before
    assert names == {name: id(tensor) for name, tensor in model.named_parameters()}
    for name, tensor in model.state_dict().items():
        assert torch.isclose(tensor.double().sum(), sums[name], atol=1e-4), name
    for mode, expected in zip((True, False), outputs, strict=True):
        model = made(cls).eval()
        nm2trt.permute(model, example)
        torch.testing.assert_close(model.train(mode)(example).detach(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["magnitude", "sr-ste"])
def test_one_shot_keeps_more_after_it(method):
    kept = []
    for permuted in (False, True):
        model = made(Block)
        if permuted:
            nm2trt.permute(model, EXAMPLES[Block]())
        options = {"total_steps": 10} if method == "sr-ste" else {}
        sparse = nm2trt.sparsify(model, method=method, pattern="2:4", **options)
        sparse.finalize()
        weights = [model.up.weight, model.down.weight, model.head.weight]
        assert all((w == 0).double().mean() >= 0.5 for w in weights)
        originals = dict(made(Block).named_parameters())
        means = [originals[f"{n}.weight"].detach().abs().mean() for n in ("up", "down", "head")]
        kept.append(sum(float(w.detach().abs().sum() / m) for w, m in zip(weights, means, strict=True)))
    assert kept[1] > kept[0]


def test_tied_weights_stay_tied_and_move_once():
    model = made(Tokens)
    rows = model.table.weight.detach().clone()
    report = nm2trt.permute(model, EXAMPLES[Tokens]())
    assert model.head.weight is model.table.weight
    assert any("table.weight" in space.tensors or "head.weight" in space.tensors for space in report.spaces)
    assert not torch.equal(model.table.weight, rows)
    assert torch.equal(model.table.weight.sort(1).values, rows.sort(1).values)


def test_a_tensor_that_the_code_computes_freezes_its_channels():
    class Ramp(Block):
        def forward(self, x):
            x = torch.relu(self.norm(self.stem(x))) * torch.linspace(1, 2, 16).reshape(16, 1, 1)
            return self.down(self.dw(self.up(x)))

    report = nm2trt.permute(made(Ramp), EXAMPLES[Block]())
    reasons = {space.channels: space.reason for space in report.spaces}
    assert reasons[16]
    assert reasons[32] == ""


def test_a_difference_restores_the_module(monkeypatch):
    from nm2trt.sparsity import channel_order

    model = made(Block)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reorder = channel_order.reorder

    def forgets_the_norm(state, orders):
        reorder(state, {name: axes for name, axes in orders.items() if not name.startswith("wide")})

    monkeypatch.setattr(channel_order, "reorder", forgets_the_norm)
    with pytest.raises(DifferenceError, match="the module is as it was"):
        nm2trt.permute(model, EXAMPLES[Block]())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_calls_that_come_too_late_or_lack_an_example_are_refused():
    model = made(Block)
    with pytest.raises(InputError, match="an example"):
        nm2trt.permute(model)
    nm2trt.sparsify(model, method="magnitude", pattern="2:4")
    with pytest.raises(SparsifyError, match=r"call nm2trt.permute before"):
        nm2trt.permute(model, EXAMPLES[Block]())


def test_the_same_seed_gives_the_same_module():
    states = []
    for _ in range(2):
        model = made(Block)
        nm2trt.permute(model, EXAMPLES[Block](), seed=4)
        states.append({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
