"""Write the file of a model itself: from memory, or with numbers that are made while it is written."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nm2trt.errors import ModelError, Nm2trtError
from nm2trt.files import atomic_path
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import Chunks, Placed, clear_values, point_to, write_fully
from nm2trt.graph.storage.light_onnx import TensorProto
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.protobuf_stream import Numbers, after_graph, pieces, stored, take_out, upto_graph
from nm2trt.graph.storage.threads import in_order


@dataclass(frozen=True, slots=True, eq=False)
class Rewrite:
    """New numbers for a tensor of the model, of the shape and type that it has.

    Args:
        tensor: The tensor; it stays where it was stored (inline or external). A new one holds nothing yet.
        chunks: Returns the raw bytes, in pieces; it is called once, while the file is written.
        alone: Whether they are made from what the tensor held and from nothing else of the model, so that a
            thread may make them, after other tensors were changed.
    """

    tensor: TensorProto
    chunks: Chunks
    alone: bool = False


def raw_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the numbers of a tensor take as raw data."""
    return element_type(tensor).raw_bytes(math.prod(tensor.dims))


def write_whole(model: Model, target: Path) -> None:
    """Write a model that is in memory, and is spent by it.

    Raises:
        ModelError: It is too large without its initializers.
        OutputError: The file cannot be written.
    """
    with atomic_path(target) as temporary, temporary.open("wb", buffering=0) as file, _too_large(model):
        for piece in pieces(model.proto, spend=True):
            write_fully(file.fileno(), piece)


def stream_model(
    model: Model, target: Path, rewrites: Sequence[Rewrite], finish: Callable[[Model], None] | None
) -> None:
    """Write a model whose numbers are made meanwhile: its graph, and after `finish` what follows the graph.

    For `finish` its large initializers are external data of the unfinished file, so that they are in memory
    one by one.

    Args:
        model: The model, which is spent by it.
        target: The file to write.
        rewrites: Tensors whose numbers are made while the file is written, from the model's file only.
        finish: Called with the model as it will be read back; it may change metadata.

    Raises:
        ModelError: It is too large without its initializers, or the wrong number of bytes was made.
        InputError: The model's file was changed meanwhile.
        OutputError: The file cannot be written.
    """
    from concurrent.futures import ThreadPoolExecutor  # only here: it takes time to import

    streamed = {id(rewrite.tensor): rewrite for rewrite in rewrites}
    tensors = list(model.proto.graph.initializer)
    changed = {at: streamed[id(tensor)] for at, tensor in enumerate(tensors) if id(tensor) in streamed}
    large: dict[int, Numbers] = {}
    with _too_large(model):
        for at, data in take_out(model.proto).items():
            large[at] = stored(data)
        references = {at: _without_reference(tensors[at]) for at in changed}
        light = memoryview(model.proto.SerializeToString())
    for at, reference in references.items():
        tensors[at].MergeFrom(reference)
    ahead = in_order(_numbers, changed.values())
    large |= {at: (raw_bytes(tensors[at]), lambda: iter(next(ahead))) for at in changed}
    places: dict[int, int] = {}
    with (
        atomic_path(target) as temporary,
        temporary.open("wb", buffering=0) as file,
        ThreadPoolExecutor(1) as disk,
    ):
        for piece in upto_graph(light, large, places):
            write_fully(file.fileno(), piece)
        for at, offset in places.items():
            point_to(Placed(tensors[at], offset, *large[at]), temporary.name)
        model.check_unchanged()
        flushed = disk.submit(os.fsync, file.fileno())  # the disk writes while `finish` reads
        if finish is not None:
            finish(Model(model.proto, None, target.parent.resolve()))
        flushed.result()
        with _too_large(model):
            light = memoryview(model.proto.SerializeToString())
        for piece in after_graph(light):
            write_fully(file.fileno(), piece)


def _without_reference(tensor: TensorProto) -> TensorProto:
    """Take out of a tensor where its numbers are, and return it."""
    reference = TensorProto(data_location=tensor.data_location, external_data=tensor.external_data)
    clear_values(tensor)
    return reference


def _numbers(rewrite: Rewrite) -> list[bytes | memoryview]:
    chunks, needed = list(rewrite.chunks()), raw_bytes(rewrite.tensor)
    if sum(map(len, chunks)) != needed:
        raise ModelError(f"tensor {rewrite.tensor.name!r} needs {needed} bytes, and others were made for it")
    return chunks


@contextlib.contextmanager
def _too_large(model: Model) -> Iterator[None]:
    """Say what it means if protobuf cannot serialize a model."""
    try:
        yield
    except (OSError, Nm2trtError):
        raise
    except Exception as error:  # protobuf's own exception differs between its implementations
        raise ModelError(
            f"{model.name} cannot be written: without its initializers it is still larger than 2 GiB"
        ) from error
