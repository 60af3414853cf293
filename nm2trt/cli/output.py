"""Tables and JSON on stdout, shared by the commands."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from nm2trt.errors import Nm2trtError
from nm2trt.files import check_output, write_atomic
from nm2trt.tables.layout import lay_out
from nm2trt.tables.result import Result
from nm2trt.tables.table import Mark, Table, small_table
from nm2trt.terminal_text import fill, printable, shell_lines, shorten

T = TypeVar("T")

_verbosity = 0
_json_awaited = False

_STYLES = {
    "bad": "red",
    "no": "yellow",
    "doubt": "magenta",
    "good": "green",
    "header": "bold",
    "title": "bold",
}


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    global _json_awaited
    _json_awaited = False
    print(_dumps(value), end="")


def print_json_line(value: Any) -> None:
    """Print a value as one line of JSON at once, for a program that waits for it."""
    print(json.dumps(value), flush=True)


def await_json(awaited: bool) -> None:
    """Take whether stdout is to hold one JSON value: an error becomes it if no other was printed."""
    global _json_awaited
    _json_awaited = awaited


def print_json_error(kind: str, message: str, status: int, found: Any = None) -> None:
    """Print an error as a JSON object, with what was found before, if JSON was asked for and not printed."""
    if _json_awaited:
        with contextlib.suppress(OSError, ValueError):
            told = " ".join(message.split())
            before = {} if found is None else found.to_json()
            print_json({**before, "error": told, "kind": kind, "exit_status": status})


def print_result(result: Any, write: Callable[..., None], *, as_json: bool, **how: Any) -> None:
    """Print a result that has `to_json`: as JSON, or with `write(result, **how)`."""
    if as_json:
        print_json(result.to_json())
    else:
        write(result, **how)


def print_notes(notes: Iterable[str]) -> None:
    """Print notes to stderr, wrapped between words on a terminal."""
    for note in notes:
        for line in fill(printable(f"note: {note}"), _width(sys.stderr), "      "):
            tell(line)


def tell(line: str) -> None:
    """Print a line to stderr."""
    print(printable(line), file=sys.stderr, flush=True)


@contextlib.contextmanager
def printable_warnings() -> Iterator[None]:
    """Escape what libraries warn of until the block ends: their warnings quote names, too."""
    written = warnings.formatwarning
    warnings.formatwarning = lambda *said, **options: printable(written(*said, **options), keep="\n")
    try:
        yield
    finally:
        warnings.formatwarning = written


def _dumps(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


@contextlib.contextmanager
def keep_json(path: Path | None, *, sources: Iterable[str | None] = ()) -> Iterator[Callable[[T], T]]:
    """Yield a function that writes a result to `path` and returns it; keep what an error leaves, too.

    Where the block ends early, what had been found before is written, and the error's sentence says so.

    Args:
        path: The file; None writes none.
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
        if error.partial is not None and path is not None and error not in unwritten:
            keep(error.partial)
            error.args = (f"{error}; what was found so far is in {path}",)
        raise


def print_table(table: Table, *, every_row: bool = False) -> None:
    """Print a table as `nm2trt.tables` lays it out: as wide as the terminal, or as needed if there is none.

    Args:
        table: The table.
        every_row: Whether `--all` was given.
    """
    _write(lay_out(table, _width(), every_row=every_row).lines())


def show(result: Result, *, every_row: bool = False) -> None:
    """Print a result's tables, and its remarks below them."""
    for table in result.tables():
        print_table(table, every_row=every_row)
        print()
    for remark in result.remarks():
        say(remark)


def show_written(result: Any, *, every_row: bool = False, **known: str | None) -> None:
    """Print a result that wrote a model: its tables, whether the model can run sparse, and what comes next.

    Args:
        result: The result; its `output` is the file, its `verified`, if it has one, the verdicts on it.
        every_row: Whether `--all` was given.
        **known: What the command line says, as `next_step` takes it.
    """
    from nm2trt.pipeline.next_step import next_step

    show(result, every_row=every_row)
    step = next_step(result.output, getattr(result, "verified", None), **known)
    print_verdict(step.verdict, step.command, step.mark)


def set_verbosity(count: int) -> None:
    """Take the number of `-v` of this command."""
    global _verbosity
    _verbosity = count


def is_verbose() -> bool:
    """Tell whether `-v` was given."""
    return _verbosity > 0


def print_error(message: str) -> None:
    """Print an error's sentence on stderr, and with `-vv` the traceback of the error in hand before it."""
    if _verbosity >= 2:
        import traceback

        print(printable(traceback.format_exc(), keep="\n", whole=True), end="", file=sys.stderr)
    with contextlib.suppress(OSError):
        # A message may quote a file: no escape or bidi character of it reaches the terminal.
        tell(f"nm2trt: {' '.join(message.split())}")


def plain_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a small table whose rows all differ; the last column is wrapped if space is short."""
    print_table(small_table(headers, rows), every_row=True)


def say(sentence: str = "", mark: Mark = "", *, indent: str = "") -> None:
    """Print a sentence, wrapped between words on a terminal."""
    lines = fill(printable(sentence), _width(), indent) if sentence else [""]
    _write((line, mark) for line in lines)
    sys.stdout.flush()


def say_whole(sentence: str) -> None:
    """Print a sentence that holds a command to copy: it is never wrapped."""
    _write([(printable(sentence, whole=True), "")])


def print_same(line: str) -> None:
    """Print the command of another tool that does the same; "" prints nothing."""
    if line:
        _print_command("same as: ", line)


def print_verdict(verdict: str, command: str = "", mark: Mark = "") -> None:
    """Print how a command ends: the verdict, and the command to type next.

    Args:
        verdict: One sentence.
        command: The command; "" if there is none to recommend.
        mark: What the verdict says.
    """
    if verdict:
        room = (_width() or 1 << 20) - 9
        words = (shorten(word, room) for word in printable(verdict).split())
        say(f"verdict: {' '.join(words)}", mark, indent=" " * 9)
    if command:
        _print_command("next:    ", command)


def _print_command(label: str, command: str) -> None:
    """Print a command that can be copied as it stands: on a terminal its lines end with a backslash."""
    lines = shell_lines(f"{label}{printable(command, whole=True)}", _width(), " " * len(label))
    _write((line, "") for line in lines)


def _write(lines: Iterable[tuple[str, str]]) -> None:
    if not _coloured():
        for line, _ in lines:
            print(line)
        return
    # Only here: it takes longer to import than most commands take to run.
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    for line, mark in lines:
        console.print(Text(line, style=_STYLES.get(mark, "")))


def _coloured() -> bool:
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _width(stream: TextIO | None = None) -> int | None:
    shown = sys.stdout if stream is None else stream
    if not shown.isatty():
        return None
    import shutil  # only here: it takes time to import

    return max(shutil.get_terminal_size().columns, 20)
