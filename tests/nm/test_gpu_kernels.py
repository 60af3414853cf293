"""The fused kernels give the bits of eager torch: on a GPU where there is one, else in Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nm2trt.nm import gpu_kernels, torch_mask
from nm2trt.nm.pattern import NMPattern
from tests.nm.kernel_scores import DTYPES, scores

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.skipif(not gpu_kernels.AVAILABLE, reason="triton is not installed")
def test_the_interpreted_kernels_give_what_eager_torch_gives():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.nm.interpreted_kernels"],
        cwd=ROOT,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "equal\n"


@pytest.mark.slow
@pytest.mark.skipif(not gpu_kernels.AVAILABLE, reason="triton is not installed")
def test_compiled_for_sm90_a_group_is_one_load_and_one_store():
    ran = subprocess.run(
        [sys.executable, "-m", "tests.nm.compiled_kernels"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"strided": [16, 16], "packed": [2, 1]}


@pytest.mark.parametrize(
    ("shape", "m", "takes"), [((8, 8), 4, True), ((8, 34), 17, False), ((0, 8), 4, False)]
)
def test_what_the_kernel_does_not_take_is_left_to_eager_torch(shape, m, takes):
    assert gpu_kernels.can_rank(torch.zeros(shape), m) == takes
    assert not gpu_kernels.can_rank(torch.zeros(shape, dtype=torch.bool), m)


@pytest.mark.gpu
@pytest.mark.parametrize("text", ["2:4", "4:8"])
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
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_gpu_takes_tensors_that_begin_between_words(dtype):
    memory, pattern = torch.randn(64).to(dtype), NMPattern(2, 4)
    for begin in range(5):
        expected = torch_mask.magnitude_mask(memory[begin : begin + 32].view(4, 8), pattern, axis=1)
        score = memory.cuda()[begin : begin + 32].view(4, 8)
        assert torch.equal(torch_mask.magnitude_mask(score, pattern, axis=1).cpu(), expected)


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
