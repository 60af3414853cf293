"""Two processes in a gloo group, forked, so that they share the imported torch: a second instead of ten."""

import faulthandler
import importlib

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


LIMIT = 200  # seconds, after which a process says on stderr where it stands, and ends


def _joined(rank, work, arguments, meeting):
    faulthandler.dump_traceback_later(LIMIT, exit=True, file=2)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def run_two(work, arguments, folder):
    """Call `work(rank, *arguments)` in both; they meet by a file, as a free port may be taken by then.

    No thread of the test process may use torch meanwhile: a child that is forked while a thread holds the lock
    of torch's generator waits for it in manual_seed, and the other child for that one in its first collective.
    """
    importlib.import_module("torch._dynamo")  # both would, a second each
    meeting = folder / "meeting"
    mp.start_processes(_joined, (work, arguments, meeting), nprocs=WORLD, start_method="fork")
