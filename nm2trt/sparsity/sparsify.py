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
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from nm2trt.errors import SparsifyError
from nm2trt.nm.plan import Plan, check_globs, matching
from nm2trt.sparsity.core.distributed import is_sharded
from nm2trt.sparsity.core.layer_choice import Choice, PatternChoice
from nm2trt.sparsity.core.method_spec import MethodSpec, Request, parametrize_each
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.registry import method as find_method


def sparsify(
    model: nn.Module,
    *,
    method: str | Mapping[str, str] = "sr-ste",
    pattern: PatternChoice | None = "2:4",
    total_steps: int | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    min_channels: int = 16,
    dense: Mapping[str, str] | None = None,
    **options: Any,
) -> SparseSession:
    """Make a model's weights N:M sparse by a method; see `nm2trt.sparsify`.

    A method is a name of `nm2trt.sparsity.registry.METHODS`. Of a dict from globs on layer names to such
    names, the first glob that matches decides, and a layer that none matches stays dense. `dense` names
    weights that stay dense because sparsity would not pay, each with its reason.

    Raises:
        PatternError: A pattern cannot be read.
        SparsifyError: No layer fits, an option or a glob is unknown, a weight holds NaN, or the model is
            attached, compiled, wrapped or sharded already, or made in inference mode.
    """
    by_glob = {"*": method} if isinstance(method, str) else dict(method)
    ways = _read_methods(by_glob, options)
    spec = next(iter(ways.values())).spec
    model = _checked(model)
    request = Request(
        model=model,
        spec=spec,
        options=next(iter(ways.values())).options,
        pattern=pattern,
        total_steps=total_steps,
        include=include,
        exclude=exclude,
        min_channels=min_channels,
        dense=dense or {},
    )
    if total_steps is not None and (not isinstance(total_steps, int) or total_steps < 1):
        raise SparsifyError(f"total_steps must be a positive whole number, not {total_steps!r}")
    for way in ways.values():
        if total_steps is None and way.spec.weight.has_schedule(way.options):
            raise SparsifyError(
                f"{way.spec.name!r} has a schedule: give total_steps, the optimizer steps of the whole run"
            )
    if spec.start:
        _refuse_without_values(model, spec.name)
        return spec.start(request)
    chosen = _assign(request.choose(), by_glob, ways)
    weights = parametrize_each([(c, way.spec.weight, way.options) for c, way in chosen], total_steps)
    used = dict.fromkeys(way.spec.name for c, way in chosen if c.entry.pattern is not None)
    return SparseSession(model, Plan(tuple(c.entry for c, _ in chosen), ", ".join(used)), weights)


@dataclass(frozen=True, slots=True)
class _Way:
    """A method with its options."""

    spec: MethodSpec
    options: Any


def _read_methods(by_glob: Mapping[str, str], options: Mapping[str, Any]) -> dict[str, _Way]:
    """Read each method with those of the options that it knows, by name."""
    specs = {name: find_method(name) for name in by_glob.values()}
    if not specs:
        raise SparsifyError('the methods by name are empty; give at least one glob, as in {"*": "sr-ste"}')
    if len(specs) == 1:
        return {name: _Way(spec, spec.read_options(options)) for name, spec in specs.items()}
    for name, spec in specs.items():
        if spec.start:
            raise SparsifyError(
                f"{name!r} changes more than weights and cannot share a session with "
                f"{', '.join(repr(n) for n in specs if n != name)}; sparsify submodules one by one"
            )
    known = {name: {field.name for field in fields(spec.options)} for name, spec in specs.items()}
    for option in options:
        if not any(option in of_method for of_method in known.values()):
            raise SparsifyError(f"none of {', '.join(specs)} knows the option {option!r}")
    return {
        name: _Way(spec, spec.read_options({o: v for o, v in options.items() if o in known[name]}))
        for name, spec in specs.items()
    }


def _assign(
    choices: Sequence[Choice], by_glob: Mapping[str, str], ways: Mapping[str, _Way]
) -> list[tuple[Choice, _Way]]:
    """Give each weight its method; what no glob matches stays dense."""
    names = [name for c in choices for s in c.sites for name in (s.module_name, s.weight_name)]
    check_globs({"method": tuple(by_glob)}, names, kind="layer", error=SparsifyError)
    assigned = []
    for choice in choices:
        site, entry = choice.sites[0], choice.entry
        found = [
            name for glob, name in by_glob.items() if matching([glob], (site.module_name, site.weight_name))
        ]
        if entry.pattern is not None and not found:
            entry = replace(entry, pattern=None, reason="no method is given for its name")
        elif entry.pattern is not None and len(ways) > 1:
            entry = replace(entry, reason=f"{entry.reason}; by {found[0]}")
        way = ways[found[0]] if found else next(iter(ways.values()))
        assigned.append((replace(choice, entry=entry), way))
    if all(choice.entry.pattern is None for choice, _ in assigned):
        raise SparsifyError("method: no layer that can be sparse has a method; add a glob that matches one")
    return assigned


def _checked(model: nn.Module) -> nn.Module:
    """Return the model to attach: of an average, the one inside."""
    if not isinstance(model, nn.Module):
        raise SparsifyError(f"sparsify takes a torch.nn.Module, not {type(model).__name__}")
    kinds = {base.__name__ for base in type(model).__mro__}
    for kind in ("DistributedDataParallel", "DataParallel", "OptimizedModule", "ScriptModule"):
        if kind in kinds:
            raise SparsifyError(f"the model is wrapped in {kind}; sparsify first, then wrap")
    if "AveragedModel" in kinds:
        return _checked(model.module)  # type: ignore[arg-type]
    for name, parameter in model.named_parameters():
        if is_sharded(parameter):
            raise SparsifyError(f"{name} is sharded already; call sparsify before fully_shard")
        if torch.is_inference_mode_enabled() or isinstance(parameter, UninitializedParameter):
            continue
        if parameter.is_inference():
            raise SparsifyError(
                f"{name} was made in torch.inference_mode(), where nothing can be trained; make or load the "
                "model outside of it"
            )
    return model


def _refuse_without_values(model: nn.Module, method: str) -> None:
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise SparsifyError(f"{name} has no shape yet; run one batch through the model first")
        if parameter.device.type == "meta":
            raise SparsifyError(
                f"{method!r} reads the model's values, and {name} is on the meta device; call to_empty() and "
                "load_state_dict() first"
            )
