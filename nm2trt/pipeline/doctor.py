"""The libraries and GPUs of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.engine.machine import MachineReport


def doctor() -> MachineReport:
    """Say which libraries and GPUs are here."""
    from nm2trt.engine.machine import survey

    return survey()
