"""Write and read a protobuf without building it in memory: large tensors stay in, or go to, the file.

Serializing a model of 100 MB copies it several times over. Here everything but the large tensors is
serialized, and their bytes are put in where they belong: a message's fields may stand in any order, so a
tensor's numbers may follow its other fields. Reading goes the same way back: large tensors of a file are
left in it, and the model that is parsed refers to them as to external data.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.onnx_bytes.fields import DELIMITED, fields

_LARGE_BYTES = 1 << 16
_MOST_ELEMENT_BYTES = 16  # a complex128
# Field numbers of onnx.proto, which its versions never change.
_MODEL_GRAPH, _GRAPH_INITIALIZER, _TENSOR_RAW_DATA = 7, 5, 9
_TENSOR_EXTERNAL_DATA, _TENSOR_DATA_LOCATION = 13, 14


# How many bytes the numbers of a tensor take, and what makes them.
Numbers = tuple[int, "Callable[[], Iterator[bytes | memoryview]]"]


def pieces(proto: onnx.ModelProto, *, spend: bool = False) -> Iterator[bytes | memoryview]:
    """Yield the serialized model, in pieces.

    Args:
        proto: The model. Its large tensors are taken out for the time being.
        spend: Leave them out: a model that is not needed any more need not be filled again.

    Raises:
        Exception: protobuf's own, when what is left without the large tensors passes 2 GiB.
    """
    large = take_out(proto)
    try:
        light = memoryview(proto.SerializeToString())
        yield from upto_graph(light, {at: stored(data) for at, data in large.items()})
        yield from after_graph(light)
    finally:
        for index, data in () if spend else large.items():
            proto.graph.initializer[index].raw_data = data


def stored(data: bytes) -> Numbers:
    """Return numbers that are there already."""
    return len(data), lambda: iter((data,))


def take_out(proto: onnx.ModelProto) -> dict[int, bytes]:
    """Take the raw data of large initializers out of a model, and return it by their index."""
    large: dict[int, bytes] = {}
    for index, tensor in enumerate(proto.graph.initializer):
        # Reading the field copies it, and asking for the size of the message takes longer.
        if tensor.HasField("raw_data") and math.prod(tensor.dims) * _MOST_ELEMENT_BYTES >= _LARGE_BYTES:
            data = tensor.raw_data
            if len(data) >= _LARGE_BYTES:
                large[index] = data
    for index in large:
        proto.graph.initializer[index].ClearField("raw_data")
    return large


def upto_graph(
    light: memoryview, large: Mapping[int, Numbers], places: dict[int, int] | None = None
) -> Iterator[bytes | memoryview]:
    """Yield a serialized model up to the end of its graph, with numbers put where they belong.

    Args:
        light: The model without these numbers.
        large: The numbers of initializers, by their index.
        places: Takes the place of each in what is yielded.
    """
    position = 0
    for number, whole, body in fields(light):
        if number != _MODEL_GRAPH:
            position += len(whole)
            yield whole
            continue
        parts = list(_graph_parts(body, large))
        start = _header(
            number, sum(sum(map(len, own)) + (large[at][0] if at in large else 0) for own, at in parts)
        )
        position += len(start)
        yield start
        for own, at in parts:
            position += sum(map(len, own))
            yield from own
            if at in large:
                if places is not None:
                    places[at] = position
                position += large[at][0]
                yield from large[at][1]()
        return


def _graph_parts(
    graph: memoryview, large: Mapping[int, Numbers]
) -> Iterator[tuple[list[bytes | memoryview], int]]:
    """Yield what stands in front of each initializer's numbers, and its index; -1 for all other fields."""
    index = -1
    for number, field, content in fields(graph):
        index += number == _GRAPH_INITIALIZER
        if number != _GRAPH_INITIALIZER or index not in large:
            yield [field], -1
            continue
        raw = _header(_TENSOR_RAW_DATA, large[index][0])
        yield [_header(number, len(content) + len(raw) + large[index][0]), content, raw], index


def after_graph(light: memoryview) -> Iterator[memoryview]:
    """Yield the fields of a serialized model that follow its graph."""
    seen = False
    for number, whole, _ in fields(light):
        if seen:
            yield whole
        seen = seen or number == _MODEL_GRAPH


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
        for number, whole, body in fields(model):
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
    for number, whole, body in fields(graph):
        position += len(whole)
        if number != _GRAPH_INITIALIZER or len(body) < _LARGE_BYTES:
            yield whole
            continue
        kept: list[bytes | memoryview] = []
        raw: list[tuple[int, int]] = []
        place = position - len(body)
        for inner, field, content in fields(body):
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


def _header(number: int, size: int) -> bytes:
    """Return the tag and length in front of a length-delimited field."""
    out = bytearray()
    for value in (number << 3 | DELIMITED, size):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)
