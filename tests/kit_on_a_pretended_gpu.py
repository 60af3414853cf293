"""Run a script of `tools/gpu` where it thinks of a GPU: python -m tests.kit_on_a_pretended_gpu SCRIPT [WORD ...]."""

import runpy
import sys
from unittest import mock

import torch

from tests.sparsity.pretended_gpu import pretended

NOTHING = ("_sleep", "synchronize", "reset_peak_memory_stats", "empty_cache")
MEMORY = ("memory_allocated", "max_memory_allocated")


class Event:
    """Times that go up by one with every event."""

    now = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.now += 1
        self.at = Event.now

    def query(self):
        return False

    def elapsed_time(self, other):
        return other.at - self.at


def main():
    sys.argv = sys.argv[1:]
    doubles = {**dict.fromkeys(NOTHING, lambda *_: None), **dict.fromkeys(MEMORY, lambda: 1 << 20)}
    doubles |= {"Event": Event, "get_device_name": lambda: "Pretended GPU"}
    with pretended(), mock.patch.multiple(torch.cuda, **doubles):
        runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
