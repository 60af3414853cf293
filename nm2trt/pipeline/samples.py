"""The samples that come with nm2trt: in a checkout, and in the wheel."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from nm2trt.errors import InputError, OutputError
from nm2trt.extras import install_line
from nm2trt.file_replacement import os_reason
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table, small_table

_PACKAGE = Path(__file__).parents[1]
# The wheel has them inside the package (see setup.py), a checkout beside it.
_PLACES = (_PACKAGE / "_samples", _PACKAGE.parent / "samples")
_NAME = re.compile(r"[0-9]{2}_\w+")
# A script that uses another sample's modules names its folder.
_USES = re.compile(r"""parents\[1\] / ["'](\w+)["']""")
# A link to what lies outside the samples.
_ELSEWHERE = re.compile(r"\[([^\]]+)\]\(\.\./\.\./([^)]+)\)")
_INSTALLS = re.compile(r"pip install -e '\.\[([\w,]+)\]'")
_LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", ".ipynb_checkpoints")


@dataclass(frozen=True, slots=True, repr=False)
class SampleList(Result):
    """The samples that are here.

    Args:
        titles: Title of each sample, by its folder's name.
    """

    json_names = "samples=titles"

    titles: dict[str, str]

    def tables(self) -> tuple[Table, ...]:
        """Return one row per sample."""
        return (small_table(("sample", "what it shows"), self.titles.items()),)


@dataclass(frozen=True, slots=True, repr=False)
class CopiedSamples(Result):
    """What was copied.

    Args:
        folders: The folders, the sample that was asked for first.
        readme: Its README.
    """

    folders: tuple[Path, ...]
    readme: Path

    def remarks(self) -> tuple[str, ...]:
        """Return the folders, and where to read on."""
        return (*map(str, self.folders), f"read {self.readme}: it names what to install and what to type")


def samples(action: str, name: str | None, output: str | None) -> SampleList | CopiedSamples:
    """List or copy, as the command says; raises what `copy_samples` does."""
    if action == "list":
        if name is not None or output is not None:
            raise InputError("list takes nothing more; to copy a sample, write nm2trt samples copy 01")
        return list_samples()
    if name is None:
        raise InputError("name the sample to copy, as in nm2trt samples copy 01")
    return copy_samples(name, "." if output is None else output)


def list_samples() -> SampleList:
    """Return the samples that are here.

    Raises:
        InputError: None are.
    """
    return SampleList({path.name: _title(path) for path in _folders()})


def copy_samples(name: str, output: str | os.PathLike[str] = ".") -> CopiedSamples:
    """Copy a sample, and those whose modules it uses, to OUTPUT/samples, where its README's commands work.

    Args:
        name: Its number or its name, as "01" or "01_digits".
        output: The folder.

    Raises:
        InputError: No sample has this name, or a folder to be written exists already.
        OutputError: The folder cannot be written.
    """
    known = {path.name: path for path in _folders()}
    found = [path for one, path in known.items() if name in (one, one[:2])]
    if not found:
        raise InputError(f"no sample is named {name!r}; the samples are {', '.join(known)}")
    wanted = [found[0], *(known[one] for one in sorted(_used(found[0])) if one in known)]
    target = Path(output) / "samples"
    for path in wanted:
        if (target / path.name).exists():
            raise InputError(f"{target / path.name} is there already; give another folder with -o")
    new = list(itertools.takewhile(lambda folder: not folder.exists(), (target, *target.parents)))
    try:
        for path in wanted:
            _copy(path, target / path.name)
    except OSError as error:
        for folder in new:
            with contextlib.suppress(OSError):  # it holds a sample, or was not made
                folder.rmdir()
        raise OutputError(
            f"{target} cannot be written: {os_reason(error)}; give another folder with -o"
        ) from error
    return CopiedSamples(tuple(target / path.name for path in wanted), target / found[0].name / "README.md")


def _copy(source: Path, target: Path) -> None:
    """Copy a folder, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".nm2trt-", dir=target.parent) as name:
        shutil.copytree(source, Path(name) / target.name, ignore=_LEFT_OUT)
        readme = Path(name) / target.name / "README.md"
        # The line of a checkout works in no other folder.
        text = _INSTALLS.sub(lambda told: install_line(told[1]), readme.read_text(encoding="utf-8"))
        text = _ELSEWHERE.sub(r"\1: `\2` in the source archive", text)
        readme.write_text(text, encoding="utf-8")
        (Path(name) / target.name).rename(target)


def _folders() -> list[Path]:
    place = next((place for place in _PLACES if place.is_dir()), None)
    folders = [] if place is None else sorted(p for p in place.iterdir() if _NAME.fullmatch(p.name))
    if not folders:
        raise InputError("the samples are not installed; they come with the wheel and the source archive")
    return folders


def _title(folder: Path) -> str:
    first = (folder / "README.md").read_text(encoding="utf-8").partition("\n")[0]
    return first.partition(": ")[2] or first.lstrip("# ")


def _used(folder: Path) -> set[str]:
    return {
        name
        for script in folder.glob("*.py")
        for name in _USES.findall(script.read_text(encoding="utf-8"))
        if name != folder.name
    }
