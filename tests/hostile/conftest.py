"""Sound files of every kind that commands read, made once."""

import pytest

from tests.hostile import fuzz


@pytest.fixture(scope="session")
def fuzzer():
    pytest.importorskip("tensorrt_rtx")
    with fuzz.started() as made:
        yield made
