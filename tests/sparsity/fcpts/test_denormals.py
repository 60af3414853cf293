"""Denormal numbers are zero in every thread that torch computes with, and only inside the block."""

import torch

from nm2trt.sparsity.fcpts.denormals import denormals_flushed


def kept(tensor):
    return int((tensor * 1e-3).count_nonzero())


def test_flag_reaches_threads_that_run_already_and_leaves_them():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        smallest = torch.full((1_000_000,), 1e-37)
        assert kept(smallest) == len(smallest)
        with denormals_flushed():
            assert kept(smallest) == 0
        assert kept(smallest) == len(smallest)
    finally:
        torch.set_num_threads(threads)


def test_a_flag_that_was_set_stays_set():
    torch.set_flush_denormal(True)
    try:
        with denormals_flushed():
            pass
        assert kept(torch.full((10,), 1e-37)) == 0
    finally:
        torch.set_flush_denormal(False)
