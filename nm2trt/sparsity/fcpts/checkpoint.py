"""Checkpoints of a post-training run: one safetensors file, tied to what the run depends on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nm2trt.errors import SparsifyError
from nm2trt.files import atomic_path, check_output


class Checkpoint:
    """Where a stopped run goes on from.

    Args:
        path: The file; it appears with the first save and is removed by `done`.
        fingerprint: What the run depends on: options, weights and calibration samples. A file with another
            one is not used.
        every: Steps between two saves.

    Attributes:
        resumed_at: Steps that an earlier run had taken.
        notes: JSON values saved along, e.g. what an earlier phase decided.

    Raises:
        OutputError: The file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], fingerprint: str, every: int) -> None:
        self.path = check_output(path)
        self.fingerprint = fingerprint
        self.every = every
        self.resumed_at = 0
        self.notes: dict[str, Any] = {}

    def notes_of(self, phase: str) -> dict[str, Any] | None:
        """Return the notes saved with a phase, or None if the file is of no or another phase.

        Raises:
            SparsifyError: The file is damaged, or another run's.
        """
        if not self.path.is_file():
            return None
        note, _ = self._read(with_tensors=False)
        notes: dict[str, Any] = note["notes"]
        return notes if note["phase"] == phase else None

    def restore(self, phase: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Load what was saved in `phase`, and return the steps taken in it; 0 if nothing was.

        Raises:
            SparsifyError: The file is damaged, or another run's.
        """
        if not self.path.is_file():
            return 0
        note, tensors = self._read()
        if note["phase"] != phase:
            return 0
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                tensor.copy_(tensors[f"model.{name}"])
        for index, parameter in enumerate(_parameters(optimizer)):
            if f"momentum.{index}" in tensors:
                kept = tensors[f"momentum.{index}"].to(parameter.device)
                optimizer.state[parameter] = {"momentum_buffer": kept}
        self.resumed_at = int(note["step"])
        return self.resumed_at

    def maybe_save(
        self, phase: str, step: int, steps: int, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> None:
        """Save when it is time, the last step of the phase included."""
        if step % self.every and step != steps:
            return
        tensors = {f"model.{name}": tensor for name, tensor in _tensors(model).items()}
        for index, parameter in enumerate(_parameters(optimizer)):
            buffer = optimizer.state.get(parameter, {}).get("momentum_buffer")
            if buffer is not None:
                tensors[f"momentum.{index}"] = buffer
        note = json.dumps(
            {"fingerprint": self.fingerprint, "phase": phase, "step": step, "notes": self.notes}
        )
        with atomic_path(self.path) as temporary:
            # Cloned: safetensors refuses tensors that share memory.
            plain = {key: value.detach().cpu().clone().contiguous() for key, value in tensors.items()}
            save_file(plain, temporary, {"nm2trt": note})

    def done(self) -> None:
        """Remove the file: the result is about to be kept elsewhere."""
        Path(self.path).unlink(missing_ok=True)

    def _read(self, *, with_tensors: bool = True) -> tuple[dict[str, Any], dict[str, Tensor]]:
        try:
            with safe_open(self.path, framework="pt") as file:
                note: dict[str, Any] = json.loads((file.metadata() or {})["nm2trt"])
                if note["fingerprint"] != self.fingerprint:
                    raise SparsifyError(
                        f"{self.path} is of a run with other options, weights or samples; delete it, or name "
                        "another checkpoint"
                    )
                keys = file.keys() if with_tensors else ()
                return note, {key: file.get_tensor(key) for key in keys}
        except (SafetensorError, KeyError, TypeError, OSError, json.JSONDecodeError) as error:
            raise SparsifyError(f"{self.path} is not a sound checkpoint; delete it to start again") from error


def _tensors(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
