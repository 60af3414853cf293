"""Signals that end a command in order: temporary files go, and the exit status names the signal.

An import is never cut short. Extension modules that are interrupted while they initialise may crash the
process, so a signal that arrives during an import is delivered again when the import has ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from nm2trt.errors import Interrupted
from nm2trt.limits.run_watch import on_stop

_DELAY_S = 0.02
_PATIENCE = 3  # signals of a user during one import, after which the process ends at once
_IMPORT_SYSTEM = "<frozen importlib._bootstrap>"
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}
_wakes = False  # whether Python's wakeup descriptor is that of `runs_end`


class Stopped(KeyboardInterrupt):
    """A signal that ends the command; it says nothing of Ctrl-C, as Python's own does.

    Args:
        number: The signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__("" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}")
        self.number = number

    @property
    def exit_status(self) -> int:
        """130 after Ctrl-C; 128 and the signal's number after another signal, as shells count."""
        return Interrupted.exit_status if self.number == signal.SIGINT else 128 + self.number


@contextlib.contextmanager
def signals_stop() -> Iterator[None]:
    """Raise `Stopped` in the block at SIGINT, SIGTERM and SIGHUP; signals that are ignored stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number, default in _DEFAULTS.items() if signal.getsignal(number) == default]
    handler = _Handler()
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        handler.closed = True
        for number in taken:
            signal.signal(number, _DEFAULTS[number])


@contextlib.contextmanager
def runs_end() -> Iterator[None]:
    """Tell a model's run in the block to end when a signal comes, which Python handles only after the run.

    Python has one wakeup descriptor: that of an event loop or of an outer command is left in its place.
    """
    global _wakes
    taken = {int(number) for number in _DEFAULTS if isinstance(signal.getsignal(number), _Handler)}
    if not taken or threading.current_thread() is not threading.main_thread() or _has_wakeup():
        yield
        return
    arrived, write = os.pipe()

    def stopped() -> bool:
        with contextlib.suppress(BlockingIOError):
            return not taken.isdisjoint(os.read(arrived, 1 << 10))
        return False

    try:
        for end in (arrived, write):
            os.set_blocking(end, False)
        _wakes = True
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        on_stop(stopped)
        yield
    finally:
        on_stop(None)
        signal.set_wakeup_fd(-1)
        _wakes = False
        os.close(write)
        os.close(arrived)


def _has_wakeup() -> bool:
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    return before != -1


def _part_from_parent() -> None:
    # A signal that a forked child gets must not end what its parent runs.
    if _wakes:
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_part_from_parent)


class _Handler:
    def __init__(self) -> None:
        self.closed = False
        self._waiting = False
        self._during_import = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        again, self._waiting = self._waiting, False
        if not _is_importing(frame):
            raise Stopped(number)
        self._during_import += not again
        if self._during_import >= _PATIENCE:
            os._exit(Stopped(number).exit_status)
        self._waiting = True
        timer = threading.Timer(_DELAY_S, self._send, (number,))
        timer.daemon = True
        timer.start()

    def _send(self, number: int) -> None:
        if not self.closed:
            signal.pthread_kill(threading.main_thread().ident or 0, number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != _IMPORT_SYSTEM:
        frame = frame.f_back
    return frame is not None
