"""The run folders and the browser lie beside the tests; one browser serves them all."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def browser():
    """Give a page of headless Chromium; on a machine of continuous integration it must be there."""
    import os

    from browser import CHROMIUM, Browser

    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; .ci/run installs it: apt-get install chromium")
        pytest.skip("chromium is not installed")
    with Browser() as opened:
        yield opened
