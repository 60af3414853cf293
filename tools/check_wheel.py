"""Install a wheel in an empty environment, with each extra alone, and ask every command for help.

    python tools/check_wheel.py dist/nm2trt-0.2.0-py3-none-any.whl                  # no extra
    python tools/check_wheel.py dist/nm2trt-0.2.0-py3-none-any.whl --extra ort rtx  # each of these alone
    python tools/check_wheel.py dist/nm2trt-0.2.0-py3-none-any.whl --every-extra    # each of all alone

The versions are those of `constraints.txt`. `--every-extra` leaves out `trt`, which brings gigabytes of CUDA,
and the extras for developers, which no command needs.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
LEFT_OUT = {"dev", "release", "docs", "trt"}
COMMANDS = "from nm2trt.cli import COMMANDS; print(*COMMANDS)"


def extras_of(wheel: Path) -> list[str]:
    """Return the extras that a wheel's metadata provides, without those left out."""
    with zipfile.ZipFile(wheel) as opened:
        name = next(name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(opened.read(name).decode())
    return [extra for extra in metadata.get_all("Provides-Extra", []) if extra not in LEFT_OUT]


def check(wheel: Path, extra: str) -> list[str]:
    """Install a wheel with one extra ("" for no extra) and return what failed."""
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder) / "bin"
        wanted = f"{wheel.resolve()}[{extra}]" if extra else str(wheel.resolve())
        constraints = str(ROOT / "constraints.txt")
        installed = _run(
            programs / "python", "-m", "pip", "install", "-q", "--constraint", constraints, wanted
        )
        if installed.returncode:
            return [f"pip install {wanted}: {installed.stderr.strip()}"]
        names = _run(programs / "python", "-c", COMMANDS, cwd=folder).stdout.split()
        calls = [["--version"], ["--help"], ["doctor", "--json"], *([name, "--help"] for name in names)]
        if not names:
            return ["nm2trt.cli has no commands"]
        failed = []
        for words in calls:
            done = _run(programs / "nm2trt", *words, cwd=folder)
            if done.returncode or not done.stdout.strip() or done.stderr.strip():
                failed.append(
                    f"nm2trt {' '.join(words)}: exit status {done.returncode}; {done.stderr.strip()}"
                )
        return failed


def _run(program: Path, *words: str, cwd: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *words], cwd=cwd, capture_output=True, text=True, check=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Check one wheel; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--extra", nargs="+", default=[""], metavar="NAME", help="extras, each alone")
    parser.add_argument("--every-extra", action="store_true", help="no extra, then each extra alone")
    options = parser.parse_args(arguments)
    extras = ["", *extras_of(options.wheel)] if options.every_extra else options.extra
    status = 0
    for extra in extras:
        failed = check(options.wheel, extra)
        told = "; ".join(failed) if failed else "installs, and every command answers"
        print(f"{extra or 'no extra'}: {told}", flush=True)
        status |= bool(failed)
    return status


if __name__ == "__main__":
    sys.exit(main())
