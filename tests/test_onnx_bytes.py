"""ONNX bytes: damaged ones are refused before much is read of them."""

import pytest

from nm2trt.onnx_bytes.fields import fields
from nm2trt.onnx_bytes.turned_products import crashing_optimisers


@pytest.mark.parametrize("start", [b"", b"\x08", b"\x3a"], ids=["tag", "number", "length"])
def test_a_number_without_an_end_is_read_no_further(start):
    """As one number, a file of such bytes would take minutes per megabyte, whatever ONNX Runtime says of it."""
    endless = start + b"\xff" * 40
    with pytest.raises(ValueError, match="has no end"):
        list(fields(memoryview(endless)))
    assert crashing_optimisers(endless) == []


def test_the_largest_number_is_read():
    largest = b"\x08" + b"\xff" * 9 + b"\x01"
    assert [(number, bytes(body)) for number, _, body in fields(memoryview(largest))] == [(1, largest[1:])]
