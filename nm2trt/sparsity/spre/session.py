"""SpRe: a second branch at the kernel positions that matter most (Zhang et al., TPAMI 2025, 2306.05612).

Beside each N:M convolution with a kernel larger than 1, a second one reads the same input while training,

    y = BN1(conv(x, E1 * W1)) + BN2(conv(x, W2 * E1 * S)),

where E1 is the main branch's N:M mask and S, one bit per kernel position, is true if unstructured pruning
of W1 would keep more than N/M (`spatial_mask.py`). The second support lies inside the first, so
both fold into one N:M convolution with a bias: nothing is left of the branch at inference.

The branch's weight gets the plain gradient, no straight-through and no decay. S is a stored buffer, set
after an optimizer step; training, evaluation and the merge all use what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nm2trt.errors import SparsifyError
from nm2trt.nm.plan import PLAN_ATTRIBUTE, Plan, PlanEntry, inside_wrappers
from nm2trt.sparsity.core.conv_norm_pairs import find_pairs, given_pairs
from nm2trt.sparsity.core.distributed import is_sharded
from nm2trt.sparsity.core.kept_zeros import watch_zeros
from nm2trt.sparsity.core.layer_choice import Choice, Site
from nm2trt.sparsity.core.method_spec import Request
from nm2trt.sparsity.core.session import SparseSession
from nm2trt.sparsity.core.tracked_weight import TrackedWeight
from nm2trt.sparsity.spre.branch_keys import after_load, blocks_of, load_plain_keys, without_branches
from nm2trt.sparsity.spre.branches import SpatialBranches
from nm2trt.sparsity.spre.options import SpReFixedWeight, SpReOptions, SpReWeight

_SHOWN_REASONS = 4


def start(request: Request) -> SpReSession:
    """Attach SpRe to a model: pair convolutions with BatchNorms, add the branches, parametrise.

    Raises:
        SparsifyError: No sparse convolution can have a branch, or the given pairs are wrong.
    """
    options: SpReOptions = request.options
    if options.freeze and request.total_steps is None:
        raise SparsifyError("freeze is a share of the run: give total_steps, the number of optimizer steps")
    choices = request.choose()
    wanted = {c.sites[0].module_name: c for c in choices if _may_branch(c)}
    if options.pairs is not None:
        found = given_pairs(request.model, options.pairs, wanted)
    else:
        found = find_pairs(request.model, wanted)
    if not found.pairs:
        raise SparsifyError(_no_branch(request.model, found.reasons))
    generator = None if options.seed is None else torch.Generator().manual_seed(options.seed)
    modules = dict(request.model.named_modules())
    moved = {conv_name: f"{conv_name}.main" for conv_name in found.pairs}
    try:
        for conv_name, norm_name in found.pairs.items():
            conv: Any = modules[conv_name]
            norm: Any = modules[norm_name]
            block = SpatialBranches(conv, norm, norm_name, options)
            _initialise(block.branch.weight, generator)
            _replace(request.model, conv_name, block)
            _replace(request.model, norm_name, nn.Identity())
        choices = tuple(_explained(_moved(choice, moved), found.pairs, found.reasons) for choice in choices)
        weights = request.parametrize(choices, SpReFixedWeight if options.base == "magnitude" else SpReWeight)
    except BaseException:
        for name in (*found.pairs, *found.pairs.values()):
            _replace(request.model, name, modules[name])
        raise
    for _, block in blocks_of(request.model):
        block.update_spatial()
        block.flips = block.flips_total = 0
    plan = Plan(tuple(choice.entry for choice in choices), request.spec.name)
    return SpReSession(request.model, plan, weights, options)


class SpReSession(SparseSession):
    """The handle of a model with branches; made by `sparsify(method="spre")`."""

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        weights: tuple[TrackedWeight, ...],
        options: SpReOptions,
    ) -> None:
        super().__init__(model, plan, weights)
        self.options = options
        self._handles: list[Any] = [
            model.register_load_state_dict_pre_hook(load_plain_keys),  # type: ignore[no-untyped-call]
            model.register_load_state_dict_post_hook(after_load),  # type: ignore[no-untyped-call]
        ]

    def attach(self, *optimizers: Optimizer) -> None:
        """Follow the optimizers that train both branches, besides those attached already.

        Raises:
            SparsifyError: Finalised, an optimizer is of another model, or a trained parameter is in none of
                those attached.
        """
        self._check_open("attach")
        held = self._hooks.held(optimizers)
        for name, block in blocks_of(self.model):
            if any(p.requires_grad and id(p) not in held for p in block.parameters()):
                raise SparsifyError(
                    f"the optimizer does not train all of {name}; make it from model.parameters() after "
                    "sparsify"
                )
        super().attach(*optimizers)

    def refresh(self, copy: nn.Module | None = None) -> None:
        """Set the masks from the weights; a copy's spatial masks follow the attached model's.

        Raises:
            SparsifyError: `copy` was not copied from the attached model, or the session is finalised.
        """
        super().refresh(copy)
        if copy is None:
            for _, block in blocks_of(self.model):
                if not _frozen(block):
                    block.update_spatial()
            return
        for (_, mine), (_, theirs) in zip(blocks_of(self.model), blocks_of(copy), strict=True):
            theirs.spatial.copy_(mine.spatial)
            if theirs.smoothed is not None and mine.smoothed is not None:
                theirs.smoothed.copy_(mine.smoothed)

    def report(self) -> dict[str, Any]:
        """Return the base's numbers; a layer with a branch has `spatial`, and the sums stand at the top."""
        result = super().report()
        blocks = {f"{name}.weight": block.telemetry() for name, block in blocks_of(self.model)}
        for weight, numbers in blocks.items():
            result["layers"][weight]["spatial"] = numbers
        result["spatial_flips"] = sum(numbers["flips"] for numbers in blocks.values())
        result["largest_branch_scale"] = max((n["largest_scale"] for n in blocks.values()), default=0.0)
        return result

    def finalize(self, copy: nn.Module | None = None, *, fuse: bool = True) -> nn.Module:
        """Merge the branches, bake the zeros in, leave plain layers, and check the pattern.

        Args:
            copy: Finalise this copy of the model (an EMA) instead; the attached model stays attached.
            fuse: True leaves one convolution with a bias in the convolution's place; False leaves both
                branches as plain layers, which `nm2trt fuse` merges in the exported file.

        Returns:
            The finalised model, which carries the plan.

        Raises:
            SparsifyError: Finalised before, sharded, or a weight or statistic is not finite.
            SparsityError: A weight does not hold its pattern.
        """
        self._check_open("finalize")
        target = inside_wrappers(self.model if copy is None else copy)
        if any(is_sharded(parameter) for parameter in target.parameters()):
            raise SparsifyError(
                "the model is sharded; load its state into an unsharded one, and finalize that"
            )
        if copy is not None:
            self.refresh(copy)
        blocks = list(blocks_of(target))
        for name, block in blocks:
            block.refuse_unmergeable(name)
        branches = [(block.branch_weight().detach(), block.base.pattern) for _, block in blocks]
        finished = super().finalize(copy)
        for (name, block), (weight, pattern) in zip(blocks, branches, strict=True):
            plain = block.plain(weight)
            _replace(target, name, plain.merged(pattern, name) if fuse else plain)
        if not fuse:
            names = {name for name, _ in blocks}
            entries = tuple(e for entry in self.plan for e in _of_branches(entry, names))
            setattr(target, PLAN_ATTRIBUTE, replace(self.plan, entries=entries))
        if copy is None:
            watch_zeros(finished)
            for handle in self._handles:
                handle.remove()
        return finished

    def dense_state_dict(self) -> dict[str, Any]:
        """Return the model's state under the dense model's keys; the second branches are left out."""
        return without_branches(self.model, super().dense_state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the base's state, and how often the spatial masks flipped."""
        flips = {name: (block.flips, block.flips_total) for name, block in blocks_of(self.model)}
        return {**super().state_dict(), "spatial_flips": flips}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned.

        Raises:
            SparsifyError: The state is of another method, other layers or another pattern.
        """
        super().load_state_dict(state)
        for name, block in blocks_of(self.model):
            block.flips, block.flips_total = state.get("spatial_flips", {}).get(name, (0, 0))
            block.seen = block.base.updates

    def _after_step(self) -> None:
        for _, block in blocks_of(self.model):
            steps = block.base.updates
            if steps == block.seen:  # another optimizer's step, or one that was skipped
                continue
            block.seen = steps
            block.flips = 0
            fixed = self.options.base == "magnitude"
            if not fixed and not _frozen(block) and steps % self.options.interval == 0:
                block.update_spatial()


def _frozen(block: SpatialBranches) -> bool:
    return isinstance(block.base, SpReWeight) and block.base.frozen


def _may_branch(choice: Choice) -> bool:
    module = choice.sites[0].module
    return (
        choice.entry.pattern is not None
        and len(choice.sites) == 1
        and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and any(size > 1 for size in module.kernel_size)
    )


def _no_branch(model: nn.Module, reasons: Mapping[str, str]) -> str:
    shown = [f"{name}: {reason}" for name, reason in list(reasons.items())[:_SHOWN_REASONS]]
    if not shown:
        shown = ["none of its sparse layers is a convolution with a kernel larger than 1"]
    return (
        f"no convolution of {type(model).__name__} can have a spatial branch ({'; '.join(shown)}); "
        'use method="sr-ste"'
    )


def _moved(choice: Choice, moved: Mapping[str, str]) -> Choice:
    sites = tuple(
        Site(site.module, moved.get(site.module_name, site.module_name), site.tensor) for site in choice.sites
    )
    return replace(choice, sites=sites)


def _explained(choice: Choice, pairs: Mapping[str, str], reasons: Mapping[str, str]) -> Choice:
    entry = choice.entry
    name = entry.weight.rpartition(".")[0]
    if name in pairs:
        more = f"with a spatial branch, up to {pairs[name]}"
    elif name in reasons:
        more = f"no spatial branch: {reasons[name]}"
    else:
        return choice
    return replace(choice, entry=replace(entry, reason=f"{entry.reason}; {more}"))


def _of_branches(entry: PlanEntry, names: set[str]) -> Iterator[PlanEntry]:
    name, _, tensor = entry.weight.rpartition(".")
    if name not in names:
        yield entry
        return
    for branch in ("main", "branch"):
        yield replace(entry, weight=f"{name}.{branch}.{tensor}")


@torch.no_grad()
def _initialise(weight: Tensor, generator: torch.Generator | None) -> None:
    """Kaiming-normal by fan-in for ReLU, without a correction for the zeros."""
    drawn = torch.empty(weight.shape)
    nn.init.kaiming_normal_(drawn, nonlinearity="relu", generator=generator)
    weight.copy_(drawn)


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
