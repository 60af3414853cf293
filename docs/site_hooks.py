"""Hooks of the site's generator: a link to a file beside docs/ becomes its path, as the site lacks it."""

from __future__ import annotations

import posixpath
import re
from typing import Any

_LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the links of a page that leave docs/; the generator calls it for each page."""
    folder = posixpath.dirname(page.file.src_uri)

    def as_path(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", folder, match[2]))
        return match[0] if target.startswith("docs/") else f"{match[1]} (`{target}`)"

    return _LINK.sub(as_path, markdown)
