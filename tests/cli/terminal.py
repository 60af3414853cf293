"""A terminal of a given width, in this process: what a command writes on it."""

import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

from nm2trt.cli import main


def on_terminal(words, columns, monkeypatch, *, both=False):
    """Run a command on a terminal; return its exit status, its lines without colours, and the raw text.

    Args:
        words: The command.
        columns: Width of the terminal.
        monkeypatch: The fixture.
        both: Whether stderr goes there too.
    """
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", str(columns))
    seen = []

    def read():
        while True:
            try:
                data = os.read(reader, 65536)
            except OSError:
                return
            if not data:
                return
            seen.append(data)

    thread = threading.Thread(target=read)
    thread.start()
    with os.fdopen(writer, "w", encoding="utf-8") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        if both:
            patch.setattr(sys, "stderr", stream)
        status = main([str(word) for word in words])
    thread.join(10)
    os.close(reader)
    raw = b"".join(seen).decode().replace("\r", "")
    return status, re.sub(r"\x1b\[[0-9;]*m", "", raw).splitlines(), raw
