"""Reconstruction of torch modules: the ONNX pass as the oracle, attention, and layers that cannot be rebuilt."""

import copy
import warnings

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import nm2trt
from nm2trt.errors import DataError, SparsifyError, SparsityError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.borrowed_model import eval_mode
from nm2trt.sparsity.core.calibration_batches import joined, read_batches
from nm2trt.sparsity.core.layer_choice import select
from nm2trt.sparsity.reconstruct import solve
from nm2trt.sparsity.reconstruct.rows import Rows, matrix, stored
from nm2trt.sparsity.reconstruct.walk import Walk

TWO_FOUR = NMPattern(2, 4)


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = convolutions()
    mixing = torch.randn(3 * 64, 3 * 64) / 8  # pixels that depend on one another
    images = (torch.randn(128, 3 * 64) @ mixing).relu().reshape(-1, 3, 8, 8)
    for _ in range(5):
        model.train()(images)
    return model.eval(), list(images.split(16))


class Block(nn.Module):
    """Attention whose query, key and value are or are not one tensor, then a plain layer."""

    def __init__(self, *, same, batch_first, bias=True, kdim=None):
        super().__init__()
        self.attention = nn.MultiheadAttention(
            32, 4, batch_first=batch_first, bias=bias, kdim=kdim, vdim=kdim
        )
        self.last = nn.Linear(32, 16)
        self.same, self.batch_first, self.kdim = same, batch_first, kdim or 32

    def forward(self, x):
        other = x if self.same else torch.sin(3 * x[..., : self.kdim])
        if not self.batch_first:
            x, other = x.transpose(0, 1), other.transpose(0, 1)
        other = x if self.same else other
        value = x if self.same else other + 1
        y = self.attention(x, other, value, need_weights=False)[0]
        return self.last(y if self.batch_first else y.transpose(0, 1))


ATTENTION = {
    "self": {"same": True, "batch_first": True},
    "self, time first": {"same": True, "batch_first": False},
    "cross": {"same": False, "batch_first": True},
    "cross, narrow keys": {"same": False, "batch_first": False, "kdim": 16},
    "no bias": {"same": True, "batch_first": True, "bias": False},
}


@pytest.fixture(params=ATTENTION.values(), ids=ATTENTION)
def attention(request):
    torch.manual_seed(0)
    return Block(**request.param).eval(), [torch.randn(16, 6, 32) for _ in range(8)]


def sparse_weights(model):
    return {
        name: p for name, p in model.named_parameters() if p.ndim > 1 and float((p == 0).float().mean()) > 0.4
    }


def test_equals_the_onnx_pass_on_the_same_network_and_samples(network, tmp_path):
    model, batches = network
    nm2trt.export(model, batches[0], tmp_path / "dense.onnx")
    np.savez(tmp_path / "samples.npz", input=torch.cat(batches).numpy())
    nm2trt.prune(
        tmp_path / "dense.onnx", tmp_path / "pruned.onnx", calib=tmp_path / "samples.npz", permute=False
    )
    session = nm2trt.sparsify(model, method="reconstruct", calibration=batches)
    masks = session.masks()
    session.finalize()
    stored_weights = {
        i.name: numpy_helper.to_array(i) for i in onnx.load(tmp_path / "pruned.onnx").graph.initializer
    }
    assert len(masks) == 3
    # A near tie may be decided differently, which changes the inputs of the layers after it.
    equal = [((stored_weights[name] != 0) == mask.numpy()).ravel() for name, mask in masks.items()]
    assert np.concatenate(equal).mean() > 0.995
    x = torch.cat(batches)
    theirs = ort.InferenceSession(tmp_path / "pruned.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        mine = model(x).numpy()
    assert np.abs(theirs - mine).max() < 0.02 * np.abs(mine).max()


def test_output_divergence_falls_against_magnitude(network):
    model, batches = network
    divergence = {}
    fresh = batches.pop()
    wanted = model(fresh).log_softmax(1).detach()
    for method, options in (("magnitude", {}), ("reconstruct", {"calibration": batches})):
        pruned = copy.deepcopy(model)
        session = nm2trt.sparsify(pruned, method=method, **options)
        report = session.report()
        session.finalize()
        for name in sparse_weights(pruned):
            assert check(pruned.get_parameter(name).detach().numpy(), TWO_FOUR, axis=1).holds
        got = pruned(fresh).log_softmax(1).detach()
        divergence[method] = float((wanted.exp() * (wanted - got)).sum(1).mean())
    assert divergence["reconstruct"] < 0.5 * divergence["magnitude"]
    assert report["outputs"][0]["held_out"]
    fits = report["fits"]
    assert fits.keys() == {"3.weight", "6.weight", "9.weight", "13.weight"}
    assert fits["6.weight"][0]["chosen"] == "dense"
    for entry in (
        entry for parts in fits.values() for entry in parts if entry["magnitude_error"] is not None
    ):
        assert entry["error"] <= entry["magnitude_error"] + 1e-12
        assert entry["ridge"] > 0


def rebuilt(model, batches, device):
    """The outputs' largest change on batches not calibrated with, after reconstruction on `device`."""
    model, fresh = copy.deepcopy(model).to(device), batches[-1].to(device)
    with torch.no_grad():
        wanted = model(fresh)
    given = [batch.to(device) for batch in batches[:-1]]
    nm2trt.sparsify(model, method="reconstruct", calibration=given).finalize()
    assert {parameter.device for parameter in model.parameters()} == {fresh.device}
    for name in sparse_weights(model):
        assert check(model.get_parameter(name).detach().cpu().numpy(), TWO_FOUR, axis=1).holds
    with torch.no_grad():
        return set(sparse_weights(model)), float((model(fresh) - wanted).square().mean() / wanted.var())


@pytest.mark.gpu
def test_a_gpu_rebuilds_convolutions_as_well_as_the_cpu(network):
    assert_same_quality(*network)


@pytest.mark.gpu
def test_a_gpu_rebuilds_attention_as_well_as_the_cpu(attention):
    assert_same_quality(*attention)


def assert_same_quality(model, batches):
    (here, error), (there, gpu_error) = (rebuilt(model, batches, device) for device in ("cpu", "cuda"))
    assert here == there
    assert gpu_error < 1.1 * error + 1e-3


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@torch.no_grad()
def test_rows_times_weights_are_the_layers_outputs():
    for layer, x in (
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 2), dilation=(1, 2)), torch.randn(3, 4, 9, 8)),
        (nn.Conv2d(4, 6, (3, 4), padding="same"), torch.randn(2, 4, 7, 6)),
        (nn.Conv2d(4, 6, 3, padding="valid"), torch.randn(2, 4, 7, 6)),
        (nn.Conv1d(4, 6, 5, stride=2, padding=3), torch.randn(3, 4, 11)),
        (nn.Conv3d(2, 3, 2, padding=1), torch.randn(2, 2, 4, 3, 5)),
        (nn.Linear(5, 7), torch.randn(2, 3, 5)),
    ):
        rows = Rows(layer, x)
        y = layer(x)
        wanted = (
            y.movedim(1, -1).reshape(-1, y.shape[1]) if x.ndim == layer.weight.ndim != 2 else y.flatten(0, -2)
        )
        assert rows.count == len(wanted)
        picked = torch.randperm(rows.count)[: rows.count // 2]
        got = rows.at(picked).flatten(1) @ matrix(layer.weight).T + layer.bias
        torch.testing.assert_close(got, wanted[picked], atol=1e-5, rtol=1e-4)
        assert torch.equal(stored(matrix(layer.weight), layer.weight.shape), layer.weight)


class Conv1D(nn.Module):
    """A Linear whose weight is stored (in, out), as in Hugging Face's GPT-2."""

    def __init__(self, linear):
        super().__init__()
        self.weight, self.bias = nn.Parameter(linear.weight.detach().T.contiguous()), linear.bias

    def forward(self, x):
        return x @ self.weight + self.bias


@pytest.mark.parametrize(
    ("method", "options"), [("reconstruct", {}), ("fcpts", {"steps": 0, "layer_fit": True})]
)
def test_weights_stored_transposed_are_solved_like_those_of_linear_layers(method, options):
    torch.manual_seed(0)
    linear = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 16)).eval()
    transposed = nn.Sequential(Conv1D(linear[0]), nn.GELU(), Conv1D(linear[2])).eval()
    batches = [torch.randn(32, 5, 32) @ torch.randn(32, 32) for _ in range(8)]
    found = []
    for model in (linear, copy.deepcopy(transposed)):
        session = nm2trt.sparsify(model, method=method, calibration=batches, **options)
        found.append((session.masks(), session.finalize()))
        assert all(entry.pattern == TWO_FOUR for entry in session.plan)
    (wanted, dense_side), (masks, model) = found
    for name in ("0.weight", "2.weight"):
        assert torch.equal(masks[name], wanted[name].T)
        assert check(model.get_parameter(name).detach().numpy(), TWO_FOUR, axis=0).holds
        torch.testing.assert_close(model.get_parameter(name), dense_side.get_parameter(name).T)
    torch.testing.assert_close(model[2].bias, dense_side[2].bias)
    assert not torch.equal(model[2].weight, transposed[2].weight * masks["2.weight"]), "solved, not only cut"


@torch.no_grad()
def test_attention_is_rebuilt_and_beats_magnitude(attention):
    model, batches = attention
    fresh = torch.randn(64, 6, 32)
    wanted = model(fresh)
    error = {}
    for method, options in (("magnitude", {}), ("reconstruct", {"calibration": batches})):
        pruned = copy.deepcopy(model)
        session = nm2trt.sparsify(pruned, method=method, **options)
        report = session.report()
        session.finalize()
        error[method] = float((pruned(fresh) - wanted).square().mean())
        for name in session.masks():
            assert check(pruned.get_parameter(name).numpy(), TWO_FOUR, axis=1).holds
    projections = [
        name for name, _ in model.attention.named_parameters() if "proj" in name and "weight" in name
    ]
    for name in projections:
        assert report["fits"][f"attention.{name}"]
    parts = len(report["fits"].get("attention.in_proj_weight", [1]))
    assert parts == (1 if model.same or model.kdim != 32 else 3)
    assert error["reconstruct"] < 0.75 * error["magnitude"]


def test_samples_are_equal_or_not_whatever_a_batch_holds():
    """An argument may be missing from a batch, and a batch may be empty."""
    one, other = torch.ones(2, 4), torch.rand(2, 4)
    for batches in ([{"x": one}, {"x": one, "mask": one}], [torch.ones(0, 4), other], [one, other]):
        assert len(read_batches(batches, max_samples=9)) == 2
    with pytest.raises(DataError, match="calibration holds 4 equal samples"):
        read_batches([torch.ones(0, 4), one, one], max_samples=9)


@torch.no_grad()
def test_a_dense_target_gives_back_the_dense_network_on_all_ones_masks(attention):
    """With a mask that keeps everything, every solution is the weight as it was."""
    model, batches = attention
    dense = copy.deepcopy(model)
    sites = [c for c in select(model, "2:4") if c.entry.pattern is not None]
    layers, _ = solve.layers_of(model, sites)
    walk = solve.Walk(model, joined(read_batches(batches, max_samples=999), 999), layers)

    def keep_all(part, fitted, held):
        target = getattr(part.module, part.tensor)
        solve.solve_part(
            walk, part, (fitted, held), target.data, mask=torch.ones_like(target, dtype=torch.bool)
        )

    walk.solve(keep_all)
    torch.testing.assert_close(model(batches[0]), dense(batches[0]), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["reconstruct", "fcpts"])
def test_inside_autocast_layers_are_solved_from_whole_sums_of_the_weights_as_they_are(network, method):
    model, samples = network
    options = {"fcpts": {"steps": 0, "layer_fit": True}, "reconstruct": {}}[method]
    x = torch.cat(samples)
    wanted, errors = model(x), []
    for enabled in (False, True):
        other = copy.deepcopy(model)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            other(x)  # casts weights, which autocast then keeps
            sparse = nm2trt.sparsify(other, method=method, calibration=samples, **options)
            assert torch.is_autocast_cache_enabled()
        sparse.finalize()
        errors.append(float((other(x) - wanted).detach().square().mean()))
    assert errors[1] < 1.2 * errors[0], "twice as much and more with the weights of before"


def test_inside_autocast_a_borrowed_model_runs_with_its_weights_as_they_are():
    layer, x = nn.Linear(4, 4, bias=False), torch.ones(1, 4)

    def output(value):
        with torch.no_grad():
            layer.weight.fill_(value)
        return layer(x)[0, 0].item()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (output(1), output(2)) == (4, 4), "autocast keeps what it has cast"
        with eval_mode(layer):
            assert (output(3), output(4)) == (12, 16)
        assert output(5) == 20


def test_inside_autocast_a_layer_is_solved_to_the_same_bits():
    torch.manual_seed(0)
    layer = nn.Linear(16, 8)
    samples, solved = [5 + torch.randn(16, 16) @ torch.randn(16, 16) for _ in range(8)], []
    for enabled in (False, True):
        other = copy.deepcopy(layer)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            solved.append(nm2trt.sparsify(other, method="reconstruct", calibration=samples).finalize())
    assert torch.equal(solved[0].weight, solved[1].weight)
    assert torch.equal(solved[0].bias, solved[1].bias)


def test_transformer_layers_are_walked_past_torchs_fused_path():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.1)
    model = nn.TransformerEncoder(layer, 2).eval()
    batches = [torch.randn(16, 9, 32) for _ in range(8)]
    session = nm2trt.sparsify(model, method="reconstruct", calibration=batches)
    assert len(session.report()["fits"]) == 8
    assert torch.backends.mha.get_fastpath_enabled()


def test_layers_that_cannot_be_rebuilt_stay_dense_with_the_reason(monkeypatch):
    torch.manual_seed(0)
    shared = nn.Linear(16, 16)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(16, 32), nn.Linear(32, 16)).eval()
    model.unused = nn.Linear(16, 16)
    model.grouped = nn.Conv2d(32, 32, 1, groups=2)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element tensors")
        model.narrow, model.wide = nn.Linear(16, 0), nn.Linear(0, 16)
    batches = [torch.randn(32, 16) for _ in range(4)]
    model.forward = lambda x: model[5](model[4](model[2](model[0](x)) + model.wide(model.narrow(x))))
    session = nm2trt.sparsify(model, method="reconstruct", calibration=batches)
    reasons = {entry.weight: entry.reason for entry in session.plan if entry.pattern is None}
    assert reasons["0.weight"] == "its layer is called more than once"
    assert reasons["unused.weight"] == "the model does not call its layer on the calibration input"
    assert reasons["grouped.weight"] == "a convolution in 2 groups is not rebuilt"
    assert reasons["narrow.weight"] == "its shape (0, 16) holds no values"
    assert reasons["wide.weight"] == "its shape (16, 0) holds no values"
    assert session.masks().keys() == {"4.weight", "5.weight"}


def test_a_layer_whose_solve_fails_stays_dense_and_others_are_unharmed(network, monkeypatch):
    model, batches = network
    before = model[9].weight.detach().clone()
    real, calls = solve.fit_layer, []

    def fails_once(*arguments, **options):
        calls.append(1)
        if len(calls) == 3:  # the 1x1 convolution, after a convolution and a refitted depthwise layer
            raise SparsityError("planted")
        return real(*arguments, **options)

    monkeypatch.setattr(solve, "fit_layer", fails_once)
    session = nm2trt.sparsify(model, method="reconstruct", calibration=batches)
    reasons = {entry.weight: entry.reason for entry in session.plan if entry.pattern is None}
    assert reasons["9.weight"] == "planted"
    assert torch.equal(model[9].weight, before)
    assert session.masks().keys() == {"3.weight", "13.weight"}


@pytest.mark.parametrize("last", ["core.method_spec.Request.parametrize", "reconstruct.session._verdicts"])
def test_an_error_leaves_the_model_as_it_was(network, monkeypatch, last):
    model, batches = network
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def fails(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"nm2trt.sparsity.{last}", fails)
    with pytest.raises(KeyboardInterrupt):
        nm2trt.sparsify(model, method="reconstruct", calibration=batches)
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, DataError, "give calibration="),
        ({"calibration": [torch.full((4, 3, 8, 8), torch.nan)]}, DataError, "holds NaN"),
        ({"calibration": [torch.randn(4, 5)]}, DataError, "cannot run calibration batch"),
        ({"calibration": [torch.randn(4, 3, 8, 8)], "max_samples": 1}, SparsifyError, "max_samples must be"),
        (
            {"calibration": [torch.randn(4, 3, 8, 8)], "rate": 0.5},
            SparsifyError,
            "does not know the option 'rate'",
        ),
    ],
)
def test_bad_input_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        nm2trt.sparsify(convolutions().eval(), method="reconstruct", **options)


@pytest.mark.parametrize("method", ["reconstruct", "fcpts"])
def test_a_model_that_is_pruned_already_is_refused_as_a_file_is(network, method):
    model, batches = network
    nm2trt.sparsify(model, method="magnitude").finalize()
    before = copy.deepcopy(model.state_dict())
    message = (
        "every weight of Sequential that .* holds its pattern already.*; give the model as it was before"
    )
    with pytest.raises(SparsifyError, match=message):
        nm2trt.sparsify(model, method=method, calibration=batches)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_model_of_two_inputs_is_told_what_a_tuple_means():
    batch = (torch.randn(4, 6, 32), torch.ones(4, 6))
    with pytest.raises(
        DataError, match=r"missing 1 required .*'mask'; .*the rest counts as labels.*mappings"
    ):
        nm2trt.sparsify(Masked().eval(), method="reconstruct", calibration=[batch])


class Masked(nn.Module):
    """Two layers over tokens; what stands at padding tokens reaches no real one."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(32, 48), nn.Linear(48, 16)

    def forward(self, x, mask):
        tokens = self.second(self.first(x).relu())
        return (tokens * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True)


def masked_batches():
    """64 samples of 12 tokens, 1 to 6 of them real; padding is of another kind, and larger."""
    torch.manual_seed(1)
    real = torch.randn(64, 12, 32) @ torch.randn(32, 32) / 6
    padding = 20 * torch.randn(64, 12, 32) @ torch.randn(32, 32) / 6
    length = torch.randint(1, 7, (64,))
    mask = (torch.arange(12)[None] < length[:, None]).float()
    x = torch.where(mask[:, :, None] > 0, real, padding)
    return [{"x": a, "mask": b} for a, b in zip(x.split(16), mask.split(16), strict=True)]


def test_rows_are_drawn_at_real_tokens_only_and_the_outputs_are_nearer():
    torch.manual_seed(0)
    model, batches = Masked().eval(), masked_batches()
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in ("x", "mask")}
    wanted = model(**whole)
    errors = {}
    for valid in (None, "mask"):
        copied = copy.deepcopy(model)
        nm2trt.sparsify(copied, method="reconstruct", calibration=batches, valid=valid).finalize()
        errors[valid] = float(((copied(**whole) - wanted) ** 2).mean().detach())
    assert errors["mask"] < 0.7 * errors[None]
    # The oracle of the draw: every position is a real token, each sample has as many.
    walk = Walk(
        model,
        joined(read_batches(batches, max_samples=64), 64),
        {"first": {"weight": "first.weight"}},
        0,
        whole["mask"],
    )
    (record,) = walk._records.values()
    assert bool((whole["mask"].flatten()[record.picked] != 0).all())
    counts = torch.bincount(record.picked // 12, minlength=64)
    assert len(set(counts.tolist())) == 1


@pytest.mark.parametrize("name", ["x", "attention"])
def test_a_mask_that_is_none_is_refused(name):
    with pytest.raises(SparsifyError, match=f"valid='{name}' is not a calibration input of shape"):
        nm2trt.sparsify(Masked().eval(), method="reconstruct", calibration=masked_batches(), valid=name)
