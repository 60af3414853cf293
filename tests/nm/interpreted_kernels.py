"""Hold the GPU kernels to eager torch in Triton's interpreter; a program, since Triton reads its switch when imported."""

import torch

from nm2trt.nm import gpu_kernels, torch_mask
from nm2trt.nm.pattern import NMPattern
from tests.nm.kernel_scores import DTYPES, scores


def check_masks(text):
    """Compare mask and count of changes for all types, along contiguous and strided groups."""
    pattern = NMPattern.parse(text)
    for dtype in DTYPES:
        for inner in (1, 9):
            score = scores(dtype, pattern.m, inner)
            for magnitude in (False, True):
                eager = torch_mask.magnitude_mask if magnitude else torch_mask.nm_mask
                expected = eager(score, pattern, axis=1)
                mask, flips = torch.ones_like(expected), torch.zeros((), dtype=torch.int64)
                given = {"n": pattern.n, "m": pattern.m, "inner": inner, "magnitude": magnitude}
                gpu_kernels.set_mask(score, mask, **given, flips=flips)
                assert torch.equal(mask, expected), (dtype, text, inner, magnitude)
                assert int(flips) == int((~expected).sum()), (dtype, text, inner, magnitude)


def check_all_kinds_of_numbers():
    """Compare every group of four of zeros, the smallest, one, the largest, infinities and NaN, of both signs."""
    for dtype, bits in {
        torch.bfloat16: (1, 0x3F80, 0x7F80, 0x7F81),
        torch.float16: (1, 0x3C00, 0x7C00, 0x7C01),
    }.items():
        kinds = torch.tensor([sign | kind for kind in (0, *bits, 0x7FFF) for sign in (0, -0x8000)])
        score = torch.cartesian_prod(*[kinds.to(torch.int16)] * 4).view(dtype)
        for magnitude in (False, True):
            eager = torch_mask.magnitude_mask if magnitude else torch_mask.nm_mask
            mask = torch.zeros(score.shape, dtype=torch.bool)
            gpu_kernels.set_mask(score, mask, n=2, m=4, inner=1, magnitude=magnitude)
            assert torch.equal(mask, eager(score, NMPattern(2, 4), axis=1)), (dtype, magnitude)


def check_any_address():
    """Compare masks of tensors that begin between the words that a kernel could read at once."""
    pattern, memory = NMPattern.parse("2:4"), torch.randn(64).to(torch.bfloat16)
    for begin in range(5):
        score = memory[begin : begin + 32].view(4, 8)
        for begin_mask in range(3):
            mask = torch.zeros(40, dtype=torch.bool)[begin_mask : begin_mask + 32].view(4, 8)
            gpu_kernels.set_mask(score, mask, n=2, m=4, inner=1, magnitude=True)
            assert torch.equal(mask, torch_mask.magnitude_mask(score, pattern, axis=1)), (begin, begin_mask)


def check_decay():
    """Compare the decay; a multiply-add in one step rounds once."""
    target, values, mask = torch.randn(3000), torch.randn(3000), torch.rand(3000) > 0.5
    expected = target.clone()
    torch_mask._add_pruned(expected, values, mask, 2e-4)
    gpu_kernels.add_pruned(target, values, mask, 2e-4)
    torch.testing.assert_close(target, expected, rtol=1e-7, atol=1e-8)


if __name__ == "__main__":
    torch.manual_seed(0)
    for text in ("2:4", "1:4", "4:8", "2:3"):
        check_masks(text)
    check_all_kinds_of_numbers()
    check_any_address()
    check_decay()
    print("equal")
