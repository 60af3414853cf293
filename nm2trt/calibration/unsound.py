"""Exceptions of zipfile, its decompressors and numpy on a damaged, encrypted or hostile `.npz`."""

from __future__ import annotations

import contextlib
import tokenize
import zipfile
import zlib

_kinds: list[type[Exception]] = [
    *(ValueError, KeyError, OverflowError, MemoryError, OSError, EOFError, NotImplementedError),
    RuntimeError,  # an encrypted member
    *(zipfile.BadZipFile, zlib.error),
    *(tokenize.TokenError, SyntaxError),  # a header that is no Python literal
]
with contextlib.suppress(ImportError):  # a Python may be built without it
    import lzma

    _kinds.append(lzma.LZMAError)

UNSOUND_ARCHIVE: tuple[type[Exception], ...] = tuple(_kinds)
# What an archive of arrays of another kind raises besides, when its content is taken for one's own.
UNSOUND_CONTENT: tuple[type[Exception], ...] = (*UNSOUND_ARCHIVE, TypeError, AttributeError)
