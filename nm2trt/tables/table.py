"""A table as data: columns, rows, and what each row says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

# What a row says: "bad" is broken or failed, "no" cannot, "doubt" differs or is not known, "good" passed.
Mark = Literal["", "bad", "no", "doubt", "good"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        header: Its header.
        kind: "name" is cut at the front if space is short, "text" is wrapped between words, "fixed" keeps
            its width, "number" too and stands to the right.
        rank: Columns of a higher rank are left out first if space is short; 0 always stays.
        fold: Whether one line below replaces the column if every row says the same.
    """

    header: str
    kind: Literal["name", "text", "fixed", "number"] = "fixed"
    rank: int = 0
    fold: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Args:
        cells: One text per column.
        mark: What the row says, which gives its colour.
        why: The reason in words; it stands below the table, once. Rows whose reasons differ in numbers only
            share that of the first.
        more: Equal rows that this one stands for.
    """

    cells: tuple[str, ...]
    mark: Mark = ""
    why: str = ""
    more: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows, as data: cells may hold anything a file holds, and are escaped when written.

    Args:
        columns: The columns; rows that differ in "name" columns only are grouped.
        rows: The rows.
        title: A line above; "" for none.
        noun: What a row is, in the plural.
        apart: Whether each row stands for itself: none are grouped.
        most: Rows that are shown without `--all`: the worst, then the first.
    """

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    title: str = ""
    noun: str = "weights"
    apart: bool = False
    most: int = 40


def small_table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> Table:
    """Return a table whose rows all differ; the last column is wrapped if space is short."""
    last = len(headers) - 1
    columns = tuple(Column(header, "text" if i == last else "fixed") for i, header in enumerate(headers))
    return Table(columns, tuple(Row(tuple(row)) for row in rows), title, noun="rows")
