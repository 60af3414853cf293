"""A function in a forked process with limits on its time and memory."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How it ended.

    Args:
        status: Its exit status, a signal's number negative.
        seconds: Its time.
        megabytes: What it took beyond this process.
        over: The limit that it went over, or "".
    """

    status: int
    seconds: float
    megabytes: int
    over: str


def resident(pid="self"):
    """Return the resident memory of a process, in bytes."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def limited(function, *, seconds, megabytes):
    """Run a function that returns an exit status in a fork; kill it beyond a limit.

    Args:
        function: The function; whatever it prints goes where it leads its own streams.
        seconds: Limit of its processor and waiting time.
        megabytes: Limit of its memory, beyond this process's.
    """
    before, began = resident(), time.monotonic()
    child = os.fork()
    if child == 0:
        status = 70
        try:
            os.setsid()
            status = function()
        finally:
            os._exit(status)
    most, over, pause = 0, "", 0.002
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        most = max(most, resident(child) - before)
        took = time.monotonic() - began
        over = over or (
            f"{seconds} s" if took > seconds else f"{megabytes} MB" if most > megabytes << 20 else ""
        )
        if over:
            os.killpg(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.02)
    return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - began, most >> 20, over)
