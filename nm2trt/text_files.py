"""Text files that any editor or shell may have written: UTF-8, or what a byte order mark says."""

from __future__ import annotations

import codecs
import os

from nm2trt.errors import InputError
from nm2trt.files import read_input

# UTF-32's mark begins with UTF-16's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decoded(data: bytes, *, errors: str = "strict") -> str:
    """Return the text of a file, without its byte order mark; UTF-8 if it has none.

    Args:
        data: The file's content.
        errors: What becomes of other bytes, as in `bytes.decode`.

    Raises:
        UnicodeDecodeError: It is not such text, and `errors` is "strict".
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors)
    return data.decode("utf-8", errors)


def read_text(path: str | os.PathLike[str], what: str) -> str:
    """Return the content of a text file.

    Args:
        path: The file.
        what: As for `nm2trt.files.check_input`.

    Raises:
        InputError: It is missing, cannot be read, or is text in another encoding.
    """
    try:
        return decoded(read_input(path, what))
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text; save it as UTF-8") from error
