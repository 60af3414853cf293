"""Programs in forks of the test process, which has imported what they need: up to two seconds less than a new one."""

import os
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path


def start(function, folder, stdout, stderr, *, limit=300):
    """Start a function in a fork of this process; return the fork's number.

    Args:
        function: What returns an exit status or raises SystemExit, as the main function of a program does.
        folder: Where it runs.
        stdout: File for what it prints.
        stderr: File for its messages.
        limit: Seconds after which it is ended.
    """
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        signal.alarm(limit)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.chdir(folder)
        for number, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
        warnings.simplefilter("ignore")
        try:
            status = function() or 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
            if isinstance(ended.code, str):
                sys.stderr.write(f"{ended.code}\n")
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def run(function, folder, **options):
    """Run a function as `start` does; return how it ended as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as said:
        files = [Path(said, name) for name in ("stdout", "stderr")]
        _, status = os.waitpid(start(function, folder, *files, **options), 0)
        texts = [path.read_text(encoding="utf-8") for path in files]
        return subprocess.CompletedProcess(function, os.waitstatus_to_exitcode(status), *texts)


def polygraphy(folder, *words):
    """Run `polygraphy` with these words in a folder; return how it ended."""
    from polygraphy import tools

    def program():
        sys.argv = ["polygraphy", *words]
        return tools.main()

    return run(program, folder)
