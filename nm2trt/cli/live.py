"""The stages of a run as they happen, on stderr."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nm2trt import progress
from nm2trt.cli.output import tell
from nm2trt.recipe.view import View
from nm2trt.terminal_text import printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_MARKS = {"done": "✓", "cached": "=", "failed": "✗"}
_COLOURS = {"done": "green", "cached": "bright_black", "failed": "red", "running": "cyan"}


class LineView(View):
    """One line per stage, for a stderr that is not a terminal."""

    def ended(self, name: str, status: str, seconds: float, sentence: str) -> None:
        """Write the line."""
        word = "cached" if status == "cached" else f"{seconds:.1f} s"
        line = f"{_MARKS.get(status, ' ')} {name:12} {word:>8}  {sentence}"
        tell(line)


@contextlib.contextmanager
def live_view(names: Sequence[str]) -> Iterator[View]:
    """Show all stages of a run until the block ends; bars of the stages themselves appear below them."""
    if not sys.stderr.isatty():
        yield LineView()
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(*_columns(), console=Console(stderr=True)) as shown, progress.hosted(shown):
        yield _Table(shown, names)


class _Table(View):
    def __init__(self, shown: Progress, names: Sequence[str]) -> None:
        self._shown = shown
        self._tasks: dict[str, TaskID] = {
            name: shown.add_task(name, start=False, total=None, status="", sentence="") for name in names
        }

    def started(self, name: str) -> None:
        self._shown.start_task(self._tasks[name])
        self._shown.update(self._tasks[name], status="running")

    def ended(self, name: str, status: str, seconds: float, sentence: str) -> None:  # noqa: ARG002 - View's
        task = self._tasks[name]
        if status == "cached":
            self._shown.start_task(task)
        self._shown.update(task, status=status, sentence=printable(sentence), total=1, completed=1)
        self._shown.stop_task(task)


def _columns() -> list[Any]:
    from rich.progress import ProgressColumn, SpinnerColumn, Task
    from rich.text import Text

    spinner = SpinnerColumn()

    class Mark(ProgressColumn):
        max_refresh = None

        def render(self, task: Task) -> Any:
            status = task.fields.get("status")
            if status == "running":
                return spinner.render(task)
            return Text(_MARKS.get(status or "", " "), style=_COLOURS.get(status or "", ""))

    class Name(ProgressColumn):
        def render(self, task: Task) -> Text:
            inner = "status" not in task.fields
            return Text(("  " if inner else "") + task.description, style="dim" if inner else "bold")

    class Time(ProgressColumn):
        def render(self, task: Task) -> Text:
            if task.fields.get("status") in ("", "cached", None):
                share = f"{task.percentage:.0f} %" if task.total and task.fields.get("status") is None else ""
                return Text(share, style="dim")
            return Text(f"{task.elapsed or 0.0:.1f} s")

    class Sentence(ProgressColumn):
        def render(self, task: Task) -> Text:
            status = task.fields.get("status") or ""
            return Text(
                task.fields.get("sentence", ""), style=_COLOURS.get(status, "") if status == "failed" else ""
            )

    return [Mark(), Name(), Time(), Sentence()]
