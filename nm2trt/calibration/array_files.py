"""Arrays in `.npz` and `.npy` files: plain numbers only, and no more memory than the samples may take."""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from nm2trt.arrays import Array
from nm2trt.errors import DataError
from nm2trt.limits.bounds import bounds

# What zipfile, its decompressors and numpy raise on a damaged, encrypted or hostile file.
_UNSOUND: tuple[type[Exception], ...] = (
    *(ValueError, KeyError, OverflowError, MemoryError, OSError, EOFError, NotImplementedError),
    RuntimeError,  # an encrypted member
    *(zipfile.BadZipFile, zlib.error),
    *(tokenize.TokenError, SyntaxError),  # a header that is no Python literal
)
with contextlib.suppress(ImportError):  # a Python may be built without it
    import lzma

    _UNSOUND = (*_UNSOUND, lzma.LZMAError)

# What sound arrays of another kind raise, when their content is taken for one's own.
UNSOUND_CONTENT = (ValueError, KeyError, OverflowError, TypeError, AttributeError)


@contextlib.contextmanager
def sound_archive(path: Path) -> Iterator[None]:
    """Turn what a damaged `.npz` or `.npy` raises into a DataError."""
    try:
        yield
    except DataError:
        raise
    except _UNSOUND as error:
        why = "is not a sound .npz or .npy of plain arrays; write it with numpy.savez or numpy.save"
        raise DataError(f"{path} {why}") from error


def require_affordable(path: Path, nbytes: int, what: str = "its arrays") -> None:
    """Raise if arrays that would be held at once take more memory than samples may.

    Args:
        path: The file that they unpack from.
        nbytes: Their size.
        what: What they are, for the message.

    Raises:
        DataError: They do.
    """
    most = bounds().sample_bytes
    if nbytes > most + 4 * path.stat().st_size:
        limit = f"{most / (1 << 30):g} GB"
        raise DataError(
            f"{path}: {what} unpack to {nbytes / 1e9:.3g} GB, beyond the {limit} for samples; if that is "
            "right, raise nm2trt --sample-memory"
        )


def skip_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read an array's header, and leave the stream where its values begin.

    Returns:
        Shape, whether it is in Fortran's order, and dtype.

    Raises:
        ValueError: The bytes are not a header.
        KeyError: It is of a version that is not read.
    """
    # Version 3 is 2 with field names in UTF-8, and an array of numbers has no fields.
    later = npy.read_array_header_2_0
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): later, (3, 0): later}
    shape, fortran, dtype = readers[npy.read_magic(stream)](stream)
    np.broadcast_to(np.int8(0), shape)  # numpy raises if no array has it: 65 axes, -1, (2**62, 4, 0)
    if any(isinstance(size, bool) for size in shape) or math.prod(shape) * dtype.itemsize >= 1 << 63:
        raise ValueError(shape)
    return shape, fortran, dtype


def member_header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Return what `skip_header` does, for one member of an archive.

    Raises:
        DataError: The member is not an array, as a README or what macOS adds when it packs a folder.
    """
    with archive.open(member) as stream:
        if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            raise DataError(
                f"{archive.filename} holds {member!r}, which is not an array; delete it from the archive "
                "(zip -d), or write the arrays again with numpy.savez"
            )
    with archive.open(member) as stream:
        return skip_header(stream)


def archive_members(archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the arrays of an archive: name, and the member that holds it.

    Raises:
        DataError: Two members have one name, so which of them is meant is unknown.
    """
    members: dict[str, str] = {}
    for member in archive.namelist():
        name = member.removesuffix(".npy")
        if name in members:
            raise DataError(f"{archive.filename} holds {name!r} twice; write it again with numpy.savez")
        members[name] = member
    return members


def read_archive(path: Path, names: Sequence[str] | None = None) -> Array | dict[str, Array]:
    """Read an `.npy`, or the arrays of an `.npz`; sizes are checked before anything is unpacked.

    Args:
        path: The file.
        names: The arrays to read; None reads all.

    Returns:
        The array of an `.npy`, or arrays by name.

    Raises:
        DataError: The file is damaged, of another kind, or holds objects; its arrays take more memory than
            samples may, or two have one name.
    """
    with sound_archive(path), path.open("rb") as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            loaded: Array = npy.read_array(file, allow_pickle=False)
            return loaded
    with sound_archive(path), zipfile.ZipFile(path) as archive:
        members = archive_members(archive)
        wanted = {name: members[name] for name in (members if names is None else names)}
        total = 0
        for member in wanted.values():
            shape, _, dtype = member_header(archive, member)
            total += math.prod(shape) * dtype.itemsize
        require_affordable(path, total)
        arrays = {}
        for name, member in wanted.items():
            with archive.open(member) as stream:
                arrays[name] = npy.read_array(stream, allow_pickle=False)
        return arrays
