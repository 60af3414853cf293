"""The layout of a table: equal rows grouped, reasons once, names cut at the front, words never broken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from nm2trt.tables.table import Column, Mark, Row, Table
from nm2trt.terminal_text import display_width, fill, padded, printable, shorten, wrapped

_WORST = ("bad", "no", "doubt", "good", "")
_GAP = 2
_NAME, _LEAST_NAME, _LEAST_TEXT = 30, 10, 8
_MOST_REASONS = 8
# A number, or a list of them, with the plural that follows a count: reasons that differ in these are one.
_NUMBERS = re.compile(r"\[[0-9, ]*\]|[0-9][0-9,]*(?:\.[0-9]+)?(?P<noun> [a-z]+?)?(?(noun)s?\b)")


@dataclass(frozen=True, slots=True)
class Layout:
    """A table ready to be written.

    Args:
        title: A line above, or "".
        headers: Lines of each header.
        rows: Lines of each cell, by row.
        marks: The mark of each row.
        widths: Width of each column.
        right: Whether a column stands to the right.
        notes: Lines below: folded columns, reasons, rows left out.
    """

    title: str
    headers: tuple[tuple[str, ...], ...]
    rows: tuple[tuple[tuple[str, ...], ...], ...]
    marks: tuple[Mark, ...]
    widths: tuple[int, ...]
    right: tuple[bool, ...]
    notes: tuple[str, ...] = field(default=())

    def lines(self) -> Iterator[tuple[str, Mark | Literal["title", "header", "note"]]]:
        """Yield each line with what it is."""
        if self.title:
            yield self.title, "title"
        if self.widths:
            for line in self._lines(self.headers):
                yield line, "header"
            for cells, mark in zip(self.rows, self.marks, strict=True):
                for line in self._lines(cells):
                    yield line, mark
        for line in self.notes:
            yield line, "note"

    def _lines(self, cells: tuple[tuple[str, ...], ...]) -> Iterator[str]:
        for number in range(max(map(len, cells))):
            parts = (cell[number] if number < len(cell) else "" for cell in cells)
            fitted = (
                padded(part, width, right=right)
                for part, width, right in zip(parts, self.widths, self.right, strict=True)
            )
            yield (" " * _GAP).join(fitted).rstrip()


def lay_out(table: Table, width: int | None = None, *, every_row: bool = False) -> Layout:
    """Group a table's rows, number its reasons and give its columns their widths.

    Args:
        table: The table.
        width: Columns that there are; None for as many as it takes.
        every_row: Group nothing, leave no row out, and write every sentence.
    """
    table = _escaped(table)
    reasons, table = _numbered(table, every_row)
    notes: list[str] = []
    if not every_row:
        table, notes = _folded(table)
        table = _grouped(table)
        table, left_out = _capped(table)
        notes += left_out
    columns, cells, widths = _fitted(table, width)
    below = [*((note, "") for note in notes), *reasons]
    return Layout(
        title=table.title,
        headers=tuple(tuple(wrapped(c.header, w)) for c, w in zip(columns, widths, strict=True)),
        rows=tuple(
            tuple(_cell(c, x, w) for c, x, w in zip(columns, row, widths, strict=True)) for row in cells
        ),
        marks=tuple(row.mark for row in table.rows),
        widths=tuple(widths),
        right=tuple(column.kind == "number" for column in columns),
        notes=tuple(line for note, indent in below for line in fill(note, width, indent)),
    )


def _escaped(table: Table) -> Table:
    rows = (
        replace(row, cells=tuple(map(printable, row.cells)), why=printable(" ".join(row.why.split())))
        for row in table.rows
    )
    columns = tuple(replace(column, header=printable(column.header)) for column in table.columns)
    return replace(table, columns=columns, rows=tuple(rows), title=printable(table.title))


def _numbered(table: Table, every_row: bool) -> tuple[list[tuple[str, str]], Table]:
    """Return the reasons, each with the indent of its further lines, and the table with their numbers."""
    found: dict[str, list[Row]] = {}
    keys = [row.why if every_row else _NUMBERS.sub(r"#\g<noun>", row.why) for row in table.rows]
    for key, row in zip(keys, table.rows, strict=True):
        if key:
            found.setdefault(key, []).append(row)
    if not found:
        return [], table
    numbers = {key: str(number) for number, key in enumerate(found, start=1)}
    names = [i for i, column in enumerate(table.columns) if column.kind == "name"]
    reasons = []
    for key, rows in list(found.items())[: None if every_row else _MOST_REASONS]:
        alike = len({row.why for row in rows}) == 1
        of = "" if alike or not names else f"{shorten(rows[0].cells[names[0]], 40)}: "
        count = f" ({len(rows)} {table.noun})" if len(rows) > 1 else ""
        reasons.append((f"{numbers[key]:>2}  {of}{rows[0].why}{count}", "    "))
    if not every_row and len(found) > _MOST_REASONS:
        reasons.append((f"    and {len(found) - _MOST_REASONS} more reasons; --all shows them", "    "))
    numbered = (
        replace(row, cells=(*row.cells, numbers.get(key, "")))
        for key, row in zip(keys, table.rows, strict=True)
    )
    return reasons, replace(table, columns=(*table.columns, Column("why", "number")), rows=tuple(numbered))


def _grouped(table: Table) -> Table:
    """Merge rows that differ in their names only."""
    if table.apart or not any(column.kind == "name" for column in table.columns):
        return table
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in table.rows:
        key = tuple(c for c, column in zip(row.cells, table.columns, strict=True) if column.kind != "name")
        found.setdefault(key, []).append(row)
    if len(found) == len(table.rows):
        return table
    place = next(i for i, column in enumerate(table.columns) if column.kind == "name") + 1
    rows = tuple(
        replace(
            same[0],
            cells=(
                *same[0].cells[:place],
                f"+{len(same) - 1}" if len(same) > 1 else "",
                *same[0].cells[place:],
            ),
            more=len(same) - 1,
        )
        for same in found.values()
    )
    return replace(table, columns=(*table.columns[:place], Column(""), *table.columns[place:]), rows=rows)


def _folded(table: Table) -> tuple[Table, list[str]]:
    """Take out the columns in which every row says the same, and return what they say."""
    said: dict[str, list[str]] = {}
    keep = []
    for index, column in enumerate(table.columns):
        values = {row.cells[index] for row in table.rows}
        if column.fold and len(values - {"-"}) <= 1 and len(table.rows) > 1:
            said.setdefault(next(iter(values - {"-"}), "-"), []).append(column.header)
        else:
            keep.append(index)
    rows = tuple(replace(row, cells=tuple(row.cells[i] for i in keep)) for row in table.rows)
    notes = [f"{', '.join(headers)}: {value}" for value, headers in said.items() if value != "-"]
    return replace(table, columns=tuple(table.columns[i] for i in keep), rows=rows), notes


def _capped(table: Table) -> tuple[Table, list[str]]:
    """Leave out the least telling of very many rows, and say so."""
    order = sorted(range(len(table.rows)), key=lambda i: (_WORST.index(table.rows[i].mark), i))
    shown, left_out = sorted(order[: table.most]), order[table.most :]
    rows = tuple(table.rows[i] for i in shown)
    told = []
    if any(row.more for row in rows):
        told.append(f"+N: N more {table.noun} with the same row")
    if left_out:
        told.append(f"and {sum(1 + table.rows[i].more for i in left_out)} more {table.noun}")
    return replace(table, rows=rows), [f"{'; '.join(told)}; --all shows every row"] if told else []


def _fitted(table: Table, width: int | None) -> tuple[list[Column], list[list[str]], list[int]]:
    """Return the columns that fit, their cells and their widths."""
    keep = list(range(len(table.columns)))
    while True:
        columns = [table.columns[i] for i in keep]
        cells = [[row.cells[i] for i in keep] for row in table.rows]
        widths = [_natural(c, [row[i] for row in cells], width) for i, c in enumerate(columns)]
        room = None if width is None else width - _GAP * (len(widths) - 1)
        if room is None or _squeeze(columns, widths, room, names=_NAME, texts=None):
            return columns, cells, _widened(columns, widths, room)
        ranked = [i for i in keep if table.columns[i].rank]
        if not ranked:
            break
        keep.remove(max(ranked, key=lambda i: table.columns[i].rank))
    _squeeze(columns, widths, room, names=_LEAST_NAME, texts=_LEAST_TEXT)
    return columns, cells, widths


def _natural(column: Column, cells: Iterable[str], width: int | None) -> int:
    """Return a column's natural width: on a terminal a header may take several lines, a cell not."""
    whole = width is None or column.kind == "name"
    words = [column.header] if whole else column.header.split()
    return max((display_width(part) for part in (*cells, *words)), default=0)


def _widened(columns: Sequence[Column], widths: Sequence[int], room: int | None) -> list[int]:
    """Give headers that take several lines one line each, from the left, as far as there is room."""
    wide = list(widths)
    for index, column in enumerate(columns):
        missing = display_width(column.header) - wide[index]
        if column.kind != "name" and missing > 0 and (room is None or sum(wide) + missing <= room):
            wide[index] += missing
    return wide


def _squeeze(
    columns: Sequence[Column], widths: list[int], room: int, *, names: int, texts: int | None
) -> bool:
    """Narrow names, then texts, until they fit; the widest gives first. Return whether they do."""
    least = {"name": names, "text": texts}
    while sum(widths) > room:
        can = [
            i
            for i, column in enumerate(columns)
            if (floor := least.get(column.kind)) is not None and widths[i] > max(floor, _longest_word(column))
        ]
        if not can:
            return False
        widths[max(can, key=lambda i: widths[i])] -= 1
    return True


def _longest_word(column: Column) -> int:
    return max(map(display_width, column.header.split()), default=0)


def _cell(column: Column, cell: str, width: int) -> tuple[str, ...]:
    if column.kind == "text":
        return tuple(shorten(line, width) for line in wrapped(cell, width))
    return (shorten(cell, width),)
