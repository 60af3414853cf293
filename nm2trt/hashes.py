"""SHA-256 of files and of bytes."""

from __future__ import annotations

import hashlib
import os

from nm2trt.errors import InputError
from nm2trt.file_replacement import os_reason
from nm2trt.files import open_regular

_CHUNK_BYTES = 1 << 20


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits.

    Raises:
        InputError: It cannot be read, or is not a regular file.
    """
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error
    return digest.hexdigest()


def sha256_bytes(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
