"""Shared by all tests."""

import os

# Two test processes on a small machine: more threads than cores only make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
