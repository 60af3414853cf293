"""A function in a forked process with limits on its time and memory."""

import contextlib
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
        seconds: Processor time of the process and its children.
        megabytes: Their memory beyond this process's.
        over: The limit that it went over, or "".
    """

    status: int
    seconds: float
    megabytes: int
    over: str


def resident(pid="self"):
    """Return the resident memory of a process without that of files, of which a fork starts with none; in bytes."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
        return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGESIZE")
    except (OSError, IndexError):
        return 0


def processor_seconds(pid):
    """Return the processor time of a process and of the children that it waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def family(pid):
    """Return a process and all that it started and that still run."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def memory(processes):
    """Return the resident memory of processes; one that was just forked still shares its parent's and counts once."""
    if len(processes) == 1:
        return resident(processes[0])
    most = {}
    for pid in processes:
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text()
            most[maps] = max(most.get(maps, 0), resident(pid))
    return sum(most.values())


def limited(function, *, seconds, megabytes, waiting=600):
    """Run a function that returns an exit status in a fork; kill it beyond a limit.

    Args:
        function: The function; it redirects its own streams.
        seconds: Limit of its processor time.
        megabytes: Limit of its memory, beyond this process's.
        waiting: Seconds after which it hangs; long, since a busy machine stretches them.
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
    most, took, over, pause = 0, 0.0, "", 0.002
    while True:
        # Not reaped yet, so that its processor time can still be read.
        ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        processes = family(child)
        most = max(most, memory(processes) - before)
        took = max(took, sum(map(processor_seconds, processes)))
        if ended:
            break
        waited = time.monotonic() - began
        over = over or _over((took, seconds), (waited, waiting), (most, megabytes))
        if over:
            os.killpg(child, signal.SIGKILL)
        time.sleep(pause)
        pause = min(pause * 1.2, 0.02)
    _, status = os.waitpid(child, 0)
    return Ended(os.waitstatus_to_exitcode(status), took, most >> 20, over)


def _over(processor, waited, memory):
    """Name the limit that a run went over, or return ""; each argument is a value and its limit."""
    if processor[0] > processor[1]:
        return f"{processor[1]} s"
    if waited[0] > waited[1]:
        return f"{waited[1]} s of waiting"
    return f"{memory[1]} MB" if memory[0] > memory[1] << 20 else ""
