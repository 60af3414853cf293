"""Information on an engine or ONNX file, and the files that hold its weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError, ModelError
from nm2trt.pipeline.in_memory import as_path, takes_values

if TYPE_CHECKING:
    import onnx

    from nm2trt.engine.inspection import EngineInfo
    from nm2trt.graph.storage.model_info import OnnxInfo


@takes_values(models=("path",))
def info(path: str | os.PathLike[str] | onnx.ModelProto) -> EngineInfo | OnnxInfo:
    """Say what an engine or ONNX file is, and whether an engine's manifest fits; no runtime is loaded.

    Args:
        path: The file, or an `onnx.ModelProto`.

    Raises:
        InputError: The file is missing, damaged, or neither.
    """
    from nm2trt.engine.inspection import inspect_engine, is_engine

    path = as_path(path)
    if is_engine(path):
        return inspect_engine(path)
    from nm2trt.graph.storage.model_info import describe_model

    try:
        return describe_model(path)
    except ModelError as error:
        raise InputError(f"{path} is neither an engine of a known kind nor a model: {error}") from error


def data_files(model: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Return the files beside an ONNX model that hold its weights; () if it holds them itself.

    Raises:
        InputError: The path is wrong.
        ModelError: The file is not a sound ONNX model.
    """
    from nm2trt.graph.storage import save
    from nm2trt.graph.storage.model import load

    return tuple(sorted(save.data_files(load(model, leave_weights=True))))
