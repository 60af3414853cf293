"""SpRe: each numbered invariant of the method, the handle around it, and one sentence for each mistake."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import nm2trt
from nm2trt.errors import SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import PLAN_ATTRIBUTE
from nm2trt.sparsity.sparsify import sparsify
from nm2trt.sparsity.spre import spatial_mask as spatial
from nm2trt.sparsity.spre.branches import SpatialBranches, TwoBranches

TWO_FOUR = NMPattern(2, 4)
STEPS = 6
KINDS = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x5": {"kernel_size": 5, "padding": 2},
    "1x3": {"kernel_size": (1, 3)},
    "stride-2": {"kernel_size": 3, "stride": 2},
    "groups-2": {"kernel_size": 3, "groups": 2},
    "dilated": {"kernel_size": 3, "dilation": 2},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "bias": {"kernel_size": 3, "bias": True},
}


class Net(nn.Module):
    """Stem, one pair, a residual block of two pairs, a 1x1 and a classifier."""

    def __init__(self, width=16, **conv):
        super().__init__()
        conv = {"kernel_size": 3, "padding": 1, "bias": False, **conv}
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.conv1 = nn.Conv2d(width, width, **conv)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, 5)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(self.stem(x))))
        x = torch.relu(x + self.bn2(self.conv2(x)))
        return self.fc(torch.relu(self.bn3(self.conv3(x))).mean((2, 3)))


def net(**conv):
    torch.manual_seed(0)
    return Net(**conv)


def batch(step=0, dtype=torch.float32):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(step)).to(dtype)


def train(model, sparse, steps=STEPS, lr=0.05):
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    sparse.attach(optimizer)
    for step in range(steps):
        optimizer.zero_grad()
        model(batch(step, next(model.parameters()).dtype)).square().mean().backward()
        optimizer.step()
        yield step


def trained(steps=STEPS, **options):
    model = net()
    sparse = sparsify(model, method="spre", seed=1, total_steps=steps, **options)
    for _ in train(model, sparse, steps):
        pass
    return model.eval(), sparse


@torch.no_grad()
def randomise_norms(model):
    """Statistics that a merge must survive: negative and zero factors, small variances."""
    torch.manual_seed(5)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.copy_(torch.randn_like(module.weight))
            module.weight[0] = 0
            module.bias.copy_(torch.randn_like(module.bias))
            module.running_mean.copy_(torch.randn_like(module.running_mean))
            module.running_var.copy_(torch.rand_like(module.running_var) + 1e-3)
            module.running_var[1] = 1e-3


def test_invariant_1_the_branch_stays_inside_the_main_support():
    model = net()
    sparse = sparsify(model, method="spre")
    for _ in train(model, sparse, 20):
        for block in (model.conv1, model.conv2):
            assert not (block.branch_weight() != 0)[block.main.weight == 0].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_invariants_2_and_3_merge_computes_the_same_and_holds_the_pattern(kind, dtype):
    model = net(**KINDS[kind]).to(dtype)
    sparse = sparsify(model, method="spre", pattern="2:4", min_channels=1)
    assert isinstance(model.conv1, SpatialBranches)
    randomise_norms(model)
    model.eval()
    with torch.no_grad():
        before = model(batch(dtype=dtype))
        sparse.finalize()
        gap = (model(batch(dtype=dtype)) - before).abs().max()
    assert gap <= (1e-10 if dtype == torch.float64 else 1e-5 * max(1, float(before.abs().max())))
    for conv in (model.conv1, model.conv2):
        assert type(conv) is nn.Conv2d
        assert check(conv.weight.detach().numpy(), TWO_FOUR, axis=1).holds


def test_invariant_4_training_mode_differs_from_the_merge():
    model, sparse = trained()
    model.train()
    before = model(batch(50)).detach()
    sparse.finalize()
    model.eval()
    assert (model(batch(50)) - before).abs().max() > 1e-3


def test_invariant_4_evaluation_and_merge_use_the_stored_spatial_mask():
    model, sparse = trained()
    with torch.no_grad():
        stored = model.conv1.spatial.clone()
        # Another S would follow from this weight; none is computed outside a step.
        model.conv1.dense_weight[:, :, 0, 0] *= 100
        assert not torch.equal(spatial.spatial_mask(model.conv1.dense_weight, TWO_FOUR), stored[0, 0])
        before = model(batch())
        sparse.finalize()
    torch.testing.assert_close(model(batch()), before, rtol=0, atol=1e-5)


def brute_force_spatial(weight, pattern):
    """S by sorting the whole layer with numpy and averaging position by position."""
    flat = np.abs(weight.numpy().astype(np.float64)).ravel()
    kept = np.ones(flat.size)
    kept[np.argsort(flat, kind="stable")[: int(flat.size * (pattern.m - pattern.n) // pattern.m)]] = 0
    kept = kept.reshape(weight.shape)
    where = np.zeros(weight.shape[2:], dtype=bool)
    for index in np.ndindex(*where.shape):
        zeros = (1 - kept[(slice(None), slice(None), *index)]).sum()
        where[index] = zeros * pattern.m < (pattern.m - pattern.n) * weight.shape[0] * weight.shape[1]
    return torch.as_tensor(where)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "1:16"])
@pytest.mark.parametrize("kernel", [(3, 3), (5, 1), (3,), (1, 2, 2)], ids=str)
def test_invariant_5_spatial_mask_is_that_of_unstructured_pruning(kernel, pattern):
    pattern = NMPattern.parse(pattern)
    for seed in range(5):
        weight = torch.randn(7, 16, *kernel, generator=torch.Generator().manual_seed(seed))
        weight = (weight * 8).round() / 8 if seed % 2 else weight  # many ties
        assert torch.equal(spatial.spatial_mask(weight, pattern), brute_force_spatial(weight, pattern))


def test_invariant_5_only_the_large_centre_is_on_and_equal_densities_are_off():
    weight = torch.full((4, 8, 3, 3), 0.1)
    weight[:, :, 1, 1] = 1.0
    # Pruned: 32 x 9 / 2 of the 256 small ones, spread in memory order over the eight outer positions.
    mask = spatial.spatial_mask(weight, TWO_FOUR)
    assert mask[1, 1]
    assert mask.sum() == 1
    checkered = torch.ones(4, 4, 3, 3)
    checkered[:2] = 0.1
    assert not spatial.spatial_mask(checkered, TWO_FOUR).any()
    assert not spatial.spatial_mask(torch.randn(8, 8, 1, 1), TWO_FOUR).any()


def test_invariant_6_scale_and_permutation():
    weight = torch.randn(16, 16, 3, 3, generator=torch.Generator().manual_seed(3))
    mask = spatial.spatial_mask(weight, TWO_FOUR)
    assert 0 < mask.sum() < 9
    assert torch.equal(spatial.spatial_mask(weight * 1e-4, TWO_FOUR), mask)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(4))
    moved = weight.view(16, 16, 9)[:, :, order].view_as(weight)
    assert torch.equal(spatial.spatial_mask(moved, TWO_FOUR), mask.view(9)[order].view(3, 3))


def test_invariant_7_branch_gradient_is_a_plain_convolutions_inside_and_zero_outside():
    model = net().double()
    sparsify(model, method="spre")
    block, x = model.conv1, torch.randn(4, 16, 6, 6, dtype=torch.float64)
    y = block(x)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    inside = block.base.mask & block.spatial
    leaf = (block.branch.weight * inside).detach().requires_grad_()
    norm = copy.deepcopy(block.branch_norm)
    norm(functional.conv2d(x, leaf, padding=1)).backward(upstream)
    grad = block.branch.weight.grad
    assert not grad[~inside].any()
    torch.testing.assert_close(grad[inside], leaf.grad[inside])
    assert not block.spatial.requires_grad
    trained_ids = {id(p) for p in model.parameters()}
    assert id(block.spatial) not in trained_ids
    assert id(block.base.mask) not in trained_ids


def test_invariant_8_main_gradient_is_sr_stes_and_knows_nothing_of_the_branch():
    gradients = []
    for factor in (1.0, 7.0):
        model = net().double()
        sparse = sparsify(model, method="spre", lambda_w=0.5, seed=3)
        block = model.conv1
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        sparse.attach(optimizer)
        with torch.no_grad():
            block.branch.weight.mul_(factor)
        x = torch.randn(4, 16, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        y = block.main_norm(block.main(x)) + block.branch_norm(block.branch(x)).detach()
        y.square().sum().backward()
        mask, dense = block.base.mask, block.dense_weight
        optimizer.step()
        gradients.append(dense.grad.clone())
        leaf = (dense * mask).detach().requires_grad_()
        norm = copy.deepcopy(block.main_norm)
        rest = block.branch_norm(block.branch(x)).detach()
        (norm(functional.conv2d(x, leaf, padding=1)) + rest).square().sum().backward()
        torch.testing.assert_close(gradients[-1], leaf.grad + 0.5 * ~mask * dense.detach())
    # The sum's loss is quadratic, so only the constant differs; through B nothing may leak.
    model = net().double()
    sparsify(model, method="spre", seed=3)
    block = model.conv1
    block.branch_norm(block.branch._conv_forward(x, block.branch_weight(), None)).sum().backward()
    assert block.dense_weight.grad is None


def test_invariant_9_an_empty_spatial_mask_stays_finite_and_merges():
    model = net()
    sparse = sparsify(model, method="spre")
    model.conv1.spatial.fill_(False)
    model(batch()).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.eval()
    x = torch.randn(2, 16, 6, 6)
    with torch.no_grad():
        only_shift = model.conv1(x) - model.conv1.main_norm(model.conv1.main(x))
        shift = model.conv1.branch_norm(torch.zeros(1, 16, 1, 1))
        torch.testing.assert_close(only_shift, shift.expand_as(only_shift), rtol=0, atol=1e-5)
        before = model(batch())
        sparse.finalize()
        torch.testing.assert_close(model(batch()), before, rtol=0, atol=1e-5)


def test_invariant_10_with_all_positions_and_one_norm_it_is_one_convolution():
    model = net()
    sparsify(model, method="spre", spatial="ones", branch_norm=False)
    block, x = model.conv1.eval(), torch.randn(2, 16, 6, 6)
    assert block.branch_norm is None
    summed = block.main.weight + block.branch_weight()
    wanted = block.main_norm(functional.conv2d(x, summed, padding=1))
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-5)


def test_invariant_11_checkpoint_keeps_the_spatial_mask_and_merges_alike(tmp_path):
    model, sparse = trained()
    model.conv1.spatial.view(-1)[:2] = torch.tensor([True, False])
    torch.save({"model": model.state_dict(), "sparse": sparse.state_dict()}, tmp_path / "c.pt")
    saved = torch.load(tmp_path / "c.pt", weights_only=True)
    again = net()
    other = sparsify(again, method="spre", total_steps=STEPS)
    again.load_state_dict(saved["model"])
    other.load_state_dict(saved["sparse"])
    assert torch.equal(again.conv1.spatial, model.conv1.spatial)
    for finished in (sparse, other):
        finished.finalize()
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key


def resnet_layers(bottleneck, blocks, width):
    """Names and shapes only: enough for the policy, which reads layers and fx's graph."""

    class Block(nn.Module):
        def __init__(self, inputs, planes, stride):
            super().__init__()
            out = planes * (4 if bottleneck else 1)
            kernels = [(1, 1), (3, stride), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
            sizes = [inputs, planes, planes, out] if bottleneck else [inputs, planes, planes]
            for i, (kernel, step) in enumerate(kernels, 1):
                conv = nn.Conv2d(sizes[i - 1], sizes[i], kernel, stride=step, padding=kernel // 2, bias=False)
                setattr(self, f"conv{i}", conv)
                setattr(self, f"bn{i}", nn.BatchNorm2d(sizes[i]))
            self.count = len(kernels)
            self.downsample = None
            if stride != 1 or inputs != out:
                conv = nn.Conv2d(inputs, out, 1, stride=stride, bias=False)
                self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

        def forward(self, x):
            y = x
            for i in range(1, self.count + 1):
                y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
                y = torch.relu(y) if i < self.count else y
            return torch.relu(y + (x if self.downsample is None else self.downsample(x)))

    layers = [nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    inputs = width
    for stage, count in enumerate(blocks):
        for i in range(count):
            layers.append(Block(inputs, width << stage, 2 if stage and not i else 1))
            inputs = (width << stage) * (4 if bottleneck else 1)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 10))


@pytest.mark.parametrize(
    ("bottleneck", "blocks"),
    [
        pytest.param(False, (2, 2, 2, 2), id="resnet-18"),
        pytest.param(True, (3, 4, 6, 3), id="resnet-50"),
        pytest.param(False, (5, 5, 5), id="resnet-32"),
    ],
)
def test_invariant_12_policy_stem_dense_3x3_with_branch_rest_sparse(bottleneck, blocks):
    model = resnet_layers(bottleneck, blocks, 16)
    kernels = {name: m.kernel_size for name, m in model.named_modules() if isinstance(m, nn.Conv2d)}
    plan = sparsify(model, method="spre").plan
    with_branch = {
        f"{name}.weight" for name, block in model.named_modules() if isinstance(block, SpatialBranches)
    }
    assert [entry.weight for entry in plan if entry.pattern is None] == ["0.weight"]
    assert with_branch == {f"{n}.weight" for n, kernel in kernels.items() if kernel == (3, 3) and n != "0"}
    for entry in plan.sparse:
        assert ("with a spatial branch" in entry.reason) == (entry.weight in with_branch)


def test_invariant_12_depthwise_stays_dense_without_a_branch():
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, groups=16, bias=False),
        nn.BatchNorm2d(16),
        nn.Conv2d(16, 16, 3),
        nn.BatchNorm2d(16),
    )
    entries = {e.weight: e for e in sparsify(model, method="spre").plan}
    assert "depthwise" in entries["0.weight"].reason
    assert isinstance(model[0], nn.Conv2d)
    assert isinstance(model[2], SpatialBranches)


def test_invariant_13_deployed_model_is_the_plain_one_plus_a_bias_a_merge():
    merged, sparse = trained()
    sparse.finalize()
    plain = net()
    sparsify(plain, method="sr-ste").finalize()
    count = {name: sum(p.numel() for p in m.parameters()) for name, m in (("a", merged), ("b", plain))}
    # Each merge turns gamma and beta of 16 channels into one bias of 16.
    assert count["a"] == count["b"] - 2 * 2 * 16 + 2 * 16
    for layer in ("conv1", "conv2"):
        one, other = getattr(merged, layer), getattr(plain, layer)
        assert one.weight.shape == other.weight.shape
        assert torch.count_nonzero(one.weight) == torch.count_nonzero(other.weight)


def test_unfused_export_fused_by_nm2trt_equals_the_torch_merge(tmp_path):
    model, sparse = trained()
    randomise_norms(model)
    unfused = copy.deepcopy(model)
    sparse.finalize(unfused, fuse=False)
    assert type(unfused.conv1) is TwoBranches
    sparse.finalize()
    nm2trt.export(unfused, batch(), tmp_path / "two.onnx", dynamic_batch=False)
    assert {v.pattern for v in nm2trt.verify(tmp_path / "two.onnx").weights} == {"holds", "dense-by-plan"}
    report = nm2trt.fuse(tmp_path / "two.onnx", tmp_path / "one.onnx")
    assert report.branches_merged == 2
    verdicts = nm2trt.verify(tmp_path / "one.onnx").weights
    assert sum(v.pattern == "holds" for v in verdicts) == 4
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(tmp_path / "one.onnx", providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: batch(9).numpy()})
    np.testing.assert_allclose(got, model(batch(9)).detach().numpy(), rtol=0, atol=1e-5 * np.abs(got).max())


def test_dense_checkpoint_loads_and_comes_back():
    dense = net()
    with torch.no_grad():
        for tensor in (*dense.parameters(), *dense.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.1)
    attached = net()
    sparse = sparsify(attached, method="spre", seed=0)
    attached.load_state_dict(dense.state_dict())
    wanted = spatial.spatial_mask(dense.conv1.weight, TWO_FOUR)
    assert torch.equal(attached.conv1.spatial[0, 0], wanted)
    back = net()
    back.load_state_dict(sparse.dense_state_dict())
    for key, value in dense.state_dict().items():
        assert torch.equal(back.state_dict()[key], value), key


@pytest.mark.parametrize("fuse", [True, False])
def test_average_of_the_model_is_finalised_with_the_models_spatial_mask(fuse):
    model, sparse = trained()
    ema = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        ema.module.conv1.spatial.fill_(False)
    expected_on = model.conv1.spatial.clone()
    sparse.refresh(ema)
    assert torch.equal(ema.module.conv1.spatial, expected_on)
    finished = sparse.finalize(ema, fuse=fuse).eval()
    torch.testing.assert_close(finished(batch()), model(batch()), rtol=0, atol=1e-5)
    assert isinstance(model.conv1, SpatialBranches), "the attached model stays attached"
    alone = sparse.finalize(fuse=fuse)
    assert [*finished.module.state_dict()] == [*alone.state_dict()]
    assert getattr(finished.module, PLAN_ATTRIBUTE) == getattr(alone, PLAN_ATTRIBUTE)


@pytest.mark.parametrize(
    ("option", "moves"), [({}, True), ({"interval": 99}, False), ({"freeze": 1.0}, False)], ids=str
)
def test_interval_and_freeze_hold_the_spatial_mask(option, moves):
    model = net()
    sparse = sparsify(model, method="spre", total_steps=STEPS, **option)
    start = model.conv1.spatial.clone()
    for step in train(model, sparse):
        with torch.no_grad():  # a weight from which another S follows
            model.conv1.dense_weight[:, :, step % 3, 0] *= 50
    assert torch.equal(model.conv1.spatial, start) != moves
    report = sparse.report()
    assert (report["layers"]["conv1.weight"]["spatial"]["flips_total"] > 0) == moves
    assert report["largest_branch_scale"] > 0


def test_smoothing_follows_a_running_mean():
    model = net()
    sparsify(model, method="spre", smoothing=0.75)
    block = model.conv1
    first = spatial.pruned_counts(block.dense_weight, TWO_FOUR) / 256
    torch.testing.assert_close(block.smoothed, first)
    with torch.no_grad():
        block.dense_weight[:, :, 0, 0] *= 100
    block.update_spatial()
    now = spatial.pruned_counts(block.dense_weight, TWO_FOUR) / 256
    torch.testing.assert_close(block.smoothed, 0.75 * first + 0.25 * now)
    assert torch.equal(block.spatial[0, 0], block.smoothed < 0.5)


def test_controls_choose_other_positions():
    masks = {}
    for choice in ("denser", "ones", "random", "inverted"):
        model = net()
        sparsify(model, method="spre", spatial=choice, seed=5)
        masks[choice] = model.conv1.spatial
    assert torch.equal(masks["inverted"], ~masks["denser"])
    assert masks["ones"].all()
    assert masks["random"].sum() == masks["denser"].sum()
    assert not torch.equal(masks["random"], masks["denser"])


def test_magnitude_base_fixes_both_masks():
    model = net()
    sparse = sparsify(model, method="spre", base="magnitude")
    before = model.conv1.spatial.clone(), model.conv1.base.mask.clone()
    for _ in train(model, sparse, lr=1.0):
        pass
    assert torch.equal(model.conv1.spatial, before[0])
    assert torch.equal(model.conv1.base.mask, before[1])
    model.eval()
    want = model(batch()).detach()
    sparse.finalize()
    torch.testing.assert_close(model(batch()), want, rtol=1e-4, atol=1e-5)


def test_an_attached_model_is_not_exported(tmp_path):
    model, _ = trained(1)
    with pytest.raises(SparsifyError, match="spre is still attached to conv1; call finalize"):
        nm2trt.export(model, batch(), tmp_path / "m.onnx")


class NoNorm(Net):
    def forward(self, x):
        return self.fc(torch.relu(self.conv2(torch.relu(self.conv1(self.stem(x))))).mean((2, 3)))


class TwoUsers(Net):
    def forward(self, x):
        x = self.stem(x)
        y = self.conv1(x)
        return self.fc((self.bn1(y) + y).mean((2, 3)))


class Untraceable(Net):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Unnormed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 3)

    def forward(self, x):
        return self.conv(x if x.sum() > 0 else -x)


REFUSED = {
    "no-norm": (NoNorm, {}, r"no convolution of NoNorm can have a spatial branch \(conv1: no BatchNorm follows it, but relu.*sr-ste"),
    "two-users": (TwoUsers, {}, r"conv1: its output has 2 users \(bn1, add\), and only a BatchNorm may read it"),
    "untraceable": (Untraceable, {}, r"torch.fx cannot trace Untraceable .*give pairs=\[\('conv1', 'bn1'\)"),
    "untraceable-no-norm": (Unnormed, {}, "Unnormed has no BatchNorm, which spre needs.*another method, such as sr-ste"),
    "only-1x1": (lambda: nn.Sequential(nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)), {}, "none of its sparse layers is a convolution with a kernel"),
    "pairs-no-conv": (Net, {"pairs": [("fc", "bn1")]}, "pairs: 'fc' is not a convolution of the model"),
    "pairs-no-norm": (Net, {"pairs": [("conv1", "fc")]}, "pairs: 'fc' is not a BatchNorm of the model"),
    "pairs-1x1": (Net, {"pairs": [("conv3", "bn3")]}, "pairs: conv3 is not sparse, or its kernel has one position"),
    "pairs-crossed": (Net, {"pairs": [("conv1", "bn2")]}, "pairs: bn1 follows conv1 in the model, not bn2"),
    "pairs-twice": (Untraceable, {"pairs": [("conv1", "bn1"), ("conv2", "bn1")]}, "a BatchNorm is named twice"),
    "pairs-two-users": (TwoUsers, {"pairs": [("conv1", "bn1")]}, "conv1 cannot have a branch: its output has 2 users"),
    "interval": (Net, {"interval": 0}, "interval must be a whole number of steps"),
    "smoothing": (Net, {"smoothing": 1.0}, "smoothing must be at least 0 and below 1"),
    "freeze-alone": (Net, {"freeze": 0.1}, "give total_steps, the "),
    "base": (Net, {"base": "asp"}, 'base must be "sr-ste" or "magnitude"'),
    "spatial": (Net, {"spatial": "soft"}, "spatial must be one of denser, ones, random, inverted"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_mistakes_are_told_and_leave_the_model_alone(case):
    make, options, message = REFUSED[case]
    model = make()
    before = list(model.state_dict())
    with pytest.raises(SparsifyError, match=message):
        sparsify(model, method="spre", **options)
    assert list(model.state_dict()) == before


def test_given_pairs_serve_where_fx_cannot_trace():
    model = Untraceable()
    sparse = sparsify(model, method="spre", pairs={"conv1": "bn1"})
    assert isinstance(model.conv1, SpatialBranches)
    assert "no spatial branch: not among the given pairs" in sparse.plan.get("conv2.weight").reason


def test_a_broken_statistic_is_told_before_anything_is_merged():
    model, sparse = trained(2)
    model.conv1.branch_norm.running_var[0] = float("nan")
    with pytest.raises(SparsifyError, match="conv1: a BatchNorm holds NaN or infinity"):
        sparse.finalize()
    assert isinstance(model.conv2, SpatialBranches)


def test_optimizer_without_the_branch_is_refused():
    model = net()
    sparse = sparsify(model, method="spre")
    rest = [p for name, p in model.named_parameters() if "branch" not in name]
    with pytest.raises(SparsifyError, match="the optimizer does not train all of conv1"):
        sparse.attach(torch.optim.SGD(rest, lr=0.1))
    with pytest.raises(SparsifyError, match="attach takes torch optimizers"):
        sparse.attach("sgd")


def test_a_start_that_fails_leaves_the_model_as_it_was(monkeypatch):
    from nm2trt.sparsity.spre import session

    model = net()
    before = {name: id(module) for name, module in model.named_modules()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    real, calls = session._initialise, []

    def fail_late(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError
        real(*arguments)

    monkeypatch.setattr(session, "_initialise", fail_late)
    with pytest.raises(MemoryError):
        sparsify(model, method="spre", pattern="2:4", total_steps=STEPS)
    assert {name: id(module) for name, module in model.named_modules()} == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
