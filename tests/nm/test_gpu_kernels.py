"""The fused kernels give the bits of eager torch: on a GPU where there is one, else in Triton's interpreter."""

import os

import pytest
import torch

from nm2trt.nm import torch_mask
from nm2trt.nm.pattern import NMPattern

triton = pytest.importorskip("triton")
if not torch.cuda.is_available():
    # Read when the kernels are made, so before the module is imported.
    os.environ["TRITON_INTERPRET"] = "1"
kernels = pytest.importorskip("nm2trt.nm.gpu_kernels")

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.int8, torch.int32, torch.uint8)
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU here")


def scores(dtype, m, inner):
    """Random numbers with ties, infinities, NaN and the lowest int8: (7, 3 m, inner)."""
    generator = torch.Generator().manual_seed(m * inner)
    score = torch.randn(7, 3 * m, inner, generator=generator) * 4
    score = score.abs() if dtype == torch.uint8 else score
    score = (score.round() if inner > 1 else score).to(dtype)
    flat = score.view(-1)
    if dtype.is_floating_point:
        flat[::11], flat[5::13], flat[3::17] = torch.nan, -torch.inf, torch.inf
    elif dtype == torch.int8:
        flat[::9] = -128
    return score


@interpreted
@pytest.mark.parametrize("magnitude", [False, True], ids=["score", "magnitude"])
@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "2:3"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_interpreted_kernel_gives_the_eager_mask(dtype, text, magnitude):
    pattern = NMPattern.parse(text)
    for inner in (1, 9):
        score = scores(dtype, pattern.m, inner)
        eager = torch_mask.magnitude_mask if magnitude else torch_mask.nm_mask
        expected = eager(score, pattern, axis=1)
        mask, flips = torch.ones_like(expected), torch.zeros((), dtype=torch.int64)
        given = {"n": pattern.n, "m": pattern.m, "inner": inner, "magnitude": magnitude}
        kernels.set_mask(score, mask, **given, flips=flips)
        assert torch.equal(mask, expected)
        assert int(flips) == int((~expected).sum())


@interpreted
def test_the_interpreted_decay_adds_what_eager_torch_adds():
    target, values = torch.randn(3000), torch.randn(3000)
    mask, expected = torch.rand(3000) > 0.5, target.clone()
    torch_mask._add_pruned(expected, values, mask, 2e-4)
    kernels.add_pruned(target, values, mask, 2e-4)
    # A multiply-add in one step rounds once.
    torch.testing.assert_close(target, expected, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    ("shape", "m", "takes"), [((8, 8), 4, True), ((8, 34), 17, False), ((0, 8), 4, False)]
)
def test_what_the_kernel_does_not_take_is_left_to_eager_torch(shape, m, takes):
    assert kernels.can_rank(torch.zeros(shape), m) == takes
    assert not kernels.can_rank(torch.zeros(shape, dtype=torch.bool), m)


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["2:4", "4:8", "3:16"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_gpu_gives_the_cpu_mask(dtype, text):
    pattern = NMPattern.parse(text)
    assert torch_mask.fused_kernels() is not None
    for inner in (1, 9):
        score = scores(dtype, pattern.m, inner)
        for make in (torch_mask.magnitude_mask, torch_mask.nm_mask):
            expected = make(score, pattern, axis=1)
            assert torch.equal(make(score.cuda(), pattern, axis=1).cpu(), expected)
    assert torch_mask.fused_kernels() is not None  # none of them fell back


@pytest.mark.gpu
@pytest.mark.parametrize("layout", ["contiguous", "channels-last", "transposed", "strided", "expanded"])
def test_a_gpu_takes_any_memory_format(layout):
    weight = torch.randn(8, 16, 4, 2, generator=torch.Generator().manual_seed(0)).cuda()
    weight = {
        "contiguous": lambda: weight,
        "channels-last": lambda: weight.to(memory_format=torch.channels_last),
        "transposed": lambda: weight.transpose(0, 1).contiguous().transpose(0, 1),
        "strided": lambda: torch.cat([weight, weight], dim=3)[..., ::2],
        "expanded": lambda: weight[:1].expand(8, -1, -1, -1),
    }[layout]()
    for axis in (0, 1, 2):
        expected = torch_mask.nm_mask(weight.cpu(), NMPattern(2, 4), axis=axis)
        assert torch.equal(torch_mask.nm_mask(weight, NMPattern(2, 4), axis=axis).cpu(), expected)
        mask = torch.ones_like(weight, dtype=torch.bool).contiguous()
        flips = torch_mask.update_magnitude_mask(mask, weight, NMPattern(2, 4), axis=axis)
        expected = torch_mask.magnitude_mask(weight.cpu(), NMPattern(2, 4), axis=axis)
        assert torch.equal(mask.cpu(), expected)
        assert int(flips) == int((~expected).sum())


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_a_gpu_s_decay_is_the_eager_one(dtype, monkeypatch):
    target, values = torch.randn(16, 64, 3, 3).cuda().to(dtype), torch.randn(16, 64, 3, 3).cuda().to(dtype)
    mask, eager = torch.rand(16, 64, 3, 3).cuda() > 0.5, target.clone()
    torch_mask.add_pruned(target, values, mask, 2e-3)
    monkeypatch.setenv("NM2TRT_FUSED_KERNELS", "0")
    torch_mask.add_pruned(eager, values, mask, 2e-3)
    assert torch.equal(target, eager)


@pytest.mark.gpu
def test_the_switch_leaves_a_gpu_to_eager_torch(monkeypatch):
    monkeypatch.setenv("NM2TRT_FUSED_KERNELS", "0")
    assert torch_mask.fused_kernels() is None
    score = torch.randn(64, 64).cuda()
    expected = torch_mask.nm_mask(score.cpu(), NMPattern(2, 4), axis=1)
    assert torch.equal(torch_mask.nm_mask(score, NMPattern(2, 4), axis=1).cpu(), expected)
