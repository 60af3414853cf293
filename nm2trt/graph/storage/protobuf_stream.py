"""Write and read a protobuf without building it in memory: large tensors stay in, or go to, the file.

Serializing a model of 100 MB copies it several times over. Here everything but the large tensors is
serialized, and their bytes are put in where they belong: a message's fields may stand in any order, so a
tensor's numbers may follow its other fields. Reading goes the same way back: large tensors of a file are
left in it, and the model that is parsed refers to them as to external data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from nm2trt.graph.storage.light_onnx import onnx

_LARGE_BYTES = 1 << 16
_MOST_ELEMENT_BYTES = 16  # a complex128
# Field numbers of onnx.proto, which its versions never change.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


def pieces(
    proto: onnx.ModelProto, *, spend: bool = False, held: Mapping[int, bytes] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield the serialized model, in pieces.

    Args:
        proto: The model. Its large tensors are taken out for the time being.
        spend: Leave them out: a model that is not needed any more need not be filled again.
        held: The raw data of initializers that the caller has beside the model, by their index: it is not
            copied out of the model.

    Raises:
        Exception: protobuf's own, when what is left without the large tensors passes 2 GiB.
    """
    initializers = proto.graph.initializer
    large: dict[int, bytes] = {}
    for index, tensor in enumerate(initializers):
        # Reading the field copies it, and asking for the size of the message takes longer.
        if tensor.HasField("raw_data") and math.prod(tensor.dims) * _MOST_ELEMENT_BYTES >= _LARGE_BYTES:
            data = held[index] if held and index in held else tensor.raw_data
            if len(data) >= _LARGE_BYTES:
                large[index] = data
    for index in large:
        initializers[index].ClearField("raw_data")
    try:
        light = memoryview(proto.SerializeToString())
        yield from _model(light, large)
    finally:
        for index, data in () if spend else large.items():
            initializers[index].raw_data = data


def _model(light: memoryview, large: dict[int, bytes]) -> Iterator[bytes | memoryview]:
    for number, whole, body in _fields(light):
        if number != _MODEL_GRAPH:
            yield whole
            continue
        parts: list[bytes | memoryview] = []
        position = 0
        for inner, field, content in _fields(body):
            if inner != _GRAPH_INITIALIZER:
                parts.append(field)
                continue
            data = large.get(position)
            position += 1
            if data is None:
                parts.append(field)
                continue
            raw = _header(_TENSOR_RAW_DATA, len(data))
            parts += [_header(inner, len(content) + len(raw) + len(data)), content, raw, data]
        yield _header(number, sum(map(len, parts)))
        yield from parts


def referring(model: memoryview, location: str) -> bytes | None:
    """Return a serialized model without the large numbers of its initializers, which refer to its file.

    Args:
        model: The file's content.
        location: The file's name, as external data calls it.

    Returns:
        A serialized model that is small whatever the size of the weights; None if the bytes are not as
        they are usually written, so that only a full parse can tell what they are.
    """
    parts: list[bytes | memoryview] = []
    graphs = position = 0
    try:
        for number, whole, body in _fields(model):
            position += len(whole)
            if number != _MODEL_GRAPH:
                parts.append(whole)
                continue
            graphs += 1
            graph = list(_referring_graph(body, position - len(body), location))
            parts += [_header(number, sum(map(len, graph))), *graph]
    except (IndexError, KeyError, ValueError):
        return None
    return b"".join(parts) if graphs == 1 else None


def _referring_graph(graph: memoryview, position: int, location: str) -> Iterator[bytes | memoryview]:
    """Yield a graph's fields; `position` is where the graph starts in the file."""
    for number, whole, body in _fields(graph):
        position += len(whole)
        if number != _GRAPH_INITIALIZER or len(body) < _LARGE_BYTES:
            yield whole
            continue
        kept: list[bytes | memoryview] = []
        raw: list[tuple[int, int]] = []
        place = position - len(body)
        for inner, field, content in _fields(body):
            place += len(field)
            if inner in (_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION):
                raise ValueError("inline numbers and external ones in one tensor")
            if inner == _TENSOR_RAW_DATA:
                raw.append((place - len(content), len(content)))
            else:
                kept.append(field)
        if len(raw) != 1:  # stored in another way, or, against all custom, in two pieces
            yield whole
            continue
        offset, length = raw[0]
        kept += _reference(location, offset, length)
        yield from (_header(number, sum(map(len, kept))), *kept)


def _reference(location: str, offset: int, length: int) -> list[bytes]:
    tensor = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return [tensor.SerializeToString()]


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield number, whole field and content of each field of a serialized message."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        kind = tag & 7
        body = position
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _DELIMITED:
            size, body = _varint(message, position)
            position = body + size
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[kind]
        if position > len(message):
            raise ValueError("a field ends after its message")
        yield tag >> 3, message[start:position], message[body:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _header(number: int, size: int) -> bytes:
    """Return the tag and length in front of a length-delimited field."""
    out = bytearray()
    for value in (number << 3 | _DELIMITED, size):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)
