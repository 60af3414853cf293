"""One method's entry in the registry: its parametrisation, its options, how it starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.parametrization import SparseWeight

if TYPE_CHECKING:
    from nm2trt.sparsity.core.session import Request, SparseSession

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
