"""Standard streams of a command: closed ones, readers that leave, names that a terminal cannot show."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import stat
import sys
from typing import Any, TextIO

# Signs of our own in ASCII: escaped, a minus would read as the digits 2212 in front of a number.
_PLAIN = {"−": "-", "–": "-", "…": "...", "✓": "+", "✗": "x"}


def prepare_streams() -> None:
    """Make standard output and errors take whatever a command writes, to its end."""
    codecs.register_error("nm2trt.plain", _plain)
    _open_streams()
    _outlive_readers()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nm2trt.plain")  # names are data; not every terminal can show them


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Write what an encoding lacks as a plain sign or, as in a name, escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    signs = (_PLAIN.get(sign) or sign.encode("ascii", "backslashreplace").decode() for sign in lacking)
    return "".join(signs), error.end


def flush(stream: TextIO) -> None:
    """Write what a stream holds back; one that fails is redirected to /dev/null."""
    try:
        stream.flush()
    except OSError:
        discard(stream)


def discard(stream: TextIO) -> None:
    """Redirect a failing stream to /dev/null, so that its buffer does not fail again at the end."""
    with contextlib.suppress(OSError, ValueError):
        _lead_nowhere(stream.fileno())


def _open_streams() -> None:
    """Redirect closed standard streams to /dev/null, so that a new file does not get descriptor 1 or 2."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            _lead_nowhere(number)
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", closefd=False))


def _lead_nowhere(number: int) -> None:
    """Redirect a descriptor, which may be closed, to /dev/null."""
    opened = os.open(os.devnull, os.O_WRONLY)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


class _Outliving(io.FileIO):
    """A pipe that is written on to /dev/null once its reader has gone."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            _lead_nowhere(self.fileno())
            return len(data)


def _outlive_readers() -> None:
    """Let a command end with its own status if the reader of its output leaves: a failed gate has failed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        with contextlib.suppress(OSError, ValueError):  # it may be no file at all
            kind = os.fstat(stream.fileno()).st_mode
            if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
                stream.flush()
                raw = _Outliving(stream.fileno(), "w", closefd=False)
                text = io.TextIOWrapper(
                    raw if stream.write_through else io.BufferedWriter(raw),  # PYTHONUNBUFFERED holds on
                    encoding=stream.encoding,
                    line_buffering=stream.line_buffering,
                    write_through=stream.write_through,
                )
                setattr(sys, name, text)
