"""Make a release: version, changelog section, sdist and wheel, their checks, commit and tag.

    make release VERSION=0.3.0

The version goes to `nm2trt/__init__.py`, its only place, and the changelog's [Unreleased] becomes a section
of that version, unless it has one. Nothing is pushed or uploaded. If a step fails, both files are as before.
"""

from __future__ import annotations

import datetime as dt
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
SEMANTIC = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
VERSION_LINE = re.compile(r'^(__version__ = ")[^"]+(")', re.MULTILINE)


class ReleaseError(Exception):
    """A release that may not be made; one sentence says why."""


def section(changelog: str, version: str) -> str:
    """Return what stands under a version's heading; "" if it has no heading."""
    found = re.search(rf"^## \[{re.escape(version)}\][^\n]*\n(.*?)(?=^## \[|\Z)", changelog, re.M | re.S)
    return found[1].strip() if found else ""


def with_section(changelog: str, version: str, day: str) -> str:
    """Return the changelog with a section of this version: [Unreleased] becomes it, unless there is one.

    Raises:
        ReleaseError: Nothing is written there, or lines stand under both headings.
    """
    unreleased = section(changelog, "Unreleased")
    if section(changelog, version):
        if unreleased:
            raise ReleaseError(
                f"CHANGELOG.md has lines under [Unreleased]; move those of {version} to its section"
            )
        return changelog
    if not unreleased:
        raise ReleaseError(f"CHANGELOG.md says nothing under [Unreleased]; write what {version} changes")
    heading = f"## [Unreleased]\n\n## [{version}] - {day}"
    return re.sub(r"^## \[Unreleased\][^\n]*", heading, changelog, count=1, flags=re.M)


def check_version(version: str, tags: Sequence[str]) -> None:
    """Check that a version is a semantic one, and above every tag.

    Raises:
        ReleaseError: It is not.
    """
    if not SEMANTIC.fullmatch(version):
        raise ReleaseError(f"{version!r} is not a semantic version; write MAJOR.MINOR.PATCH, as in 0.3.0")
    released = [tag[1:] for tag in tags if SEMANTIC.fullmatch(tag[1:]) and tag[0] == "v"]
    latest = max(released, key=_numbers, default="")
    if latest and _numbers(version) <= _numbers(latest):
        raise ReleaseError(f"{version} is not above {latest}, the latest tag")


def release(version: str, root: Path = ROOT) -> None:
    """Make a release in a clone.

    Raises:
        ReleaseError: The version, the work tree or the changelog does not allow it, or a step failed.
    """
    check_version(version, _git(root, "tag", "--list", "v*").split())
    if _git(root, "status", "--porcelain"):
        raise ReleaseError("the work tree has changes; commit them first")
    changed = [root / "nm2trt" / "__init__.py", root / "CHANGELOG.md"]
    before = [path.read_text() for path in changed]
    changelog = with_section(before[1], version, f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d}")
    try:
        changed[0].write_text(VERSION_LINE.sub(rf"\g<1>{version}\g<2>", before[0], count=1))
        changed[1].write_text(changelog)
        _build_and_check(root, version)
        if _git(root, "status", "--porcelain"):
            _git(root, "commit", "--quiet", "--all", "--message", f"Release {version}")
    except BaseException:
        for path, text in zip(changed, before, strict=True):
            path.write_text(text)
        raise
    notes = f"nm2trt {version}\n\n{section(changelog, version)}\n"
    _git(root, "tag", "--annotate", f"v{version}", "--cleanup=verbatim", "--message", notes)
    print(f"tagged v{version}; dist/ holds the sdist and the wheel. Nothing was pushed or uploaded.")


def _build_and_check(root: Path, version: str) -> None:
    shutil.rmtree(root / "dist", ignore_errors=True)
    _step(root, "-m", "build", "--outdir", "dist", ".")
    made = sorted(str(path) for path in (root / "dist").iterdir())
    wheel = f"nm2trt-{version}-py3-none-any.whl"
    if [Path(path).name for path in made] != [wheel, f"nm2trt-{version}.tar.gz"]:
        raise ReleaseError(f"the build wrote {', '.join(made)}, and not version {version}")
    _step(root, "-m", "twine", "check", "--strict", *made)
    _step(root, "tools/check_wheel.py", f"dist/{wheel}")


def _step(root: Path, *words: str) -> None:
    done = subprocess.run([sys.executable, *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"python {' '.join(words)} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


def _git(root: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(words[:2])} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def main() -> int:
    """Make the release that the command line names."""
    if len(sys.argv) != 2:
        print("name the version: make release VERSION=0.3.0", file=sys.stderr)
        return 2
    try:
        release(sys.argv[1])
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
