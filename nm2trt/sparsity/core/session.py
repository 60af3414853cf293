"""The handle of an attached model: follow its training, and leave plain sparse layers at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from nm2trt.errors import SparsifyError
from nm2trt.nm.plan import Plan
from nm2trt.sparsity.core import state_keys
from nm2trt.sparsity.core.finalize import bake, refuse_others, refuse_replaced, refuse_stale
from nm2trt.sparsity.core.kept_zeros import watch_zeros
from nm2trt.sparsity.core.layer_choice import Site
from nm2trt.sparsity.core.lost_changes import AdapterWatch
from nm2trt.sparsity.core.optimizer_hooks import OptimizerHooks
from nm2trt.sparsity.core.telemetry import Anchor, report
from nm2trt.sparsity.core.tracked_weight import TrackedWeight

# What AveragedModel and DistributedDataParallel put before names.
_WRAPPERS = ("", "module.")


class SparseSession:
    """The handle of an attached model; made by `sparsify`.

    Attributes:
        model: The attached model.
        plan: What is sparse and what is dense, with reasons.
        weights: The sparse weights, in the plan's order.
        facts: What a method that ends with `sparsify` adds to the report.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        weights: tuple[TrackedWeight, ...],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        self.plan = plan
        self.weights = weights
        self.facts = dict(facts or {})
        self._finalized = False
        modules = {id(site.module): site.module for weight in weights for site in weight.sites}
        self._key_hooks = [handle for module in modules.values() for handle in state_keys.install(module)]
        self._adapters = AdapterWatch(model, modules.values())
        self._anchors = {weight.name: Anchor.of(weight.sparse) for weight in weights}
        self._hooks = OptimizerHooks(model, weights, self._after_step)

    @property
    def step(self) -> int:
        """Optimizer steps taken."""
        return max(weight.sparse.updates for weight in self.weights)

    def attach(self, *optimizers: Optimizer) -> None:
        """Follow the optimizers that train the sparse weights, besides those attached already.

        Parameter groups and layers may join an attached optimizer later. A frozen layer needs no optimizer:
        if the method has a schedule, it follows that of the others.

        Raises:
            SparsifyError: Finalised, an optimizer holds nothing of this model or cannot serve the method, a
                trained parameter is in none of those attached, or a sparse layer was replaced.
        """
        self._check_open("attach")
        refuse_replaced(self.model, self.weights)
        self._adapters.look()
        self._hooks.attach(optimizers)
        for weight in self.weights:
            if weight.sparse.unset:
                weight.sparse.refresh(weight.original)
        self._set_anchors()

    def detach(self, *optimizers: Optimizer) -> None:
        """Stop following these optimizers, or all of them when none is given.

        Raises:
            SparsifyError: Finalised, or one is not attached.
        """
        self._check_open("detach")
        self._hooks.detach(optimizers)

    def masks(self) -> dict[str, Tensor]:
        """Return a copy of each sparse weight's mask by the weight's name: bool, True where kept.

        Raises:
            SparsifyError: A weight was attached on the meta device and has had no values since.
        """
        for weight in self.weights:
            weight.sparse.check_set()
        return {weight.name: weight.sparse.mask.detach().clone() for weight in self.weights}

    def refresh(self, copy: nn.Module | None = None) -> None:
        """Set the masks from the weights as they stand now.

        Args:
            copy: A copy of the attached model with other weights, e.g. an exponential moving average
                (`AveragedModel` too); its masks are set from its own weights, or follow the attached
                model's if the method's masks depend on more than the weights.

        Raises:
            SparsifyError: `copy` was not copied from the attached model, or the session is finalised.
        """
        self._check_open("refresh")
        target = self.weights if copy is None else self._in_copy(copy)
        if copy is not None:
            for mine, theirs in zip(self.weights, target, strict=True):
                theirs.sparse.follow(mine.sparse, theirs.original)
        for weight in target:
            if weight.sparse.mask_follows_weight or weight.sparse.unset:
                weight.sparse.refresh(weight.original)
        self._hooks.warn_again()

    def dense_state_dict(self) -> dict[str, Any]:
        """Return the model's state under the dense model's keys: the dense master weights, without zeros."""
        return state_keys.dense_keys(self.model.state_dict())

    def report(self) -> dict[str, Any]:
        """Return SAD, sparsity and the method's own numbers, by layer and in all, as a plain dict.

        Raises:
            SparsifyError: A weight was attached on the meta device and has had no values since.
        """
        for weight in self.weights:
            weight.sparse.check_set()
        self._set_anchors()
        parts = [(weight.name, weight.sparse, self._anchors[weight.name]) for weight in self.weights]
        return {**report(self.plan, self.step, parts), **self.facts}

    def state_dict(self) -> dict[str, Any]:
        """Return the session's own state: method, patterns, step and the anchors of SAD.

        What training depends on is in the model's state_dict; this adds what telemetry remembers.
        """
        self._set_anchors()
        return {
            "method": self.plan.method,
            "patterns": {entry.weight: str(entry.pattern) for entry in self.plan.sparse},
            "updates": {weight.name: weight.sparse.updates for weight in self.weights},
            "anchors": {name: anchor.state() for name, anchor in self._anchors.items()},
            "counters": {weight.name: weight.sparse.counters() for weight in self.weights},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; load the model's state_dict too, in either order.

        Raises:
            SparsifyError: The state is of another method, other layers or another pattern.
        """
        self._check_open("load_state_dict")
        mine = self.state_dict()
        for key, what in (("method", "method"), ("patterns", "layers or patterns")):
            if state.get(key) != mine[key]:
                raise SparsifyError(
                    f"the state has other {what} than the model: {_short(state.get(key))} there, "
                    f"{_short(mine[key])} here; call sparsify with the arguments of the saved run"
                )
        for weight in self.weights:
            weight.sparse.updates = int(state["updates"][weight.name])
            weight.sparse.restore_counters(state.get("counters", {}).get(weight.name, {}))
            self._anchors[weight.name] = Anchor.restored(state["anchors"][weight.name], weight.sparse)

    def finalize(self, copy: nn.Module | None = None) -> nn.Module:
        """Bake the zeros in, leave plain layers, and check that every sparse weight holds its pattern.

        Args:
            copy: Finalise this copy of the model (an EMA) instead; the attached model stays attached.

        Returns:
            The finalised model, which carries the plan; under FSDP2 a new, unsharded one.

        Raises:
            SparsifyError: Finalised before, a schedule has not ended, a weight holds NaN or has no values, a
                mask is not its weight's, a sparse layer was replaced, or has another parametrisation too.
            SparsityError: A weight does not hold its pattern.
        """
        self._check_open("finalize")
        for weight in self.weights:
            weight.sparse.check_set()
            unfinished = weight.sparse.unfinished()
            if unfinished is not None:
                told = f"{weight.name} does not hold {weight.sparse.pattern} yet: {unfinished}"
                if not weight.sparse.updates and not any(p.requires_grad for p in weight.parameters()):
                    told += (
                        "; no attached optimizer holds a sparse weight, so no step counted: make it from "
                        "model.parameters(), frozen ones too"
                    )
                raise SparsifyError(told)
        if copy is not None:
            self.refresh(copy)
        target = self.weights if copy is None else self._in_copy(copy)
        refuse_replaced(self.model if copy is None else copy, target)
        for weight in target:
            refuse_others(weight)
            refuse_stale(weight)
        if copy is not None:
            return bake(copy, self.plan, target)
        self._adapters.warn()
        finished = bake(self.model, self.plan, self.weights)
        watch_zeros(finished)
        self._hooks.remove()
        for handle in self._key_hooks:
            handle.remove()
        self._finalized = True
        return finished

    def _set_anchors(self) -> None:
        """Anchor weights that had no values yet, on the meta device, when the session began."""
        for weight in self.weights:
            if self._anchors[weight.name].mask.is_meta and not weight.sparse.unset:
                self._anchors[weight.name] = Anchor.of(weight.sparse)

    def _after_step(self) -> None:
        """Run after each followed step, when the masks are set; for sessions that have more to set."""

    def _check_open(self, call: str) -> None:
        if self._finalized:
            raise SparsifyError(f"{call}: the model is finalised already; call sparsify to start again")

    def _in_copy(self, copy: nn.Module) -> tuple[TrackedWeight, ...]:
        modules = {_uncompiled(name): module for name, module in copy.named_modules()}
        for prefix in _WRAPPERS:
            found = [_same_weight(weight, modules, prefix) for weight in self.weights]
            if None not in found:
                return tuple(weight for weight in found if weight is not None)
        raise SparsifyError("the copy lacks the attached layers; make it by copy.deepcopy(model)")


def _same_weight(
    weight: TrackedWeight, modules: Mapping[str, nn.Module], prefix: str
) -> TrackedWeight | None:
    """Find a weight in a copy of the model whose names have `prefix` in front."""
    sites = []
    for site in weight.sites:
        module = modules.get(f"{prefix}{_uncompiled(site.module_name)}".removesuffix("."))
        if module is None or site.tensor not in {name for name, _, _ in state_keys.sparse_weights(module)}:
            return None
        sites.append(Site(module, site.module_name, site.tensor))
    found = {name: sparse for name, _, sparse in state_keys.sparse_weights(sites[0].module)}
    return TrackedWeight(weight.name, tuple(sites), found[sites[0].tensor])


def _uncompiled(name: str) -> str:
    """Return a module's name without torch.compile's wrappers, which a deepcopy leaves out."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
