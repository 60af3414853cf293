"""Differences between versions of TensorRT and TensorRT for RTX: one row each, and nowhere else.

TensorRT 8.6 was read from its own module (8.6.0), TensorRT for RTX 1.7 from its own; 10.x from the type
stubs of 10.13, 11.x from the enumerations of the lean runtime 11.4. Ceilings of the ONNX opset come from
onnx-tensorrt's docs/operators.md of 8.6, of 10.0 (20) and of 10.15 (24), and for 11.x from NVIDIA's "ONNX
Opset Guide". What lies between two documented ceilings is left to the parser to refuse.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nm2trt.errors import BackendMissingError
from nm2trt.extras import install_line


@dataclass(frozen=True, slots=True)
class VersionRow:
    """One row.

    Args:
        product: "trt" or "trt-rtx".
        since: First version that it is about, (major, minor).
        network_flags: Members of `NetworkDefinitionCreationFlag` that a network is made with.
        type_flags: `BuilderFlag` that a dtype in the graph needs; empty if networks are strongly typed.
        max_opset: Highest ONNX opset that the parser reads; None leaves it to the parser.
        int64: Whether there are 64-bit integers; without, the parser makes them 32-bit ones.
        timing_cache: Whether a timing cache has an effect.
        progress: Whether the builder reports progress, and so can be stopped.
    """

    product: str
    since: tuple[int, int]
    network_flags: tuple[str, ...]
    type_flags: Mapping[str, str]
    max_opset: int | None
    int64: bool
    timing_cache: bool
    progress: bool


_TRT_10 = VersionRow(
    product="trt",
    since=(10, 0),
    network_flags=("STRONGLY_TYPED",),
    type_flags={},
    max_opset=24,
    int64=True,
    timing_cache=True,
    progress=True,
)
ROWS = (
    VersionRow(
        product="trt",
        since=(8, 6),
        network_flags=("EXPLICIT_BATCH",),
        type_flags={"float16": "FP16", "int8": "INT8"},
        max_opset=17,
        int64=False,
        timing_cache=True,
        progress=False,
    ),
    _TRT_10,
    replace(_TRT_10, since=(11, 0), max_opset=25),
    # Earlier ones (1.4 to 1.6) build too; their kernels and the headers of their plans are not known here.
    replace(_TRT_10, product="trt-rtx", since=(1, 7), max_opset=None, timing_cache=False),
)
# Product -> its name for people, the versions to install, the extra.
_SUPPORTED = {
    "trt": ("TensorRT", "8.6, or 10 or newer", "trt"),
    "trt-rtx": ("TensorRT for RTX", "1.7 or newer", "rtx"),
}


def row_of(product: str, version: str) -> VersionRow:
    """Return the row of a version; a later one than all rows is taken for the last.

    Args:
        product: "trt" or "trt-rtx".
        version: As in the module's `__version__`.

    Raises:
        BackendMissingError: The version is older than all rows, or is TensorRT 9, which was never for
            general use.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    wanted = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    rows = [row for row in ROWS if row.product == product and row.since <= wanted]
    if not rows or (product == "trt" and wanted[0] == 9):
        name, install, extra = _SUPPORTED[product]
        raise BackendMissingError(
            f"{name} {version} is not supported; install {install}: {install_line(extra)}"
        )
    return rows[-1]


def network_flags(trt: Any, row: VersionRow) -> int:
    """Return the bits that a network is made with; what has no flag in a later version is always on there."""
    known = trt.NetworkDefinitionCreationFlag
    return sum(1 << int(getattr(known, name)) for name in row.network_flags if hasattr(known, name))
