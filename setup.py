"""Add the long description to the metadata of setup.cfg: README, whose links to files become paths.

An index shows the README without the files beside it, so a relative link would lead nowhere there.
"""

import re
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


def long_description(readme: str) -> str:
    """Return README with each relative link as its words and the file's path in the source distribution."""
    text = RELATIVE_LINK.sub(r"\1 (`\2`)", readme)
    return f"{text}\nPaths such as `docs/tutorial.md` lie in the source distribution.\n"


class BuildWithSamples(build_py):
    """Put the samples into the package of a wheel, for `nm2trt samples`; a checkout has them beside it."""

    def run(self):
        """Build as ever, then copy."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "nm2trt", "_samples")
            for path in sorted((ROOT / "samples").rglob("*")):
                place = path.relative_to(ROOT / "samples")
                if path.is_file() and path.suffix != ".pyc" and place.parts[0][:2].isdigit():
                    self.mkpath(str(target / place.parent))
                    self.copy_file(str(path), str(target / place))


if __name__ == "__main__":
    setup(
        cmdclass={"build_py": BuildWithSamples},
        long_description=long_description(Path(__file__).with_name("README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
    )
