"""Shared by all tests."""

import os
import sys

import pytest

# Two test processes on a small machine: more threads than cores only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

try:
    from hypothesis import settings
except ImportError:
    pass
else:
    # The same examples every time: a gate that fails by chance teaches people to try again.
    settings.register_profile("fixed", derandomize=True, deadline=None)
    settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seeded():
    """Start every test at one point of torch's global generator, where torch is loaded."""
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)
