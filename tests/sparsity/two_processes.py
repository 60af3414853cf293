"""Two processes in a gloo group, forked, so that they share the imported torch: a second instead of ten."""

import time

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

WORLD = 2


def _joined(rank, work, arguments, meeting):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=WORLD)
    torch.set_num_threads(1)
    work(rank, *arguments)
    dist.barrier()
    dist.destroy_process_group()


def run_two(work, arguments, folder):
    """Call `work(rank, *arguments)` in both; they meet by a file, as a free port may be taken by then."""
    meeting = folder / "meeting"
    processes = mp.start_processes(
        _joined, (work, arguments, meeting), nprocs=WORLD, join=False, start_method="fork"
    )
    try:
        deadline = time.monotonic() + 300
        while not processes.join(timeout=1):  # True once both have ended; raises if one failed
            assert time.monotonic() < deadline, "two processes did not end within 300 s"
    finally:
        for process in processes.processes:
            process.kill()
