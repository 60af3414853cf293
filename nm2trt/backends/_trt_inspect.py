"""The engine inspector: the tactic of every layer, asked of a session or right after a build."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.backends._trt_shared import Library, create, load_plugins
from nm2trt.backends._trt_watch import logger, recorded
from nm2trt.backends._trt_words import first_error

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt

__all__ = ["inspect_engine", "inspect_plan"]


def inspect_engine(
    library: Library, engine: tensorrt.ICudaEngine, context: tensorrt.IExecutionContext | None = None
) -> str:
    """Return what the inspector says of every layer, as JSON.

    Args:
        library: The library.
        engine: The engine; built without detailed profiling verbosity it tells names only.
        context: Its execution context, where shapes are known and TensorRT for RTX has chosen kernels.
    """
    trt = library.module
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON) or "")


def inspect_plan(library: Library, plan: memoryview, plugins: Sequence[Path] = ()) -> tuple[str, str]:
    """Load a plan that was just built, and inspect it.

    Args:
        library: The library.
        plan: The serialized engine.
        plugins: Shared libraries of operators that it needs.

    Returns:
        The inspector's JSON and "", or "" and a sentence that says why it could not be asked.
    """
    trt = library.module
    with recorded(trt) as log:
        runtime = create(library, lambda: trt.Runtime(logger(trt)), log)
        if plugins:
            load_plugins(library, runtime.get_plugin_registry(), plugins)
        engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return "", f"the engine could not be loaded again to be inspected: {first_error(log)}"
    text = inspect_engine(library, engine)
    return text, "" if text else f"the inspector of {library.product} says nothing of the engine"
