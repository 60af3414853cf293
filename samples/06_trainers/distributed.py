"""Two processes on one machine's CPU, by DDP or FSDP2: a small CNN on handwritten digits, 2:4 by SR-STE.

    torchrun --standalone --nproc-per-node 2 samples/06_trainers/distributed.py [--fsdp]

Each process sees its own half of every batch; masks are the same on all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn

import nm2trt

BATCH = 64


class SmallCNN(nn.Sequential):
    def __init__(self) -> None:
        def block(inputs: int, outputs: int, stride: int) -> tuple[nn.Module, ...]:
            return nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(8, outputs), nn.ReLU()

        super().__init__(
            *block(1, 32, 1),
            *block(32, 64, 2),
            *block(64, 64, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, 10),
        )


def digits() -> tuple[Tensor, Tensor]:
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    return torch.tensor(images[order] / 8 - 1, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(
        labels[order]
    )


def wrapped(model: nn.Module, *, fsdp: bool) -> nn.Module:
    if not fsdp:
        return nn.parallel.DistributedDataParallel(model)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (dist.get_world_size(),)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fsdp", action="store_true", help="shard the parameters (FSDP2) instead of DDP")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("results", "06_distributed"))
    options = parser.parse_args()
    dist.init_process_group("gloo")  # where to meet stands in the environment that torchrun sets
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, labels = digits()
    train, test = slice(1400), slice(1400, None)

    model = SmallCNN()
    steps = options.epochs * (1400 // BATCH)
    sparse = nm2trt.sparsify(model, method="sr-ste", pattern="2:4", total_steps=steps)  # before it is wrapped
    parallel = wrapped(model, fsdp=options.fsdp)
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    sparse.attach(optimizer)
    order = torch.Generator().manual_seed(0)
    for _ in range(options.epochs):
        for picked in torch.randperm(1400, generator=order).split(BATCH)[: 1400 // BATCH]:
            mine = picked[rank::world]
            nn.functional.cross_entropy(parallel(images[train][mine]), labels[train][mine]).backward()
            optimizer.step()
            optimizer.zero_grad()
    finished = sparse.finalize()  # on every process; the sharded weights are gathered to a plain model
    if rank == 0:
        with torch.no_grad():
            right = (finished.eval()(images[test]).argmax(1) == labels[test]).float().mean()
        kind = "FSDP2" if options.fsdp else "DDP"
        print(
            f"{kind}, {world} processes, {sparse.step} steps: {right:.2%} of {len(labels[test])} test images"
        )
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / f"{kind.lower()}.onnx"
        nm2trt.export(finished, images[:2], path)
        held = [weight.pattern for weight in nm2trt.verify(path).weights]
        print(f"{path}: {held.count('holds')} weights hold 2:4, {held.count('broken')} are broken")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
