"""A model rebuilt to N:M from samples: BatchNorms folded, channels permuted, then each layer solved."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import DifferenceError, Nm2trtError, SparsityError
from nm2trt.pipeline.calibration_input import open_calibration, refuse_as_output

if TYPE_CHECKING:
    from nm2trt.arrays import Array
    from nm2trt.calibration.stream import SampleStream
    from nm2trt.graph.permute.channel_spaces import SpaceWeight
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where a reconstruction takes its samples from, and how it prepares.

    Args:
        calib: Samples: an `.npz` of arrays by input name, or a calibration recipe.
        permute: Permute channels first, so that the pattern costs less; the function is unchanged.
        cache: Folder that keeps solved layers, so that a run that was stopped goes on.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.
    """

    calib: str | os.PathLike[str]
    permute: bool = True
    cache: str | os.PathLike[str] | None = None
    data_root: str | os.PathLike[str] | None = None
    allow_functions: bool = False

    def open(self, model: Path, output: Path) -> SampleStream:
        """Open the samples; refuse, before any work, a model and an output that cannot be taken.

        Raises:
            InputError: A path is wrong.
            ModelError: The model is not sound, or is quantised.
            DataError: The samples cannot be read.
            OutputError: The output cannot be written.
        """
        from nm2trt.graph.reconstruct.reconstruct_model import check_request
        from nm2trt.graph.storage.model import load

        refuse_as_output(output, self.calib)
        check_request(model, output)
        opened = load(model, leave_weights=True)
        return open_calibration(
            self.calib, None, self.data_root, allow_functions=self.allow_functions, model=opened
        )


def reconstruct(
    model: str | os.PathLike[str], output: Path, options: ReconstructOptions, calibration: Calibration
) -> ReconstructReport:
    """Write an N:M copy of a model whose masks and values are solved from samples.

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed.
        calibration: The samples.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound or is quantised.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.reconstruct.reconstruct_model import reconstruct_model

    model = Path(model)
    samples = calibration.open(model, output)
    with folder_of_copies(model) as folder:
        source, facts = normalised(model, folder, samples, options, permute=calibration.permute)
        report = reconstruct_model(source, output, samples, options, name=str(model), cache=calibration.cache)
    return replace(report, **facts)


@contextlib.contextmanager
def folder_of_copies(model: Path) -> Iterator[Path]:
    """Give a temporary folder for copies of a model; errors raised inside name the model instead of a copy.

    Args:
        model: The ONNX file.
    """
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as name:
        folder = Path(name)
        try:
            yield folder
        except Nm2trtError as error:
            for copy in map(str, folder.rglob("*.onnx")):
                error.args = tuple(str(words).replace(copy, str(model)) for words in error.args)
            raise


def normalised(
    model: Path,
    folder: Path,
    samples: SampleStream,
    options: ReconstructOptions,
    *,
    permute: bool,
    called: Path | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Return a copy of a model with BatchNorms folded and channels permuted, and what its report says of it.

    Args:
        model: The ONNX file.
        folder: An empty folder for the copy.
        samples: Calibration samples.
        options: Pattern, weights, seed.
        permute: Permute channels.
        called: What to call the model in messages; None takes its path.
    """
    from nm2trt.graph.fuse.fuse_model import fuse_model

    # A folded BatchNorm leaves each layer a bias, which repairs means; only stored weights are rebuilt.
    fused = folder / model.name
    done = fuse_model(model, fused, moved=True)
    source, kept = fused, ""
    if permute:
        source, kept = _permuted(fused, folder / f"{model.stem}.permuted.onnx", samples, options)
    facts = {
        "batchnorms_folded": done.batchnorms_folded,
        "permuted": source is not fused,
        "channels_kept": kept.replace(str(fused), str(called or model)),
        "parent_mask_sha256": done.parent_mask_sha256,
        "notes": (*done.notes, *samples.copies_note()),
    }
    return source, facts


def _permuted(
    source: Path, target: Path, samples: SampleStream, options: ReconstructOptions
) -> tuple[Path, str]:
    """Return a copy with permuted channels, or the source and why its channels stay in their order."""
    from nm2trt.graph.permute.channel_spaces import find_spaces
    from nm2trt.graph.permute.permute_model import permute_model
    from nm2trt.graph.permute.space_search import PermuteOptions, magnitude
    from nm2trt.graph.reconstruct.saliency import weight_saliency
    from nm2trt.graph.storage.model import load

    chosen = PermuteOptions(
        options.pattern, options.include, options.exclude, options.min_channels, options.seed
    )
    spaces = find_spaces(load(source, leave_weights=True))
    movable = {weight.weight for space in spaces if not space.obstacle for weight in space.weights}
    found = weight_saliency(source, samples, options, movable)

    def saliency(weight: SpaceWeight, numbers: Array) -> Array | None:
        if weight.weight not in movable:
            return magnitude(weight, numbers)  # an order that is fixed needs no samples
        scores = found.get(weight.weight)
        return scores if scores is not None and scores.shape == numbers.shape else None

    try:
        permute_model(source, target, chosen, saliency=saliency)
    except SparsityError as error:
        return source, f"channels stay in their order: {error}"
    except DifferenceError as error:  # e.g. a model that amplifies the rounding of its sums
        return source, f"channels stay in their order, since another moves the outputs too far ({error})"
    return target, ""
