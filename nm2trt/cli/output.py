"""Tables and JSON on stdout, shared by the commands."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from nm2trt.errors import Nm2trtError
from nm2trt.files import check_output, write_atomic

__all__ = ["keep_json", "print_json", "print_table", "printable", "short_count"]

T = TypeVar("T")


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    print(_dumps(value), end="")


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


@contextlib.contextmanager
def keep_json(
    path: Path | None, *, printed: bool, sources: Iterable[str | None] = ()
) -> Iterator[Callable[[T], T]]:
    """Yield a function that writes a result to `path` and returns it; keep what an error leaves, too.

    Where the block ends early, what had been found before is written, and printed if `printed`; the error's
    sentence then says so.

    Args:
        path: The file; None writes none.
        printed: Whether JSON goes to stdout.
        sources: Files that are read, which the JSON may not replace.

    Raises:
        OutputError: The file cannot be written; told before the work begins.
    """
    if path is not None:
        check_output(path, sources=[source for source in sources if source is not None])

    unwritten: list[Nm2trtError] = []

    def keep(result: T) -> T:
        if path is not None:
            try:
                write_atomic(path, _dumps(result.to_json()))  # type: ignore[attr-defined]
            except Nm2trtError as error:
                error.partial = result
                unwritten.append(error)
                raise
        return result

    try:
        yield keep
    except Nm2trtError as error:
        if error.partial is not None:
            if printed:
                print_json(error.partial.to_json())
            if path is not None and error not in unwritten:
                keep(error.partial)
                error.args = (f"{error}; what was found so far is in {path}",)
        raise


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, title: str = "") -> None:
    """Print a table; columns are as wide as their longest cell, and fold where a terminal is narrower.

    Cells are data: control characters are shown escaped, so that a name cannot repaint the terminal.
    """
    cells = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]
    if sys.stdout.isatty() and sum(widths) + 2 * len(widths) > shutil.get_terminal_size().columns:
        _print_folded(headers, cells, title)
        return
    if title:
        print(printable(title))
    for row in (headers, *cells):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_folded(headers: Sequence[str], cells: Sequence[Sequence[str]], title: str) -> None:
    # Only here: it takes longer to import than most commands take to run.
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=Text(title) if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for header in headers:
        table.add_column(Text(header), overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def printable(cell: str) -> str:
    """Return data with its control characters escaped, so that a name cannot repaint the terminal."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in cell)


def short_count(number: int) -> str:
    """Return a count with three digits or so, as in "4.09 G"."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return str(number)
