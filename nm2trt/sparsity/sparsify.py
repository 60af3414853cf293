"""`sparsify`: a method attached to a model.

The whole of a training script that changes:

    sparse = sparsify(model, method="sr-ste", pattern="2:4")
    optimizer = torch.optim.SGD(model.parameters(), ...)
    sparse.attach(optimizer)
    ...                                   # the training loop, unchanged
    sparse.finalize()
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from nm2trt.errors import SparsifyError
from nm2trt.nm.plan import Plan
from nm2trt.sparsity.core.distributed import is_sharded
from nm2trt.sparsity.core.layer_choice import PatternChoice
from nm2trt.sparsity.core.session import Request, SparseSession
from nm2trt.sparsity.registry import method as find_method

__all__ = ["sparsify"]


def sparsify(
    model: nn.Module,
    *,
    method: str = "sr-ste",
    pattern: PatternChoice | None = "2:4",
    total_steps: int | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_channels: int = 16,
    dense: Mapping[str, str] | None = None,
    **options: Any,
) -> SparseSession:
    """Make a model's weights N:M sparse by a method; the training loop does not change.

    Args:
        model: Plain layers; their weights become parametrised in place.
        method: A name of `nm2trt.sparsity.registry.METHODS`.
        pattern: "2:4", an `NMPattern`, or a dict from globs on layer names to patterns (None: dense). FCPTS
            takes None for zeros anywhere.
        total_steps: Optimizer steps of the whole run, for methods with a schedule.
        include: Globs on layer names; when given, only these become sparse.
        exclude: Globs on layer names that stay dense.
        min_channels: Fewest input channels of a sparse layer.
        dense: Names of weights that stay dense because sparsity would not pay, each with its reason.
        **options: Options of the method, e.g. `lambda_w=2e-4` of SR-STE.

    Returns:
        The handle: `attach(optimizer)`, then train, then `finalize()`.

    Raises:
        PatternError: A pattern cannot be read.
        SparsifyError: No layer fits, an option or a glob is unknown, a weight holds NaN, or the model is
            attached, compiled, wrapped or sharded already.
    """
    spec = find_method(method)
    request = Request(
        model=model,
        spec=spec,
        options=spec.read_options(options),
        pattern=pattern,
        total_steps=total_steps,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
        dense=dense or {},
    )
    _check_model(model)
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise SparsifyError(f"total_steps must be a positive whole number, not {total_steps!r}")
    if total_steps is None and spec.weight.has_schedule(request.options):
        raise SparsifyError(
            f"{method!r} has a schedule: give total_steps, the optimizer steps of the whole run"
        )
    if spec.start:
        _refuse_meta(model, method)
        return spec.start(request)
    choices = request.choose()
    weights = request.parametrize(choices)
    return SparseSession(model, Plan(tuple(c.entry for c in choices), spec.name), weights)


def _check_model(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise SparsifyError(f"sparsify takes a torch.nn.Module, not {type(model).__name__}")
    kinds = {base.__name__ for base in type(model).__mro__}
    for kind in ("DistributedDataParallel", "DataParallel", "OptimizedModule", "ScriptModule"):
        if kind in kinds:
            raise SparsifyError(f"the model is wrapped in {kind}; sparsify first, then wrap")
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise SparsifyError(f"{name} is sharded already; call sparsify before fully_shard")


def _refuse_meta(model: nn.Module, method: str) -> None:
    for name, parameter in model.named_parameters():
        if parameter.device.type == "meta":
            raise SparsifyError(
                f"{method!r} reads the model's values, and {name} is on the meta device; call to_empty() and "
                "load_state_dict() first"
            )
