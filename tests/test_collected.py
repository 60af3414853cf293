"""Every test file is collected: runners skip folders of some names without a word."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_test_file_is_collected():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", "tests"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:]
    collected = {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}
    written = {str(path.relative_to(ROOT)) for path in (ROOT / "tests").rglob("test_*.py")}
    assert written - collected == set()


def test_no_folder_has_a_name_that_tools_skip():
    skipped = {"build", "dist", "venv", "env", "node_modules"}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    assert not [line for line in tracked.splitlines() if skipped & set(Path(line).parent.parts)]
