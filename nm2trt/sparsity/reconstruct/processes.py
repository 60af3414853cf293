"""Processes of torch.distributed that share the samples of a reconstruction, each with a part of them.

Moments of a layer are summed over the processes, the first one solves, and all take its solution, so weights
stay equal to the last bit on any machines. Rows and samples are numbered over all processes in the order of
their ranks, so the rows drawn and the samples held out are those of one process with all samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from nm2trt.errors import DataError, Nm2trtError, SparsifyError, SparsityError
from nm2trt.nm.solver.kept_rows import KeptRows
from nm2trt.nm.solver.layer_moments import Moments, Sums
from nm2trt.nm.solver.layer_solver import LayerFit
from nm2trt.sparsity.core.distributed import among_processes

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that share the samples; on its own, nothing is exchanged.

    Args:
        first: Number of its first sample among all.
        samples: Samples of all processes.
        rank: Its number.
        count: How many processes there are.
    """

    first: int
    samples: int
    rank: int = 0
    count: int = 1

    @classmethod
    def of_group(cls) -> Processes:
        """Return this process among those of the default group; its samples are not known yet.

        Raises:
            SparsifyError: torch.distributed has no process group.
        """
        if not among_processes():
            raise SparsifyError(
                "distributed=True needs a process group; start the script with torchrun and call "
                "torch.distributed.init_process_group first"
            )
        return cls(0, 0, distributed.get_rank(), distributed.get_world_size())

    def gathered(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank; they are pickled."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def all_do(self, make: Callable[[], _T]) -> _T:
        """Return what this process makes, once all have made theirs.

        Raises:
            DataError: One of them failed; without this the others would wait for it.
            Exception: What this one raised.
        """
        made, failed = [], None
        try:
            made.append(make())
        except Exception as error:  # whatever it is, the others wait
            failed = error
        problems = self.gathered(None if failed is None else _words(failed))
        if failed is not None:
            raise failed
        for rank, problem in enumerate(problems):
            if problem is not None:
                raise DataError(f"process {rank} of {self.count} failed: {problem}")
        return made[0]

    def with_samples(self, samples: int, alike: dict[str, str]) -> Processes:
        """Return this process with its place among all samples.

        Args:
            samples: Samples of this process.
            alike: Facts that must be equal in all processes, by what they are called in a message.

        Raises:
            DataError: They differ.
        """
        found = self.gathered((samples, alike))
        for rank, (_, facts) in enumerate(found):
            for name, fact in facts.items():
                if fact != found[0][1][name]:
                    raise DataError(
                        f"process {rank} has other {name} than process 0; start all processes alike, with "
                        "parts of the same samples"
                    )
        counts = [count for count, _ in found]
        return replace(self, first=sum(counts[: self.rank]), samples=sum(counts))

    def place(self, count: int) -> tuple[int, int]:
        """Return where the rows of this process start among those of all, and how many all have."""
        counts = self.gathered(count)
        return sum(counts[: self.rank]), sum(counts)

    def joined(self, tensor: Tensor) -> Tensor:
        """Return the tensors of all processes, joined along the first dimension, on the CPU."""
        return torch.cat(self.gathered(tensor.cpu()))

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Return float64 tensors summed over all processes; shapes are equal in all of them."""
        if self.count == 1:
            return list(parts)
        sums = torch.cat([part.double().reshape(-1) for part in parts])
        distributed.all_reduce(sums)
        split = torch.split(sums, [part.numel() for part in parts])
        return [own.reshape(part.shape) for own, part in zip(split, parts, strict=True)]

    def summed_moments(self, own: Sums) -> Sums:
        """Return the sums over the rows of all processes, or their rows."""
        if self.count == 1:
            return own
        if isinstance(own, KeptRows):
            parts = (self.joined(part).to(part.device) for part in (own.inputs, own.outputs))
            return KeptRows(*parts)
        numbers = own.xx.new_tensor([own.yy, own.rows])
        xx, yx, x, y, numbers = self.summed((own.xx, own.yx, own.x, own.y, numbers))
        return Moments(xx, yx, x, y, float(numbers[0]), int(numbers[1]))

    def solved(self, solve: Callable[[], LayerFit], device: torch.device) -> LayerFit:
        """Return what the first process solves, in all processes.

        Raises:
            SparsityError: The first process found no solution.
            DataError: It failed otherwise, in the other processes.
            Exception: What `solve` raised, in the first one.
        """
        if self.count == 1:
            return solve()
        sent: list[Any] = [None, "", False]
        failed: Exception | None = None
        if self.rank == 0:
            try:
                sent[0] = _on(solve(), torch.device("cpu"))
            except Exception as error:  # whatever it is, the others wait
                failed = error
                sent = [None, _words(error), isinstance(error, SparsityError)]
        distributed.broadcast_object_list(sent)
        if failed is not None:
            raise failed
        fit, problem, is_unsolved = sent
        if problem:
            raise (
                SparsityError(problem)
                if is_unsolved
                else DataError(f"process 0 of {self.count} failed: {problem}")
            )
        return _on(fit, device)


def _words(error: Exception) -> str:
    """Return what an exception says; one of another library begins with its name."""
    return str(error) if isinstance(error, Nm2trtError) else f"{type(error).__name__}: {error}"


def _on(fit: LayerFit, device: torch.device) -> LayerFit:
    values = ((field.name, getattr(fit, field.name)) for field in fields(fit))
    moved: dict[str, Any] = {name: value.to(device) for name, value in values if isinstance(value, Tensor)}
    return replace(fit, **moved)
