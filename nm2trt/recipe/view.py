"""View of a run as it goes."""

from __future__ import annotations


class View:
    """Told of every stage as it starts and ends; this one tells nobody."""

    def started(self, name: str) -> None:
        """Take note that a stage works."""

    def ended(self, name: str, status: str, seconds: float, sentence: str) -> None:
        """Take note of how it ended: "done", "cached" or "failed"."""
