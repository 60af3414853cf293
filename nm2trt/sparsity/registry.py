"""The methods, by name: the only such table. Adding one touches this file and its own module."""

from __future__ import annotations

from collections.abc import Mapping

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.core.method_spec import MethodSpec
from nm2trt.sparsity.fcpts.options import FcptsOptions, FcptsWeight
from nm2trt.sparsity.fcpts.session import start as start_fcpts
from nm2trt.sparsity.methods.lbc import LbcOptions, LbcWeight
from nm2trt.sparsity.methods.magnitude import MagnitudeOptions, MagnitudeWeight
from nm2trt.sparsity.methods.sr_ste import SrSteOptions, SrSteWeight, SteOptions, SteWeight
from nm2trt.sparsity.reconstruct.options import RebuildOptions, RebuiltWeight
from nm2trt.sparsity.reconstruct.session import start as start_reconstruct
from nm2trt.sparsity.spre.options import SpReOptions, SpReWeight
from nm2trt.sparsity.spre.session import start as start_spre

_ALL = (
    MethodSpec("sr-ste", SrSteWeight, SrSteOptions, "from scratch, with a decay that steadies the mask"),
    MethodSpec("ste", SteWeight, SteOptions, "from scratch, straight-through only"),
    MethodSpec("lbc", LbcWeight, LbcOptions, "from scratch, learns the best combination of each group"),
    MethodSpec("magnitude", MagnitudeWeight, MagnitudeOptions, "from a dense model: one-shot or gradual"),
    MethodSpec(
        "spre",
        SpReWeight,
        SpReOptions,
        "from scratch, with a second branch at the kernel positions that matter most",
        start=start_spre,
    ),
    MethodSpec(
        "fcpts",
        FcptsWeight,
        FcptsOptions,
        "post-training, from unlabelled calibration data",
        start=start_fcpts,
        post_training=True,
    ),
    MethodSpec(
        "reconstruct",
        RebuiltWeight,
        RebuildOptions,
        "post-training, by least squares layer by layer, from unlabelled calibration data",
        start=start_reconstruct,
        post_training=True,
    ),
)

METHODS: Mapping[str, MethodSpec] = {spec.name: spec for spec in _ALL}


def method(name: str) -> MethodSpec:
    """Return the method of that name.

    Raises:
        SparsifyError: There is no such method.
    """
    if name not in METHODS:
        raise SparsifyError(f"method {name!r} is unknown; choose one of {', '.join(METHODS)}")
    return METHODS[name]
