"""The one file beside a model that holds its external data: laid out, written, pointed to.

Bytes that did not change go from file to file without passing through the process.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from nm2trt.arrays import Array
from nm2trt.errors import ModelError
from nm2trt.files import atomic_path
from nm2trt.graph.storage.element_types import ElementType
from nm2trt.graph.storage.light_onnx import TensorProto
from nm2trt.graph.storage.tensors import iter_elements
from nm2trt.locks import OutputLock

Chunks: TypeAlias = "Callable[[], Iterator[bytes | memoryview]]"

_COPY_BYTES = 8 << 20
# Large tensors start on a page, so that they can be mapped; small ones on a cache line.
_PAGE, _LINE = 4096, 64
_TYPED_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """One tensor of the data file: where it comes from, where it goes."""

    tensor: TensorProto
    offset: int
    length: int
    source: tuple[Path, int] | Chunks


def lay_out(tensors: Sequence[tuple[TensorProto, int, tuple[Path, int] | Chunks]]) -> list[Placed]:
    """Give each tensor (with its length in bytes and where its bytes come from) its place in the file."""
    placed = []
    offset = 0
    for tensor, length, where in tensors:
        align = _PAGE if length >= _PAGE else _LINE
        offset = -(-offset // align) * align
        placed.append(Placed(tensor, offset, length, where))
        offset += length
    return placed


def clear_values(tensor: TensorProto) -> None:
    """Empty a tensor of what it holds, in whatever field."""
    for field in (*_TYPED_FIELDS, "raw_data", "data_location"):
        tensor.ClearField(field)
    del tensor.external_data[:]


def write_data(
    path: Path, placed: Sequence[Placed], lock: OutputLock, like: os.stat_result | None = None
) -> None:
    """Write the file, whole or not at all.

    Args:
        path: The file.
        placed: What it holds.
        lock: The lock of the model that it belongs to.
        like: Owner and mode that it gets; None for those of a new file.

    Raises:
        ModelError: A source ended early, or made more or fewer bytes than its tensor needs.
        OutputError: The file cannot be written.
    """
    with atomic_path(path, lock=lock, like=like) as temporary, temporary.open("wb", buffering=0) as file:
        for item in placed:
            file.seek(item.offset)
            if isinstance(item.source, tuple):
                _copy(item.source, item.length, file.fileno())
                continue
            written = 0
            for chunk in item.source():
                written += write_fully(file.fileno(), chunk)
            if written != item.length:
                raise ModelError(
                    f"tensor {item.tensor.name!r} needs {item.length} bytes, but {written} were made for it"
                )


def write_fully(descriptor: int, chunk: bytes | memoryview) -> int:
    """Write all of `chunk`, and return its length in bytes."""
    view = memoryview(chunk)
    done = 0
    while done < len(view):
        done += os.write(descriptor, view[done:])
    return done


def _copy(source: tuple[Path, int], length: int, output: int) -> None:
    """Append part of a file at the output's position; the bytes stay in the kernel if it can do that."""
    path, offset = source
    copy = getattr(os, "copy_file_range", None)
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < length:
            count = min(_COPY_BYTES, length - done)
            moved = 0
            if copy is not None:
                try:
                    moved = copy(file.fileno(), output, count, offset_src=offset + done)
                except OSError:
                    copy = None  # across file systems, or an old kernel
            if copy is None:
                moved = write_fully(output, os.pread(file.fileno(), count, offset + done))
            if moved == 0:
                raise ModelError(f"{path} became shorter while it was copied")
            done += moved


def pack(elements: Array, kind: ElementType) -> bytes:
    """Return elements as ONNX stores them raw: little-endian, 4-bit types two to a byte, low half first."""
    flat = np.ascontiguousarray(elements).reshape(-1)
    if kind.bits > 8:
        return flat.astype(kind.numpy.newbyteorder("<"), copy=False).tobytes()
    if kind.bits == 8:
        return flat.tobytes()
    halves = flat.view(np.uint8) & 0xF
    if halves.size % 2:
        halves = np.append(halves, np.uint8(0))
    return (halves[::2] | (halves[1::2] << 4)).tobytes()


def in_memory(tensor: TensorProto, kind: ElementType) -> Chunks:
    """Return the source of the raw bytes of a tensor that is stored in the model itself."""

    def chunks() -> Iterator[bytes | memoryview]:
        if tensor.HasField("raw_data"):
            yield memoryview(tensor.raw_data)
        else:
            for piece in iter_elements(tensor, None, unit=2):
                yield pack(piece, kind)

    return chunks


def point_to(item: Placed, location: str) -> None:
    """Make a tensor name its place in the file `location`."""
    tensor = item.tensor
    others = [
        (entry.key, entry.value)
        for entry in tensor.external_data
        if entry.key not in ("location", "offset", "length")
        and not (entry.key == "checksum" and not isinstance(item.source, tuple))
    ]
    clear_values(tensor)
    tensor.data_location = TensorProto.EXTERNAL
    place = [("location", location), ("offset", str(item.offset)), ("length", str(item.length))]
    for key, value in place + others:
        tensor.external_data.add(key=key, value=value)
