"""The methods, by name: the only such table. Adding one touches this file and its own module."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.fcpts_options import FcptsOptions, FcptsWeight
from nm2trt.sparsity.lbc import LbcOptions, LbcWeight
from nm2trt.sparsity.magnitude import MagnitudeOptions, MagnitudeWeight
from nm2trt.sparsity.parametrization import NoOptions, SparseWeight
from nm2trt.sparsity.spre_options import SpReOptions, SpReWeight
from nm2trt.sparsity.sr_ste import SrSteOptions, SrSteWeight, SteWeight

__all__ = ["METHODS", "MethodSpec", "method"]


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method.

    Args:
        name: What `sparsify(method=...)` is given.
        weight: The parametrisation.
        options: Its dataclass of options.
        summary: One clause for help texts and tables.
        start: Module whose `start(request)` attaches the method; "" for those that only parametrise weights.
        post_training: Whether it trains by itself from calibration data, and needs no optimizer.
    """

    name: str
    weight: type[SparseWeight]
    options: type
    summary: str
    start: str = ""
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


_ALL = (
    MethodSpec("sr-ste", SrSteWeight, SrSteOptions, "from scratch, with a decay that steadies the mask"),
    MethodSpec("ste", SteWeight, NoOptions, "from scratch, straight-through only"),
    MethodSpec("lbc", LbcWeight, LbcOptions, "from scratch, learns the best combination of each group"),
    MethodSpec("magnitude", MagnitudeWeight, MagnitudeOptions, "from a dense model: one-shot or gradual"),
    MethodSpec(
        "spre",
        SpReWeight,
        SpReOptions,
        "from scratch, with a second branch at the kernel positions that matter most",
        start="nm2trt.sparsity.spre",
    ),
    MethodSpec(
        "fcpts",
        FcptsWeight,
        FcptsOptions,
        "post-training, from unlabelled calibration data",
        start="nm2trt.sparsity.fcpts",
        post_training=True,
    ),
)

METHODS: Mapping[str, MethodSpec] = {spec.name: spec for spec in _ALL}


def method(name: str) -> MethodSpec:
    """Return the method of that name.

    Raises:
        SparsifyError: There is none.
    """
    if name not in METHODS:
        raise SparsifyError(f"there is no method {name!r}; choose one of {', '.join(METHODS)}")
    return METHODS[name]
