"""Files of samples: a calibration recipe, Polygraphy's inputs, or an `.npz`."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from nm2trt.backends.protocol import TensorSpec
from nm2trt.validation.samples.npz import open_npz
from nm2trt.validation.samples.samples import ArraySamples, SampleBatch, Samples, batch_of, spec_of


class RecipeSamples:
    """The samples of a calibration recipe, prepared as they are needed; a `Samples`.

    Args:
        path: The YAML file.
        data_root: Folder that its paths are relative to and may not leave; its own by default.
        allow_functions: Run a source of kind `function`.

    Raises:
        InputError: The recipe or its source is missing or wrong.
        DataError: The samples are too few, or have another hash than the recipe says.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        data_root: str | os.PathLike[str] | None = None,
        allow_functions: bool = False,
    ) -> None:
        from nm2trt.calibration.recipe import open_recipe

        self._opened = open_recipe(path, data_root=data_root, allow_functions=allow_functions)
        first = self._opened.read(0, 1)
        self.inputs = tuple(spec_of(name, array.dtype, array.shape) for name, array in first.items())
        self.truth = () if self._opened.labels(0, 1) is None else ("labels",)
        if self._opened.recipe.sha256 is not None:
            self._opened.check_hash(self._sha256())

    def __len__(self) -> int:
        return len(self._opened)

    def batches(self, size: int, start: int = 0, stop: int | None = None) -> Iterator[SampleBatch]:
        """See `Samples.batches`."""
        last = len(self) if stop is None else stop
        for at in range(start, last, size):
            after = min(at + size, last)
            arrays = self._opened.read(at, after)
            labels = self._opened.labels(at, after)
            yield batch_of(at, arrays if labels is None else {**arrays, "labels": labels})

    def _sha256(self) -> str:
        """Return the hash that `SampleSet` has, one input after another, one batch at a time."""
        digest = hashlib.sha256()
        for spec in sorted(self.inputs, key=lambda spec: spec.name):
            for batch in self.batches(self._opened.recipe.batch):
                array = batch.inputs[spec.name]
                if batch.start == 0:
                    shape = (len(self), *array.shape[1:])
                    digest.update(f"{spec.name} {array.dtype.str} {shape}\n".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def open_samples(
    path: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
    inputs: Sequence[TensorSpec] = (),
) -> Samples:
    """Open samples by what the file is: a recipe (`.yaml`), Polygraphy's inputs (`.json`), or an `.npz`.

    Args:
        path: The file.
        data_root: Folder of a recipe's paths; its own by default.
        allow_functions: Run a recipe's source of kind `function`.
        inputs: Inputs of the model: arrays of an `.npz` may then have the batch on another axis, or be one
            value for all samples.

    Raises:
        InputError: The file is missing or wrong.
        DataError: Its samples do not fit together.
    """
    suffix = Path(path).suffix.lower()
    if suffix in (".yaml", ".yml"):
        return RecipeSamples(path, data_root=data_root, allow_functions=allow_functions)
    if suffix == ".json":
        from nm2trt.validation.samples.polygraphy_json import load_inputs

        return ArraySamples(load_inputs(path))
    return open_npz(path, inputs)
