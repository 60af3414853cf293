"""Arguments of the builder that `build` and `prove` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.backends.options import BuildOptions, Sparsity

__all__ = ["add_builder", "builder_options"]


def add_builder(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `builder_options` reads."""
    parser.add_argument(
        "--target", metavar="LIST", help="compute capabilities, as in sm80,sm86 (the default)"
    )
    parser.add_argument(
        "--profile",
        action="append",
        default=[],
        metavar="NAME:MIN,OPT,MAX",
        help="shapes of a dynamic input, as in x:1x3x224x224,8x3x224x224,32x3x224x224, or x:1,8,32 where "
        "only the batch is dynamic; once an input, and again for a second profile; default: batches 1,8,32",
    )
    parser.add_argument(
        "--workspace",
        metavar="SIZE",
        help="most scratch memory for a kernel, as in 512M or 2G; default: the builder's",
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME:SHAPE",
        help="fix an input to one shape, as in x:8x3x224x224, or x:8 where only the batch is dynamic",
    )
    parser.add_argument(
        "--effort", type=int, metavar="0-5", help="how long the builder searches; default: the builder's"
    )
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="kernel timings to start from and to add to (trt)"
    )
    parser.add_argument("--no-tf32", action="store_true", help="do not round fp32 products to TF32")
    parser.add_argument(
        "--strict-nans", action="store_true", help="pass NaNs through every layer; limits sparse kernels"
    )
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        type=Path,
        metavar="FILE.so",
        help="library of operators; its code is run",
    )
    parser.add_argument(
        "--no-library-tactics", action="store_true", help="let TensorRT use neither cuBLAS nor cuDNN (trt)"
    )


def builder_options(arguments: argparse.Namespace, sparsity: Sparsity) -> BuildOptions:
    """Return what the arguments ask of the builder.

    Raises:
        InputError: A text cannot be read.
    """
    from nm2trt.pipeline.build import build_options

    return build_options(
        sparsity=sparsity,
        targets=arguments.target,
        profiles=arguments.profile,
        workspace=arguments.workspace,
        static_shapes=arguments.shape,
        effort=arguments.effort,
        timing_cache=arguments.timing_cache,
        tf32=not arguments.no_tf32,
        strict_nans=arguments.strict_nans,
        plugins=arguments.plugin,
        library_tactics=not arguments.no_library_tactics,
    )
