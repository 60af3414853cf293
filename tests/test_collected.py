"""Every test file is collected, and every message that recommends a command has its test."""

import subprocess
import sys
from pathlib import Path

from tests.cli.test_advised_commands import unknown_advice

ROOT = Path(__file__).parents[1]


def test_every_test_file_is_collected(collected):
    written = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    if collected is not None:
        assert written - {path.relative_to(ROOT) for path in collected} == set()
        return
    done = subprocess.run(  # a run of single files: collect the rest in another process
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    told = {Path(line.split("::")[0]) for line in done.stdout.splitlines() if "::" in line}
    assert written - told == set()


def test_no_folder_has_a_name_that_tools_skip():
    skipped = {"build", "dist", "venv", "env", "node_modules"}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert not [line for line in tracked.splitlines() if skipped & set(Path(line).parent.parts)]


def test_every_message_that_names_a_command_is_followed_by_a_test():
    """What a message recommends works on the file that got it; a mere mention is listed as one."""
    assert unknown_advice() == set(), "add each to ADVICE or MENTIONS in tests/cli/test_advised_commands.py"
