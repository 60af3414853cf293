"""Progress bars on stderr, silent when it is no terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

__all__ = ["Bar", "bar", "track"]

T = TypeVar("T")


class Bar(Protocol):
    """One line that grows."""

    def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
        """Set how much is done, and optionally of how much and of what."""


class _SilentBar:
    def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
        pass


@contextlib.contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Bar]:
    """Show a bar until the block ends; `total=None` shows that work goes on without saying how much."""
    if not sys.stderr.isatty():
        yield _SilentBar()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total)

        class _RichBar:
            def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
                progress.update(task, completed=done, total=total, description=description)

        yield _RichBar()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how many have gone by."""
    with bar(description, total) as shown:
        for index, item in enumerate(items):
            shown.update(index)
            yield item
