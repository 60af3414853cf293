"""One method's entry in the registry, and the request that it starts from."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from nm2trt.errors import SparsifyError
from nm2trt.nm.mask import check
from nm2trt.sparsity.core.layer_choice import Choice, PatternChoice, check_finite, select
from nm2trt.sparsity.core.parametrization import SparseWeight
from nm2trt.sparsity.core.recurrent import read_weights_at_each_call
from nm2trt.sparsity.core.tracked_weight import TrackedWeight

if TYPE_CHECKING:
    from nm2trt.sparsity.core.session import SparseSession

_SHOWN_REASONS = 4
# Python takes True for 1, and any text for true; the options check the rest of their values themselves.
_NUMBER = re.compile(r"(int|float)( \| (?!bool).+)?")


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method.

    Args:
        name: What `sparsify(method=...)` is given.
        weight: The parametrisation.
        options: Its dataclass of options.
        summary: One clause for help texts and tables.
        start: Attaches the method to a request; None for methods that only parametrise weights.
        post_training: Whether it trains by itself from calibration data, and needs no optimizer.
    """

    name: str
    weight: type[SparseWeight]
    options: type
    summary: str
    start: Callable[[Request], SparseSession] | None = None
    post_training: bool = False

    def read_options(self, given: Mapping[str, Any]) -> Any:
        """Make the method's options out of keyword arguments.

        Raises:
            SparsifyError: A name is not an option of the method, or a value is out of range.
        """
        types = {field.name: str(field.type) for field in fields(self.options)}
        known = list(types)
        for name, value in given.items():
            if name not in known:
                has = f"its options are {', '.join(known)}" if known else "it has no options"
                raise SparsifyError(f"{self.name!r} does not know the option {name!r}; {has}")
            if types[name] == "bool" and not isinstance(value, bool):
                raise SparsifyError(f"{name} of {self.name!r} must be True or False, not {value!r}")
            if isinstance(value, bool) and _NUMBER.fullmatch(types[name]):
                raise SparsifyError(f"{name} of {self.name!r} must be a number, not {value}")
        try:
            return self.options(**given)
        except TypeError as error:
            raise SparsifyError(f"an option of {self.name!r} has the wrong type: {error}") from error


@dataclass(frozen=True, slots=True)
class Request:
    """What `sparsify` was asked for, checked; a method that does more than parametrise starts from it.

    Args:
        model: Plain layers.
        spec: The method.
        options: The method's options.
        pattern: As `sparsify` was given it.
        total_steps: Optimizer steps of the whole run, or None.
        include: Globs on layer names.
        exclude: Globs on layer names.
        min_channels: Fewest input channels of a sparse layer.
        dense: Names of weights that stay dense because sparsity would not pay, each with its reason.
    """

    model: nn.Module
    spec: MethodSpec
    options: Any
    pattern: PatternChoice | None
    total_steps: int | None
    include: str | Sequence[str]
    exclude: str | Sequence[str]
    min_channels: int
    dense: Mapping[str, str]

    def choose(self, *, unstructured: bool = False) -> tuple[Choice, ...]:
        """Decide which weights become sparse.

        Args:
            unstructured: Zeros may stand anywhere, so that every layer qualifies.

        Raises:
            SparsifyError: None can, one of those that can holds NaN, or a method that needs no training finds
                all of them pruned.
        """
        if self.pattern is None:
            raise SparsifyError(f'{self.spec.name!r} needs a pattern, as in pattern="2:4"')
        choices = select(
            self.model,
            self.pattern,
            include=self.include,
            exclude=self.exclude,
            min_channels=self.min_channels,
            unstructured=unstructured,
            dense=self.dense,
        )
        chosen = [choice for choice in choices if choice.entry.pattern is not None]
        if not chosen:
            reasons = [f"{c.entry.weight}: {c.entry.reason}" for c in choices[:_SHOWN_REASONS]]
            found = "; ".join(reasons) or "it has no convolution, linear or attention layer"
            raise SparsifyError(f"no layer of {type(self.model).__name__} can be made sparse ({found})")
        for choice in chosen:
            check_finite(choice.entry.weight, _values(choice))
        if self.spec.post_training and not unstructured and all(map(_holds, chosen)):
            raise SparsifyError(
                f"every weight of {type(self.model).__name__} that {self.spec.name!r} would prune holds its "
                "pattern already, so what it should restore is not known; give the model as it was before "
                "pruning"
            )
        return choices

    def parametrize(
        self, choices: Sequence[Choice], weight: type[SparseWeight] | None = None
    ) -> tuple[TrackedWeight, ...]:
        """Attach a parametrisation, the method's own unless another is given, to each chosen weight."""
        way = weight or self.spec.weight, self.options
        return parametrize_each([(choice, *way) for choice in choices], self.total_steps)


def _values(choice: Choice) -> Tensor:
    values: Tensor = getattr(choice.sites[0].module, choice.sites[0].tensor)
    return values.detach()


def _holds(choice: Choice) -> bool:
    """Tell whether a chosen weight holds its pattern before anything was done; one of zeros says nothing."""
    entry, values = choice.entry, _values(choice)
    if entry.pattern is None or entry.axis is None or not bool(values.any()):
        return False
    return check(values.float().cpu().numpy(), entry.pattern, axis=entry.axis).holds


def parametrize_each(
    chosen: Sequence[tuple[Choice, type[SparseWeight], Any]], total_steps: int | None
) -> tuple[TrackedWeight, ...]:
    """Attach to each chosen weight a parametrisation of its own class and options.

    Raises:
        SparsifyError: A method cannot take a weight; the model is as it was.
    """
    made = []
    for choice, weight, options in chosen:  # all masks first: one that is refused leaves the model as it was
        entry = choice.entry
        if entry.pattern is None or entry.axis is None:
            continue
        try:
            sparse = weight(
                _values(choice), entry.pattern, axis=entry.axis, options=options, total_steps=total_steps
            )
        except SparsifyError as error:
            raise SparsifyError(f"{choice.entry.weight}: {error}") from error
        sparse.weight_name = entry.weight
        made.append(TrackedWeight(choice.entry.weight, choice.sites, sparse))
    for tracked in made:
        for site in tracked.sites:
            parametrize.register_parametrization(site.module, site.tensor, tracked.sparse)
            if isinstance(site.module, nn.RNNBase):
                read_weights_at_each_call(site.module)
    return tuple(made)
