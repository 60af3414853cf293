"""The ONNX Runtime session of an open model, with values inside the graph as outputs if asked for.

ONNX Runtime runs a model as it stands unless told to optimise: else it would fuse what a pass was to fuse.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from nm2trt.arrays import Arrays
from nm2trt.graph.storage.light_onnx import TensorProto, onnx
from nm2trt.graph.storage.model import Model, serialized
from nm2trt.graph.storage.save import all_tensors
from nm2trt.limits.bounds import bounds

if TYPE_CHECKING:
    from nm2trt.backends.ort import OrtSession

# Bytes up to which a model is run in another thread while it is worked on: it is in memory twice then.
_BESIDE_BYTES = 1 << 26


def open_session(model: Model, names: Collection[str] = (), *, optimize: bool = False) -> OrtSession:
    """Open a model in ONNX Runtime: from its file if that holds it as it is now, else from memory.

    Args:
        model: The model; external data is found in its `root`.
        names: Values inside the graph that are outputs besides its own.
        optimize: As `open_onnx` takes it.

    Raises:
        ModelError: ONNX Runtime refuses the model.
    """
    return opener(model, names, optimize=optimize)()


def opener(model: Model, names: Collection[str] = (), *, optimize: bool = False) -> Callable[[], OrtSession]:
    """Return what opens a model as it is now, even if it is changed meanwhile; see `open_session`."""
    from nm2trt.backends.ort import open_onnx  # only here: most passes open no session

    if model.file is not None and not names:
        return functools.partial(open_onnx, model.file, optimize=optimize)
    graph = model.proto.graph
    count = len(graph.output)
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    try:
        data = serialized(model)
    finally:
        del graph.output[count:]
    # Bytes and a folder: a file beside the data would need a model's folder that can be written.
    folder = model.root if _stores_apart(model) else None
    return functools.partial(open_onnx, data, optimize=optimize, weights_folder=folder)


def run_graph(model: Model, feeds: Arrays) -> Arrays:
    """Run a model as it stands.

    Raises:
        ModelError: ONNX Runtime refuses the model.
        BackendError: It fails in the run.
    """
    with open_session(model) as session:
        return session.run(feeds)


def may_run_beside(model: Model) -> bool:
    """Tell whether a model may run while it is worked on: small, and without a bound on the run's memory."""
    small = model.proto.ByteSize() <= _BESIDE_BYTES and not _stores_apart(model)
    return small and bounds().run_bytes is None


def _stores_apart(model: Model) -> bool:
    return model.once(
        "stores apart",
        lambda: any(tensor.data_location == TensorProto.EXTERNAL for tensor in all_tensors(model.proto)),
    )
