"""2:4 layers run by torch itself: cuSPARSELt's compressed tensors in place of finalised weights, on a GPU."""

from __future__ import annotations

import torch
from torch import nn

from nm2trt.errors import BackendError, BackendMissingError, SparsifyError
from nm2trt.nm.mask import check
from nm2trt.nm.pattern import NMPattern
from nm2trt.sparsity.core.state_keys import sparse_weights

_DTYPES = (torch.float16, torch.bfloat16, torch.int8)
_LEAST = (32, 64)  # rows and columns that the kernels take at least, and whose multiples they want
_PATTERN = NMPattern(2, 4)


def to_semi_structured(model: nn.Module) -> tuple[str, ...]:
    """Compress the weight of every linear layer that holds 2:4; see `nm2trt.to_semi_structured`.

    Raises:
        SparsifyError: A method is attached, or no linear layer holds 2:4 in a dtype that the kernels take.
        BackendMissingError: The model is not on a CUDA device.
        BackendError: torch refused a weight; the layers compressed before stay so.
    """
    if any(True for module in model.modules() for _ in sparse_weights(module)):
        raise SparsifyError("a method is attached to the model; call finalize() first")
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    devices = {module.weight.device.type for module in linears.values()}
    if devices - {"cuda"}:
        raise BackendMissingError(
            f"torch's 2:4 kernels need a CUDA device, and the model is on {', '.join(sorted(devices))}; move "
            "it by model.cuda(), or build an engine with nm2trt build"
        )
    reasons = {name: _refusal(module.weight) for name, module in linears.items()}
    chosen = [name for name, reason in reasons.items() if reason is None]
    if not chosen:
        shown = "; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:4])
        raise SparsifyError(
            f"no linear layer can take torch's 2:4 kernels ({shown or 'the model has none'}); finalize a 2:4 "
            "model and call model.half()"
        )
    for name in chosen:
        module = linears[name]
        try:
            compressed = torch.sparse.to_sparse_semi_structured(module.weight.detach())
        except (RuntimeError, NotImplementedError) as error:
            first = (str(error).strip().splitlines() or ["no reason given"])[0]
            raise BackendError(f"torch refused to compress {name}.weight: {first}") from error
        module.weight = nn.Parameter(compressed, requires_grad=False)
    return tuple(f"{name}.weight" if name else "weight" for name in chosen)


def _refusal(weight: torch.Tensor) -> str | None:
    """Say why a weight cannot be compressed, or None when it can."""
    if type(weight.data) is not torch.Tensor:
        return "compressed already"
    if weight.dtype not in _DTYPES:
        return f"its dtype {str(weight.dtype).removeprefix('torch.')} is not float16, bfloat16 or int8"
    if any(size % least for size, least in zip(weight.shape, _LEAST, strict=True)):
        return f"its shape {tuple(weight.shape)} is not a multiple of {_LEAST}"
    if not check(weight.detach().float().cpu().numpy(), _PATTERN, axis=1).holds:
        return "it does not hold 2:4"
    return None
