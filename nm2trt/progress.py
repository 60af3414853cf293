"""Progress bars on stderr, silent unless it is a terminal."""

from __future__ import annotations

import contextlib
import contextvars
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

from nm2trt.terminal_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")

# How the name of a thread begins in which a library works that Python cannot stop.
BUILDER_THREAD = "nm2trt-builder"

# Two live displays would paint over each other: within `hosted`, bars become lines of the one that is there.
_HOST: contextvars.ContextVar[Progress | None] = contextvars.ContextVar("progress_host", default=None)


class Bar(Protocol):
    """One line that grows."""

    def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
        """Set how much is done, and optionally of how much and of what."""


class _SilentBar:
    def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
        pass


@contextlib.contextmanager
def hosted(progress: Progress) -> Iterator[None]:
    """Let bars appear in a display that is shown already, until the block ends."""
    token = _HOST.set(progress)
    try:
        yield
    finally:
        _HOST.reset(token)


@contextlib.contextmanager
def bar(description: str, total: float | None = None) -> Iterator[Bar]:
    """Show a bar until the block ends; `total=None` shows that work goes on without saying how much."""
    host = _HOST.get()
    if host is None and not sys.stderr.isatty():
        yield _SilentBar()
        return
    with _display() if host is None else contextlib.nullcontext(host) as progress:
        task = progress.add_task(printable(description), total=total)

        class _RichBar:
            def update(self, done: float, total: float | None = None, description: str | None = None) -> None:
                told = None if description is None else printable(description)
                progress.update(task, completed=done, total=total, description=told)

        try:
            yield _RichBar()
        finally:
            if host is not None:
                host.remove_task(task)


def _display() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
    )
    return Progress(*columns, console=Console(stderr=True), transient=True)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items`, showing how many have gone by."""
    with bar(description, total) as shown:
        for index, item in enumerate(items):
            shown.update(index)
            yield item
