"""Add the long description to the metadata of setup.cfg: README, whose links to files become paths.

An index shows the README without the files beside it, so a relative link would lead nowhere there.
"""

import re
from pathlib import Path

from setuptools import setup

RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


def long_description(readme: str) -> str:
    """Return README with each relative link as its words and the file's path in the source distribution."""
    text = RELATIVE_LINK.sub(r"\1 (`\2`)", readme)
    return f"{text}\nPaths such as `docs/tutorial.md` lie in the source distribution.\n"


if __name__ == "__main__":
    setup(
        long_description=long_description(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
