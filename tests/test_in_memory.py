"""tools/in_memory.py: a command gets a folder in memory for its temporary files, and the folder goes with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "in_memory.py"
COMMAND = "import sys, tempfile; print(tempfile.gettempdir()); sys.exit(7)"


@pytest.mark.parametrize("given", [True, False], ids=["TMPDIR", "default"])
def test_a_command_has_its_temporary_files_in_memory(tmp_path, given):
    environment = {name: value for name, value in os.environ.items() if name != "TMPDIR"}
    environment |= {"TMPDIR": str(tmp_path)} if given else {}
    words = [sys.executable, "-S", str(TOOL), sys.executable, "-S", "-c", COMMAND]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    folder = Path(done.stdout.strip())
    if given:
        assert folder == tmp_path
    elif folder.is_relative_to("/dev/shm"):
        assert folder.name.startswith("in-memory-")
        assert not folder.exists()
