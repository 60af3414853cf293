"""Scores that tell N:M kernels apart: ties, infinities, NaN, the lowest int8."""

import torch

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
DTYPES = (*FLOATS, torch.int8, torch.int32, torch.uint8)


def scores(dtype, m, inner):
    """Return random numbers (7, 3 m, inner)."""
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
