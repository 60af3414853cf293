"""Encrypted and damaged `.npz` files, and headers that are no Python literal: one sentence."""

import io
import struct
import zipfile

import numpy as np
import pytest

from nm2trt.calibration.sources import read_arrays
from nm2trt.errors import DataError
from nm2trt.validation.samples.open_samples import open_samples


def encrypted(path, good):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", good)
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)


def damaged_lzma(path, good):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("x.npy", good)
    data = bytearray(path.read_bytes())
    data[60:80] = bytes(range(20))
    path.write_bytes(data)


def deep_header(path, good):
    header = b"(" * 9000 + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)


@pytest.mark.parametrize("make", [encrypted, damaged_lzma, deep_header])
def test_it_is_one_sentence(tmp_path, make):
    good = io.BytesIO()
    np.save(good, np.zeros((1, 3, 8, 8), "f4"))
    make(tmp_path / "x.npz", good.getvalue())
    with pytest.raises(DataError, match="sound"):
        open_samples(tmp_path / "x.npz")
    with pytest.raises(DataError, match="sound"):
        read_arrays(tmp_path / "x.npz", None, "x")
