"""Cache of solved layers: a run that was stopped goes on from there, and ends in the same bytes.

The folder holds one folder per task. Its name is a hash over the model, the samples, the options, the grid of
a joint solve and the versions, so that a result is taken only if it would come out again: also over the
thread count, if numpy computes with another library than OpenBLAS.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

import nm2trt
from nm2trt.arrays import Array, Arrays
from nm2trt.backends.ort import OrtBackend
from nm2trt.calibration.array_files import UNSOUND_CONTENT, read_archive
from nm2trt.errors import OutputError
from nm2trt.file_replacement import make_output_folder
from nm2trt.files import check_input, write_atomic
from nm2trt.graph.reconstruct.activation_grid import IntegerGrid
from nm2trt.graph.reconstruct.report import RebuiltLayer, ReconstructOptions
from nm2trt.graph.storage.model_hash import model_sha256
from nm2trt.nm.solver.array_namespace import thread_count_counts

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True, eq=False)
class SolvedLayer:
    """The result for one layer.

    Args:
        row: What the report says.
        weights: New numbers by name of the stored tensor; empty if the layer was left as it was.
        step: Scale of each output's integers, float64 (outputs,); None if the weight is not rounded.
    """

    row: RebuiltLayer
    weights: Arrays
    step: Array | None = None


class LayerCache:
    """Solved layers of one task in a folder.

    Args:
        folder: Folder of the cache; it is made if it is missing.
        source: The model that is pruned, BatchNorms folded and channels permuted.
        samples_sha256: Hash of the samples.
        options: How the layers are solved.
        dense: Weights that are not pruned.
        kept: Weights that are left as they are.
        grid: What computes in INT8; None for a solve in float.

    Raises:
        OutputError: The folder cannot be made.
    """

    def __init__(
        self,
        folder: Path,
        source: Path,
        samples_sha256: str,
        options: ReconstructOptions,
        dense: Mapping[str, str],
        kept: Mapping[str, str],
        grid: IntegerGrid | None = None,
    ) -> None:
        task = {
            "model": model_sha256(source),
            "samples": samples_sha256,
            "options": [str(options.pattern), options.valid, options.seed],
            "dense": sorted(dense),
            "kept": sorted(kept),
            "versions": [nm2trt.__version__, np.__version__, OrtBackend().version],
        }
        if grid is not None:
            task["grid"] = grid.facts()
        if thread_count_counts():
            threads = [len(os.sched_getaffinity(0)), *(os.environ.get(name) for name in _THREADS)]
            task["threads"] = threads
        self._folder = folder / hashlib.sha256(json.dumps(task).encode()).hexdigest()[:16]
        make_output_folder(self._folder, "give another folder with --cache", what="the cache ")
        if self._folder.is_symlink():
            raise OutputError(
                f"{self._folder} in the cache is a link, and writing would follow it; remove it"
            )

    def read(self, number: int, weight: str) -> SolvedLayer | None:
        """Return the result for a layer; None if it is missing or damaged."""
        try:
            archive = read_archive(check_input(self._path(number), "a layer cache"))
            if not isinstance(archive, dict):
                return None
            told = json.loads(str(archive["row"]))
            names = json.loads(str(archive["names"]))
            arrays = {name: _typed(archive[f"array{index}"]) for index, name in enumerate(names)}
            if told["weight"] != weight:
                return None
            told.update({key: tuple(told[key]) for key in ("consumers", "shape")})
            row = RebuiltLayer(**told)
            return SolvedLayer(row, arrays, archive.get("step")) if _is_typed(row) else None
        except UNSOUND_CONTENT:
            return None  # it is solved again

    def write(self, number: int, solved: SolvedLayer) -> None:
        """Keep the result for a layer.

        Raises:
            OutputError: The file cannot be written.
        """
        data = io.BytesIO()
        arrays = {f"array{index}": array for index, array in enumerate(solved.weights.values())}
        if solved.step is not None:
            arrays["step"] = solved.step
        row = json.dumps(asdict(solved.row))
        np.savez(data, row=np.array(row), names=np.array(json.dumps(list(solved.weights))), **arrays)  # type: ignore[arg-type]
        write_atomic(self._path(number), data.getvalue(), follow=False)

    def _path(self, number: int) -> Path:
        return self._folder / f"layer{number:05d}.npz"


def _typed(array: Array) -> Array:
    """Return an array of an archive, which keeps the bytes of bfloat16 and not its name."""
    return array.view(ml_dtypes.bfloat16) if array.dtype == np.dtype("V2") else array


def _is_typed(row: RebuiltLayer) -> bool:
    """Tell whether what was solved of a layer has the types that a report shows."""
    figures = (row.ridge, row.dense_error, row.error, row.magnitude_error, row.divergence_alone, row.work)
    return (
        row.status in ("pruned", "refitted", "dense")
        and isinstance(row.reason, str)
        and row.chosen in ("admm", "magnitude", "dense", "")
        and isinstance(row.held_out, bool)
        and all(type(count) is int for count in (row.rows, row.inputs))
        and all(figure is None or type(figure) in (int, float) for figure in figures)
    )
