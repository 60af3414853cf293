"""Run a command whose temporary files lie in memory: `python tools/in_memory.py COMMAND ...`.

Tests write thousands of small files and wait for the disk at each. The command runs as it would by itself if
TMPDIR says where temporary files belong, or if /dev/shm is missing, has less than 4 GB free, or cannot hold
programs.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

MEMORY, ROOM = "/dev/shm", 4 << 30


def has_room(folder: str) -> bool:
    """Tell whether a folder is writable, has 4 GB free, and may hold programs and libraries."""
    if not os.access(folder, os.W_OK):
        return False
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize >= ROOM and not facts.f_flag & os.ST_NOEXEC


def main() -> int:
    """Run the command; return its exit status."""
    if "TMPDIR" in os.environ or not has_room(MEMORY):
        return subprocess.call(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="in-memory-", dir=MEMORY, ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o711)  # as in /tmp, other users reach what is made for them
        return subprocess.call(sys.argv[1:], env={**os.environ, "TMPDIR": folder})


if __name__ == "__main__":
    sys.exit(main())
