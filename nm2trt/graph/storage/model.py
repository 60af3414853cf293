"""An ONNX model as it lies on disk, read with its external data left where it is.

The protobuf itself is kept, not a translation of it, so that whatever stands in a file (sparse
initializers, quantization annotations, training information, functions, metadata) survives a round trip.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from nm2trt.errors import InputError, ModelError
from nm2trt.files import check_input
from nm2trt.graph.storage.protobuf_stream import referring

__all__ = ["Model", "attributes", "load", "metadata", "opset", "set_metadata"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model and the folder of its external data.

    Args:
        proto: The model; tensors with external data hold only their location.
        path: Where it was read from, or None.
        root: Folder below which its external data is read, or None.
    """

    proto: onnx.ModelProto
    path: Path | None
    root: Path | None

    @property
    def name(self) -> str:
        """The path, for messages."""
        return str(self.path) if self.path is not None else "the model"


def load(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto,
    *,
    external_data_root: str | os.PathLike[str] | None = None,
    leave_weights: bool = False,
) -> Model:
    """Read a model; external data is not read.

    Args:
        source: A path, the bytes of a file, or a model.
        leave_weights: Leave large weights in the file too; they then look like external data of it. For
            reading only.
        external_data_root: Folder of the external data; by default the folder of the real file behind
            `source`.

    Raises:
        InputError: The path is missing, a folder, empty, or may not be read.
        ModelError: The content is no ONNX model.
    """
    root = None if external_data_root is None else Path(external_data_root).resolve()
    if root is not None and not root.is_dir():
        raise InputError(f"{external_data_root} is no folder; give the folder that holds the external data")
    if isinstance(source, onnx.ModelProto):
        return Model(source, None, root)
    if isinstance(source, bytes):
        return Model(_parse(source, "the model"), None, root)
    path = check_input(source, "an ONNX model")
    try:
        data = _referring(path.resolve()) if leave_weights and root is None else None
        data = path.read_bytes() if data is None else data
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error
    return Model(_parse(data, str(path)), path, root or path.resolve().parent)


def _referring(path: Path) -> bytes | None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        view = memoryview(mapped)
        try:
            return referring(view, path.name)
        finally:
            view.release()


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's own exception differs between its implementations
        raise ModelError(f"{name} is not an ONNX model, or it is truncated") from error
    if not proto.HasField("graph") or not proto.opset_import:
        raise ModelError(f"{name} is not an ONNX model: it has no graph or no opset")
    try:
        _read_names(proto.graph)
        for function in proto.functions:
            _read_nodes(function.node)
    except (UnicodeDecodeError, TypeError) as error:
        raise ModelError(f"{name} is not a sound ONNX model: a name in it is no UTF-8 text") from error
    return proto


def _read_names(graph: onnx.GraphProto) -> None:
    """Touch every name, so that bytes which are no text are found here and not half-way through a pass."""
    _read_nodes(graph.node)
    for stored in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        _text(stored.name)


def _read_nodes(nodes: Iterable[onnx.NodeProto]) -> None:
    for node in nodes:
        for text in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _text(text)
        for attribute in node.attribute:
            _text(attribute.name)
            if attribute.type == onnx.AttributeProto.GRAPH:
                _read_names(attribute.g)
            for graph in attribute.graphs:
                _read_names(graph)


def _text(value: str | bytes) -> None:
    if not isinstance(value, str):
        raise TypeError("a name of bytes")


def metadata(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the metadata entries."""
    return {entry.key: entry.value for entry in proto.metadata_props}


def set_metadata(proto: onnx.ModelProto, entries: dict[str, str]) -> None:
    """Set metadata entries; others stay as they are."""
    missing = dict(entries)
    for entry in proto.metadata_props:
        if entry.key in missing:
            entry.value = missing.pop(entry.key)
    for key, value in missing.items():
        proto.metadata_props.add(key=key, value=value)


def opset(proto: onnx.ModelProto, domain: str = "") -> int | None:
    """Return the imported version of a domain, or None."""
    wanted = ("", "ai.onnx") if domain in ("", "ai.onnx") else (domain,)
    return next((int(entry.version) for entry in proto.opset_import if entry.domain in wanted), None)


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return a node's attributes as Python values; texts are decoded, tensors and graphs stay protobufs."""
    values: dict[str, Any] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            continue
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        values[attribute.name] = value
    return values
