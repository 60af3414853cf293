"""What an engine file says of itself, and whether its manifest is the one it was written with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from nm2trt.backends import trt_rtx
from nm2trt.errors import InputError
from nm2trt.files import check_input
from nm2trt.manifest import Fit, read_manifest

__all__ = ["EngineInfo", "inspect_engine", "is_engine"]


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """An engine, from outside: nothing is loaded into a runtime.

    Args:
        path: The file.
        kind: What it is and where it runs.
        file_bytes: Its size.
        header: What its first bytes say.
        fit: What its manifest says, and whether the two belong together.
        family: Tells it apart from `nm2trt.graph.describe.OnnxInfo`.
    """

    path: Path
    kind: str
    file_bytes: int
    header: trt_rtx.PlanHeader
    fit: Fit
    family: Literal["engine"] = "engine"

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "file_bytes": self.file_bytes,
            "header": self.header.to_json(),
            **self.fit.to_json(),
        }


def is_engine(path: Path) -> bool:
    """Tell whether a file's first bytes are those of an engine that `inspect_engine` reads.

    Raises:
        InputError: The file is missing, a folder, empty, or may not be read.
    """
    with check_input(path, "an engine or ONNX model").open("rb") as file:
        return file.read(len(trt_rtx.MAGIC)) == trt_rtx.MAGIC


def inspect_engine(path: Path) -> EngineInfo:
    """Read an engine's header and manifest.

    Raises:
        InputError: The file is no engine, is damaged or cut short, or its manifest is damaged.
    """
    if not is_engine(path):
        raise InputError(
            f"{path} is no engine of a kind that is known here; for an ONNX model, use nm2trt verify"
        )
    header = trt_rtx.read_header(path)
    try:
        fit = read_manifest(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return EngineInfo(path, trt_rtx.KIND, path.stat().st_size, header, fit)
