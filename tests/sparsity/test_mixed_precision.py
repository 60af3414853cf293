"""Steps under AMP with a GradScaler: on a GPU equal to the CPU's; here, the scaler changes nothing and skips overflow.

Each test of a GPU has its CPU half: the same function, with the scaler against without. Models are of float32 weights
under bfloat16 autocast, as training is done; the scale is a power of two, so that scaling itself rounds nothing.
"""

import warnings

import pytest
import torch
from torch import nn

from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_mask import nm_mask
from nm2trt.sparsity.sparsify import sparsify

STEPS = 6
METHODS = ("sr-ste", "lbc", "spre", "magnitude")
# bfloat16 keeps 8 bits: another order of summation on a GPU moves a product's last one.
ROUNDING = 2.0**-7
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
cuda_only = pytest.mark.gpu


def net(device):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(16, 32, 3, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 16, 8),
    ).to(device)


def batch(step, device):
    return torch.randn(8, 16, 6, 6, generator=torch.Generator().manual_seed(step)).to(device)


def trained(method, device, *, scale=None, overflow_at=None, exact=False, rate=0.05):
    """Train some steps, in float32 alone if `exact`; return the model and its handle."""
    model = net(device)
    sparse = sparsify(model, method=method, total_steps=STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    sparse.attach(optimizer)
    scaler = torch.amp.GradScaler(device, init_scale=scale or 1.0, enabled=scale is not None)
    for step in range(STEPS):
        optimizer.zero_grad()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=not exact):
            loss = model(batch(step, device)).float().square().mean()
        scaler.scale(loss * (torch.inf if step == overflow_at else 1.0)).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, sparse


def weights(model):
    return {
        name: value.detach().cpu() for name, value in model.state_dict().items() if value.is_floating_point()
    }


def finalized(method, device, **more):
    model, sparse = trained(method, device, **more)
    sparse.finalize()
    return weights(model)


@pytest.mark.parametrize("method", METHODS)
def test_a_scaler_does_not_change_the_steps(method):
    plain, scaled = finalized(method, "cpu"), finalized(method, "cpu", scale=1024.0)
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_step_that_overflows_leaves_finite_sparse_weights(method):
    found = finalized(method, "cpu", scale=1024.0, overflow_at=2)
    assert all(torch.isfinite(value).all() for value in found.values())
    convolutions = [value for value in found.values() if value.ndim == 4]
    assert convolutions
    assert all(check(value.numpy(), NMPattern(2, 4), axis=1).holds for value in convolutions)


def distances(one, other):
    """Return for each weight the share of zeros that differ, and the largest difference of the rest."""
    found = {}
    for name, value in one.items():
        same = (other[name] != 0) == (value != 0)
        apart = ((other[name] - value).abs() * same).max() / value.abs().max().clamp_min(1e-12)
        found[name] = (1 - float(same.float().mean()), float(apart))
    return found


def assert_equal_steps(method, there):
    """Hold another device's weights to the CPU's.

    What a method ranks decides how far rounding moves its masks: LBC ranks products of gradients and weights, of which
    bfloat16 decides some in each run; two of the CPU's own implementations leave 1.3 % of its entries different.
    So the CPU's distance to its own run in float32 is added to the bar.
    """
    here = finalized(method, "cpu", scale=1024.0)
    assert here.keys() == there.keys()
    rounding = distances(here, finalized(method, "cpu", exact=True))
    for name, (masks, values) in distances(here, there).items():
        assert masks <= 0.01 + rounding[name][0], f"{name}: the masks differ beyond what rounding decides"
        assert values <= 8 * ROUNDING + 2 * rounding[name][1], name


# Not SpRe: a kernel position that rounding switches on or off changes a whole branch.
@pytest.mark.parametrize("method", ["sr-ste", "lbc", "magnitude"])
def test_another_implementation_on_the_cpu_is_within_the_bar_and_another_rate_is_not(method):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of TF32, which no CPU has
        with torch.backends.mkldnn.flags(enabled=False):
            found = finalized(method, "cpu", scale=1024.0)
    assert_equal_steps(method, found)
    with pytest.raises(AssertionError):
        assert_equal_steps(method, finalized(method, "cpu", rate=0.1))


@cuda_only
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_a_gpu_is_the_cpu_s(method):
    assert_equal_steps(method, finalized(method, "cuda", scale=1024.0))


def pruned_by_fcpts(device):
    model = net(device)
    data = [batch(step, device) for step in range(3)]
    with torch.autocast(device, dtype=torch.bfloat16):
        sparse = sparsify(model, method="fcpts", pattern="2:4", calibration=data, steps=4)
    sparse.finalize()
    return weights(model)


def test_fcpts_under_autocast_gives_exact_2_4():
    found = pruned_by_fcpts("cpu")
    (convolution,) = [value for value in found.values() if value.ndim == 4]
    assert check(convolution.numpy(), NMPattern(2, 4), axis=1).holds
    assert all(torch.isfinite(value).all() for value in found.values())


@cuda_only
def test_fcpts_on_a_gpu_has_the_cpu_s_counts():
    here, there = pruned_by_fcpts("cpu"), pruned_by_fcpts("cuda")
    for name, value in here.items():
        assert int((there[name] != 0).sum()) == int((value != 0).sum()), name


def scores(dtype):
    """Scores with ties, a NaN, infinities and a signed zero in them."""
    score = torch.randint(-3, 4, (32, 64, 3, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    score[0, :4, 0, 0] = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0], dtype=dtype)
    return score


def masks_of(device, dtype):
    return {
        (pattern, axis): nm_mask(scores(dtype).to(device), NMPattern.parse(pattern), axis=axis).cpu()
        for pattern in ("2:4", "1:4", "4:8")
        for axis in (0, 1)
    }


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_of_every_dtype_are_those_of_float32(dtype):
    """The scores are small integers, exact in every type: so must the masks be the same."""
    found, exact = masks_of("cpu", dtype), masks_of("cpu", torch.float32)
    assert all(torch.equal(mask, exact[key]) for key, mask in found.items())


@cuda_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_on_a_gpu_are_the_cpu_s(dtype):
    here, there = masks_of("cpu", dtype), masks_of("cuda", dtype)
    assert all(torch.equal(mask, there[key]) for key, mask in here.items())


@cuda_only
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_semi_structured_tensor_multiplies_as_the_dense_one(dtype):
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(2)).to(dtype).cuda()
    weight = weight * nm_mask(weight.abs(), NMPattern(2, 4), axis=1)
    x = torch.randn(128, 64, generator=torch.Generator().manual_seed(3)).to(dtype).cuda()
    with warnings.catch_warnings():
        # Once per process, PyTorch says that these tensors are a prototype.
        warnings.simplefilter("ignore", UserWarning)
        packed = torch.sparse.to_sparse_semi_structured(weight)
    exact = weight.double() @ x.double()
    assert float((torch.mm(packed, x).double() - exact).abs().max() / exact.abs().max()) < ROUNDING
