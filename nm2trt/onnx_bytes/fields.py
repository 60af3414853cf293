"""The fields of a serialized protobuf message, read one by one, without its schema."""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, DELIMITED, _FIXED32 = 0, 1, 2, 5
_MOST_BITS = 64  # of a number; without an end, a file of 0xff would make one of as many digits


def fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield number, whole field and content of each field of a serialized message.

    Raises:
        ValueError, LookupError: The bytes are not a serialized message.
    """
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        if tag < 8:
            raise ValueError("fields are numbered from 1")
        kind = tag & 7
        body = position
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == DELIMITED:
            size, body = _varint(message, position)
            position = body + size
        else:
            position += {_FIXED64: 8, _FIXED32: 4}[kind]
        if position > len(message):
            raise ValueError("a field ends after its message")
        yield tag >> 3, message[start:position], message[body:position]


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, _MOST_BITS, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number has no end")
