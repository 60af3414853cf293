"""Options of reconstruction on torch modules, and its weight; `reconstruct.session` is the method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nm2trt.errors import SparsifyError
from nm2trt.sparsity.methods.fixed_mask import FixedMaskWeight


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """Options of reconstruction on torch modules.

    Args:
        calibration: Unlabelled input: any iterable of batches, a DataLoader, or the path of a recipe.
        max_samples: Stop reading calibration there, in each process. All its samples run in one call of the
            model.
        seed: Of the rows that are drawn if a layer has more than are needed.
        valid: Name of the calibration input that is not 0 at real tokens, such as an attention mask: rows are
            drawn from those. None draws from all.
        distributed: Whether `calibration` is this process's part of the samples: moments are summed over the
            processes of torch.distributed's default group, all of which call `sparsify` alike and end with
            the same weights.

    Raises:
        SparsifyError: A value is out of range.
    """

    calibration: Any = None
    max_samples: int = 256
    seed: int = 0
    valid: str | None = None
    distributed: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.max_samples, int) or self.max_samples < 2:
            raise SparsifyError(f"max_samples must be a whole number of at least 2, not {self.max_samples!r}")


class RebuiltWeight(FixedMaskWeight):
    """An N:M weight with the mask that the solver chose."""

    nm2trt_method: ClassVar[str] = "reconstruct"
    options: RebuildOptions
