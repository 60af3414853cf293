"""Kernel names out of a profiler's trace: what ran on the GPU, which nothing can contradict.

Read are the CSV reports of `nsys stats` (`cuda_gpu_kern_sum`, `cuda_gpu_trace`, `nvtx_kern_sum`) and traces
in Chrome's JSON format, which torch.profiler writes. A trace that names the range in which a kernel was
launched (TensorRT marks its layers as NVTX ranges) proves single layers; one without proves the engine.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from nm2trt.engine.evidence.evidence import Evidence, KernelUse
from nm2trt.engine.evidence.layer_names import onnx_nodes
from nm2trt.errors import InputError

_NAMES = ("Kernel Name", "Name")
_RANGES = ("NVTX Range", "Range")
_LAUNCHES = ("Kern Inst", "Instances", "Calls")
_TIMES = ("Total Time (ns)", "Duration (ns)")


def parse_kernel_trace(text: str) -> Evidence:
    """Read a trace; kernels of one name and layer are added up.

    Raises:
        InputError: The text has an unknown format, or lists no kernel.
    """
    found = _from_json(text) if text.lstrip().startswith(("{", "[")) else _from_csv(text)
    kernels: dict[tuple[str, tuple[str, ...]], KernelUse] = {}
    for use in found:
        key = (use.name, use.nodes)
        known = kernels.get(key)
        kernels[key] = (
            use
            if known is None
            else KernelUse(use.name, known.launches + use.launches, known.total_us + use.total_us, use.nodes)
        )
    if not kernels:
        raise InputError(
            "the trace lists no kernel; record one inference with nsys profile, then nsys stats "
            "--report cuda_gpu_kern_sum --format csv"
        )
    return Evidence(kernels=tuple(kernels.values()))


def _from_csv(text: str) -> Iterable[KernelUse]:
    # nsys prints lines of its own above the header.
    lines = text.splitlines()
    start = next((i for i, line in enumerate(lines) if _is_header(line)), None)
    if start is None:
        raise InputError(
            "the trace is no CSV report of nsys stats and no JSON trace; give the CSV of cuda_gpu_kern_sum, "
            "cuda_gpu_trace or nvtx_kern_sum"
        )
    for row in _rows(lines[start:]):
        name = _first(row, _NAMES)
        total = _number(_first(row, _TIMES))
        if not name or total is None or name.startswith(("[CUDA mem", "[CUDA Unified")):
            continue
        launches = _number(_first(row, _LAUNCHES))
        layer = _first(row, _RANGES)
        yield KernelUse(name, int(launches or 1), total / 1e3, onnx_nodes(layer.lstrip(":")) if layer else ())


def _rows(lines: list[str]) -> Iterable[Mapping[str, Any]]:
    try:
        yield from csv.DictReader(io.StringIO("\n".join(lines)))
    except csv.Error as error:
        raise InputError(
            f"the trace's table cannot be read ({error}); write it again with nsys stats"
        ) from error


def _from_json(text: str) -> Iterable[KernelUse]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError("the trace begins like JSON but is not: it is damaged or cut short") from error
    events = data.get("traceEvents") if isinstance(data, dict) else data
    for event in events if isinstance(events, list) else []:
        if not isinstance(event, dict) or str(event.get("cat", "")).lower() != "kernel":
            continue
        duration = _number(str(event.get("dur")))
        if isinstance(event.get("name"), str) and duration is not None:
            yield KernelUse(event["name"], 1, duration)


def _is_header(line: str) -> bool:
    if not any(name in line for name in _TIMES):
        return False
    try:
        cells = next(csv.reader([line]), [])
    except csv.Error:
        return False
    return any(name in cells for name in _NAMES) and any(name in cells for name in _TIMES)


def _first(row: Mapping[str, Any], names: Iterable[str]) -> str:
    return next((str(row[name]).strip() for name in names if row.get(name)), "")


def _number(text: str) -> float | None:
    # Some locales group digits.
    digits = re.sub(r"[,'\s]", "", text)
    try:
        number = float(digits)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
