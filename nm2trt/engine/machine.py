"""This machine's libraries by backend, their versions, and the GPUs that the driver sees."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from nm2trt.backends import trt_rtx
from nm2trt.backends._trt_versions import row_of
from nm2trt.backends.cuda import Gpu, probe_gpus
from nm2trt.errors import BackendMissingError
from nm2trt.extras import install_line
from nm2trt.installed import installed_version
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table, small_table

# Stage or backend -> (module, distributions that carry it, purpose, extra; "" for what nm2trt itself needs).
_LIBRARIES: dict[str, tuple[str, tuple[str, ...], str, str]] = {
    "trt-rtx": (
        "tensorrt_rtx",
        ("tensorrt-rtx-cu12", "tensorrt-rtx"),
        "builds .rtx plans without a GPU; loading them on a GPU is untested",
        "rtx",
    ),
    "trt": (
        "tensorrt",
        ("tensorrt", "tensorrt-cu12", "tensorrt-cu13"),
        "builds and runs engines on the GPU at hand; tested with 8.6.0 on an H200 only",
        "trt",
    ),
    "ort": (
        "onnxruntime",
        ("onnxruntime", "onnxruntime-gpu"),
        "runs ONNX models on the CPU",
        "ort",
    ),
    "onnx": ("onnx", ("onnx",), "verifies and rewrites ONNX models", ""),
    "torch": ("torch", ("torch",), "trains and exports", "torch"),
    "triton": (
        "tritonclient",
        ("tritonclient",),
        "talks to a Triton server",
        "serving",
    ),
}


@dataclass(frozen=True, slots=True)
class BackendReport:
    """One library.

    Args:
        name: The backend or stage that uses it, e.g. "trt-rtx".
        module: Its module.
        version: Its version; "" when it is not installed.
        purpose: What it is for.
        install: How to get it; "" when it is there.
    """

    name: str
    module: str
    version: str
    purpose: str
    install: str


@dataclass(frozen=True, slots=True, repr=False)
class MachineReport(Result):
    """What is here.

    Args:
        backends: The libraries.
        gpus: The GPUs.
        driver: One sentence on the NVIDIA driver.
    """

    backends: tuple[BackendReport, ...]
    gpus: tuple[Gpu, ...]
    driver: str

    def tables(self) -> tuple[Table, ...]:
        """Return the libraries."""
        rows = ((one.name, one.version or "missing", one.purpose) for one in self.backends)
        return (small_table(("backend", "version", "for"), rows),)

    def remarks(self) -> tuple[str, ...]:
        """Return how to get the libraries that are missing, and what is known of the driver and the GPUs."""
        missing = (f"{one.name}: {one.install}" for one in self.backends if one.install)
        gpus = (
            f"{gpu.name}: {gpu.target}, {'has' if gpu.sparse else 'has no'} sparse tensor cores"
            for gpu in self.gpus
        )
        none = () if self.gpus else ("no GPU: engines can be built ahead of time, not run or timed",)
        return (*missing, self.driver, *gpus, *none)


def survey() -> MachineReport:
    """Look at libraries and GPUs; nothing that is missing is an error."""
    gpus, driver = probe_gpus()
    return MachineReport(tuple(_library(name) for name in _LIBRARIES), gpus, driver)


def library_version(name: str) -> str:
    """Return the version of a backend's installed library, without importing it; "" if unknown."""
    return installed_version(*_LIBRARIES[name][1])


def _library(name: str) -> BackendReport:
    module, _, purpose, extra = _LIBRARIES[name]
    if importlib.util.find_spec(module) is None:
        return BackendReport(
            name, module, "", purpose, install_line(extra) if extra else f"pip install {module}"
        )
    try:
        if name == trt_rtx.RtxBackend.name:
            # Loaded, not only found: the builder is what everything else here is for.
            version = trt_rtx.load().version
        else:
            version = library_version(name)
            if name == "trt" and version:
                row_of(name, version)
    except BackendMissingError as error:
        return BackendReport(name, module, "", purpose, str(error))
    return BackendReport(name, module, version or "unknown version", purpose, "")
