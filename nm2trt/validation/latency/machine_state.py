"""Machine state that a latency depends on: conditions, which make two results comparable, and drift.

Conditions stay as they are during a run: processor, library versions, threads. State drifts: load of the
machine, clocks, temperature and power of a GPU.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from pathlib import Path

import numpy as np

from nm2trt.backends.cuda import probe_gpus

_CONDITIONS = ("name", "driver_version", "persistence_mode", "power.limit", "clocks.max.sm")
_STATE = ("clocks.sm", "clocks.mem", "temperature.gpu", "power.draw")
# What holds the clocks down; drivers since 535 have the first name, older ones the second.
_THROTTLED = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
_UNITS = {
    "clocks.sm": "MHz",
    "clocks.mem": "MHz",
    "clocks.max.sm": "MHz",
    "temperature.gpu": "C",
    "power.draw": "W",
    "power.limit": "W",
}


def machine_conditions() -> dict[str, str]:
    """Return what stays the same during a run, as texts by name."""
    return {
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "not known",
        **gpu_conditions(),
    }


def machine_state() -> dict[str, str]:
    """Return what drifts, as texts by name."""
    load, _, _ = os.getloadavg()
    return {"load": f"{load:.2f}", **gpu_state()}


def gpu_conditions() -> dict[str, str]:
    """Return the state of the GPU that engines run on: only its name without nvidia-smi, {} without a GPU."""
    gpus, _ = probe_gpus()
    return _query(_CONDITIONS) or ({"gpu name": gpus[0].name} if gpus else {})


def gpu_state() -> dict[str, str]:
    """Return clocks, temperature and power of the GPU that engines run on; {} if there is none."""
    # One name that a driver does not know fails the whole query.
    for reasons in _THROTTLED:
        found = _query((*_STATE, reasons))
        if found:
            return found
    return _query(_STATE)


def parse_gpu_query(fields: tuple[str, ...], text: str) -> dict[str, str]:
    """Read the first line of `nvidia-smi --query-gpu=... --format=csv,noheader,nounits`."""
    lines = text.strip().splitlines()
    values = [value.strip() for value in lines[0].split(",")] if lines else []
    if len(values) != len(fields):
        return {}
    return {
        f"gpu {field}": f"{value} {_UNITS[field]}" if field in _UNITS and value[:1].isdigit() else value
        for field, value in zip(fields, values, strict=True)
    }


def _query(fields: tuple[str, ...]) -> dict[str, str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return {}
    command = [tool, f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    gpus, _ = probe_gpus()
    if gpus and gpus[0].uuid:
        # CUDA's first GPU is the fastest, or the first of CUDA_VISIBLE_DEVICES; nvidia-smi goes by the bus.
        command.append(f"--id={gpus[0].uuid}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return {}
    return parse_gpu_query(fields, done.stdout)


def _processor() -> str:
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "not known"


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
