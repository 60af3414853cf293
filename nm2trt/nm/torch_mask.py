"""N:M masks in torch, with the contract of `nm2trt.nm.mask`; it runs at every optimizer step.

On a CPU `nm2trt.nm.block_ranks` does it in numpy, on the tensor's own memory: numpy compares seven times as
fast as eager torch there. Under torch.compile, and for tensors without memory of their own,
`nm2trt.nm.torch_ranks` does it in torch.

On a CUDA device with the package `triton`, one kernel of `nm2trt.nm.gpu_kernels` does it instead, with the
same result; the environment variable NM2TRT_FUSED_KERNELS=0 switches that off.
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import warnings
from types import ModuleType

import ml_dtypes
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from nm2trt.arrays import Array
from nm2trt.nm.block_ranks import set_mask
from nm2trt.nm.mask import check_groupable
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.torch_ranks import CPU_BLOCK_ELEMENTS, integer_magnitude, set_mask_eagerly

# Set to 0 to run eager torch on GPUs too.
_SWITCH = "NM2TRT_FUSED_KERNELS"
_PLAIN = (Tensor, torch.nn.Parameter)

_DECAYED = (torch.float16, torch.bfloat16, torch.float32)


def nm_mask(score: Tensor, pattern: NMPattern, *, axis: int) -> Tensor:
    """Mark the `pattern.n` highest scores in every group of `pattern.m` along `axis`.

    Args:
        score: Importance of each weight, any real dtype, rank and memory format; higher is kept.
            NaN ranks with minus infinity.
        pattern: `NMPattern(2, 4)` keeps 2 of every 4.
        axis: Reduction axis, e.g. 1 for a Conv weight of shape (O, I, kH, kW).

    Returns:
        Boolean mask of `score`'s shape, device and memory format, exactly N True in each group. Equal
        scores keep the lower index, so a CPU and a GPU give the same mask.

    Raises:
        PatternError: The length of `axis` is not a multiple of `pattern.m`.
    """
    return _mask(score, pattern, axis, magnitude=False)


def magnitude_mask(weight: Tensor, pattern: NMPattern, *, axis: int) -> Tensor:
    """Return `nm_mask(weight.abs(), pattern, axis=axis)` without a tensor of absolute values."""
    return _mask(weight, pattern, axis, magnitude=True)


@torch.no_grad()
def update_magnitude_mask(mask: Tensor, weight: Tensor, pattern: NMPattern, *, axis: int) -> Tensor:
    """Set `mask` in place to `magnitude_mask(weight, pattern, axis=axis)`.

    Args:
        mask: Bool, of the weight's shape and device.
        weight: As `magnitude_mask` takes it.
        pattern: `NMPattern(2, 4)` keeps 2 of every 4.
        axis: Reduction axis.

    Returns:
        How many entries changed: int64, 0-dim, on the weight's device.

    Raises:
        PatternError: The length of `axis` is not a multiple of `pattern.m`.
    """
    axis = check_groupable(tuple(weight.shape), pattern, axis=axis)
    weight, order = weight.detach(), _memory_order(weight)
    dense, kept = weight.permute(order), mask.permute(order)
    if dense.is_contiguous() and kept.is_contiguous():
        inner = math.prod(dense.shape[order.index(axis) + 1 :])
        if _is_fused(dense, pattern.m):
            flips = torch.zeros((), dtype=torch.int64, device=weight.device)
            given = {"n": pattern.n, "m": pattern.m, "inner": inner, "magnitude": True, "flips": flips}
            if _launch("set_mask", dense, kept, **given):
                return flips
        changed = _set_in_numpy(dense, kept, pattern, inner, magnitude=True, changes=True)
        if changed is not None:
            return torch.tensor(changed)
    new = magnitude_mask(weight, pattern, axis=axis)
    flips = torch.count_nonzero(mask != new)
    mask.copy_(new)
    return flips


@torch.no_grad()
def add_pruned(target: Tensor, values: Tensor, mask: Tensor, factor: float | Tensor) -> None:
    """Add `factor * (1 - mask) * values` to `target` in place.

    Args:
        target: Floats of any shape; may be `values` itself.
        values: Of the target's shape, dtype and device.
        mask: Bool, of the target's shape.
        factor: A number, or a tensor of one.
    """
    order = _memory_order(target)
    parts = [tensor.detach().permute(order) for tensor in (target, values, mask)]
    if all(tensor.is_contiguous() for tensor in parts):
        small = target.dtype == values.dtype and target.dtype in _DECAYED and not isinstance(factor, Tensor)
        if small and _is_fused(parts[0], 4) and _launch("add_pruned", *parts, factor=factor):
            return
        if target.device.type == "cpu":  # in blocks whose temporaries stay in the cache
            split = (torch.split(tensor.view(-1), CPU_BLOCK_ELEMENTS) for tensor in parts)
            for into, of, kept in zip(*split, strict=True):
                _add_pruned(into, of, kept, factor)
            return
    _add_pruned(target, values, mask, factor)


def _add_pruned(target: Tensor, values: Tensor, mask: Tensor, factor: float | Tensor) -> None:
    pruned = values * mask.logical_not()
    if isinstance(factor, Tensor):
        target.add_(pruned.mul_(factor.to(pruned.device)))
    else:
        target.add_(pruned, alpha=factor)


@torch.no_grad()
def _mask(score: Tensor, pattern: NMPattern, axis: int, *, magnitude: bool) -> Tensor:
    axis = check_groupable(tuple(score.shape), pattern, axis=axis)
    score = score.detach()
    order = _memory_order(score)
    dense = score.permute(order)
    if not dense.is_contiguous():
        order = list(range(score.ndim))
        dense = score.contiguous()
    mask = torch.empty(dense.shape, dtype=torch.bool, device=score.device)
    inner = math.prod(dense.shape[order.index(axis) + 1 :])
    inverse = sorted(range(score.ndim), key=order.__getitem__)
    given = {"n": pattern.n, "m": pattern.m, "inner": inner, "magnitude": magnitude}
    if not (
        (_is_fused(dense, pattern.m) and _launch("set_mask", dense, mask, **given))
        or _set_in_numpy(dense, mask, pattern, inner, magnitude=magnitude, changes=False) is not None
    ):
        set_mask_eagerly(dense, mask, pattern, inner, magnitude=magnitude)
    return mask.permute(inverse)


def _set_in_numpy(
    dense: Tensor, mask: Tensor, pattern: NMPattern, inner: int, *, magnitude: bool, changes: bool
) -> int | None:
    """Write the mask of a contiguous tensor on a CPU; None if numpy cannot reach the memory of both."""
    # What numpy writes would be a constant of a trace.
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    if traced or torch.compiler.is_compiling() or is_in_torch_dispatch_mode():
        return None
    if any(type(tensor) not in _PLAIN or tensor.device.type != "cpu" for tensor in (dense, mask)):
        return None
    try:
        score, kept = _as_array(dense, magnitude=magnitude), mask.numpy()
    except RuntimeError:  # inside torch.vmap, or another transform whose tensors have no memory
        return None
    threads = torch.get_num_threads()
    return set_mask(score, kept, pattern, inner=inner, magnitude=magnitude, threads=threads, changes=changes)


def _as_array(tensor: Tensor, *, magnitude: bool) -> Array:
    """Return a tensor's own memory; or, for types that numpy has not, and of integers, what to rank in it."""
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    if tensor.is_floating_point() and tensor.element_size() == 1:
        return tensor.float().numpy()
    if magnitude and not tensor.is_floating_point():
        return integer_magnitude(tensor).numpy()
    return tensor.numpy()


def _memory_order(tensor: Tensor) -> list[int]:
    """Return the dimensions from outermost to innermost in memory: channels_last tensors need no copy."""
    strides = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda dim: (-strides[dim], -tensor.shape[dim], dim))


def fused_kernels() -> ModuleType | None:
    """Return `nm2trt.nm.gpu_kernels`, or None if it is switched off, lacks `triton`, or has failed."""
    if _FAILED or os.environ.get(_SWITCH) == "0":
        return None
    return _imported()


@functools.cache
def _imported() -> ModuleType | None:
    kernels = importlib.import_module("nm2trt.nm.gpu_kernels")  # a second of imports, only if it can be used
    return kernels if kernels.AVAILABLE else None


# Why the kernels do not run here, once one has failed.
_FAILED: list[str] = []


def _is_fused(tensor: Tensor, m: int) -> bool:
    """Tell whether a kernel takes a tensor: a plain one on a CUDA device, outside of torch.compile."""
    if not tensor.is_cuda or type(tensor) not in _PLAIN or torch.compiler.is_compiling():
        return False
    kernels = fused_kernels()
    return kernels is not None and bool(kernels.can_rank(tensor, m))


def _launch(name: str, *tensors: Tensor, **given: object) -> bool:
    """Run a kernel; False, with one warning, where it cannot be compiled (a C compiler is missing)."""
    try:
        with torch.cuda.device(tensors[0].device):
            getattr(fused_kernels(), name)(*tensors, **given)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton has no common base for what goes wrong while it compiles
        _FAILED.append(f"{type(error).__name__}: {error}".splitlines()[0])
        warnings.warn(
            f"the fused mask kernels cannot run here, so masks come from eager torch, which is slower "
            f"({_FAILED[0]}); {_SWITCH}=0 silences this",
            stacklevel=4,
        )
        return False
    return True
