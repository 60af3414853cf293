"""One method's entry in the registry: its parametrisation, its options, how it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.parametrization import SparseWeight

if TYPE_CHECKING:
    from nm2trt.sparsity.core.session import Request, SparseSession


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
            SparsifyError: A name is none of the method's options, or a value is out of range.
        """
        known = [field.name for field in fields(self.options)]
        for name in given:
            if name not in known:
                has = f"its options are {', '.join(known)}" if known else "it has no options"
                raise SparsifyError(f"{self.name!r} does not know the option {name!r}; {has}")
        try:
            return self.options(**given)
        except TypeError as error:
            raise SparsifyError(f"an option of {self.name!r} has the wrong type: {error}") from error
