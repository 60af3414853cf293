"""One browser for all tests of the page."""

import pytest


@pytest.fixture(scope="session")
def browser():
    """Give a page of headless Chromium; on a machine of continuous integration it must be there."""
    import os

    from tests.reporting.browser import CHROMIUM, Browser

    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("chromium is not installed; .ci/run installs it: apt-get install chromium")
        pytest.skip("chromium is not installed")
    with Browser() as opened:
        yield opened
