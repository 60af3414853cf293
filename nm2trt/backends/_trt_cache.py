"""TensorRT's timing cache: one file that many builds read and add to.

A build takes what the file holds; afterwards, under a lock, the file is read again, what this build has timed
is added to what others have added meanwhile, and the whole is renamed into place. So two builds at once lose
nothing, and a killed one leaves the file as it was.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.backends._trt_words import first_error
from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import os_reason
from nm2trt.files import read_regular, write_atomic
from nm2trt.locks import one_writer

if TYPE_CHECKING:
    # TensorRT's own types; they fit TensorRT for RTX too.
    import tensorrt

_MOST_BYTES = 1 << 28


@contextlib.contextmanager
def shared(
    product: str, config: tensorrt.IBuilderConfig, path: Path | None, log: list[str]
) -> Iterator[tensorrt.ITimingCache | None]:
    """Give the builder the file's timings; add to the file what the block has timed, unless the block fails.

    A file that cannot be written costs the timings, not the engine, and goes into the log.

    Args:
        product: The library's name, for messages.
        config: The builder's configuration.
        path: The file, which need not exist; None does nothing.
        log: The library's messages.

    Raises:
        InputError: The file cannot be read, or is of another version or device.
    """
    if path is None:
        yield None
        return
    try:
        data = read_regular(path, most_bytes=_MOST_BYTES) if path.exists() else b""
    except OSError as error:
        raise InputError(f"the timing cache {path} cannot be read: {error.strerror or error}") from error
    cache = config.create_timing_cache(data)
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputError(
            f"the timing cache {path} is damaged, or of another GPU or version than {product} here "
            f"({first_error(log)}); name another file"
        )
    yield cache

    def combine(theirs: bytes, mine: bytes) -> bytes:
        # Read into the builder's own kind of cache: the bytes have no meaning outside the library.
        merged, own = config.create_timing_cache(theirs), config.create_timing_cache(mine)
        # Damaged bytes, and on some versions those of another version, make an empty cache.
        if merged is None or own is None or not merged.combine(own, False):
            raise OutputError("it is damaged, or of another GPU or version by now")
        return bytes(memoryview(merged.serialize()))

    try:
        merge(path, bytes(memoryview(cache.serialize())), combine)
    except OutputError as error:
        log.append(f"warning: the timing cache {path} was not updated: {error}")


def merge(path: Path, mine: bytes, combine: Callable[[bytes, bytes], bytes]) -> None:
    """Replace a file by what it holds and `mine` together, as if one process at a time did so.

    Args:
        path: The file; it need not be there.
        mine: What to add.
        combine: Called with the file's content and `mine`.

    Raises:
        OutputError: The file cannot be written, or is there and cannot be read; it stays as it is.
    """
    with one_writer(path.parent):
        theirs = b""
        try:
            theirs = read_regular(path, most_bytes=_MOST_BYTES)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise OutputError(f"it cannot be read: {os_reason(error)}") from error
        write_atomic(path, combine(theirs, mine) if theirs else mine)
