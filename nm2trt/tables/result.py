"""A table as text and as HTML, and `Result`, whose tables a terminal and a notebook show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nm2trt.json_value import JsonValue
from nm2trt.tables.layout import lay_out
from nm2trt.tables.table import Table
from nm2trt.terminal_text import printable

_LONGEST_REPR = 1900


def text(table: Table, width: int | None = None, *, every_row: bool = False) -> str:
    """Return a table as plain text, without a line feed at its end."""
    return "\n".join(line for line, _ in lay_out(table, width, every_row=every_row).lines())


def html(table: Table) -> str:
    """Return a table as HTML, for a notebook."""
    from html import escape  # only here: it takes time to import

    laid = lay_out(table)
    head = "".join(f"<th>{escape(' '.join(header))}</th>" for header in laid.headers)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(' '.join(cell))}</td>" for cell in row) + "</tr>" for row in laid.rows
    )
    title = f"<caption>{escape(laid.title)}</caption>" if laid.title else ""
    notes = "".join(f"<div>{escape(note)}</div>" for note in laid.notes)
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


class Result(JsonValue):
    """A result that prints as a short table, in a terminal and in a notebook."""

    __slots__ = ()

    def tables(self) -> Sequence[Table]:
        """Return what is shown of the result."""
        return ()

    def remarks(self) -> Sequence[str]:
        """Return the lines below the tables, the verdict last."""
        return ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain values, those of `--json`."""
        return self.to_json()

    def __str__(self) -> str:
        return "\n".join([*(text(table, 110) for table in self.tables()), *map(printable, self.remarks())])

    def __repr__(self) -> str:
        lines = str(self)
        if len(lines) > _LONGEST_REPR:
            lines = f"{lines[:_LONGEST_REPR].rsplit(chr(10), 1)[0]}\n... print() shows all of it"
        return f"<{type(self).__name__}>\n{lines}"

    def _repr_html_(self) -> str:
        from html import escape

        lines = "".join(f"<div>{escape(printable(line))}</div>" for line in self.remarks())
        return "".join(map(html, self.tables())) + lines
