"""Ranges of a float model's activations: found by one shard of the samples, and merged from all."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from nm2trt.calibration.parts import Shard, ShardReport
from nm2trt.calibration.range_shards import calibrate_shard, merge_ranges
from nm2trt.calibration.ranges import Ranges
from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import InputError, ModelError
from nm2trt.graph.analysis.quantised_values import refuse_quantised
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.function_inlining import inlining
from nm2trt.graph.pass_frame import run_passes
from nm2trt.graph.quantize.opset_conversion import conversion
from nm2trt.graph.quantize.qdq_placement import Placement, place
from nm2trt.graph.quantize.report import QuantizeOptions
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.model_hash import model_hash


def place_layers(
    editor: Editor, options: QuantizeOptions, sharp: Mapping[str, str] | None = None
) -> Placement:
    """Return which layers are quantised and where pairs stand.

    Raises:
        InputError: A glob matches nothing.
        ModelError: There is nothing to quantise.
    """
    placed = place(editor, options.exclude, float_depthwise=options.float_depthwise, sharp=sharp)
    if not placed.quantised:
        first = f"; {placed.layers[0].label}: {placed.layers[0].why_float}" if placed.layers else ""
        raise ModelError(f"{editor.model.name} has no Conv, Gemm or MatMul to quantise{first}")
    return placed


def require_mergeable(options: QuantizeOptions, parts: Path | None) -> None:
    """Raise InputError if parts are asked for of a calibration that cannot be split."""
    if parts is None:
        return
    if options.method != "minmax":
        raise InputError(
            f"--shard and --merge take only --method minmax: the histograms of {options.method} start from "
            "the first samples of a process, so that merged ones would give other ranges than one process"
        )
    if options.max_loss is not None:
        raise InputError(
            "--max-loss searches in one process; leave it out with --shard and --merge, or quantise without "
            "those two"
        )


def find_part(
    source: str | os.PathLike[str] | Model,
    samples: SampleStream,
    options: QuantizeOptions,
    shard: Shard,
    folder: Path,
) -> ShardReport:
    """Run one shard of the samples and write the extremes that `quantize_model` merges.

    Args:
        source: The float32 ONNX file, or an open model, which may be converted to a newer opset in memory.
        samples: Calibration samples of all shards.
        options: How the model will be quantised.
        shard: Which samples to run.
        folder: Where the files of all shards are.

    Raises:
        InputError: An option cannot be sharded, or as `calibrate_shard`.
        ModelError: As `quantize_model`.
        DataError: The samples do not fit the model.
        OutputError: The file cannot be written.
        Interrupted: The user stopped it; the file is up to date.
    """
    require_mergeable(options, folder)
    model = load(source, leave_weights=True)
    refuse_quantised(model, "give the float model")
    first = [*inlining(model, compared=False), *conversion(model, options.form.opset)]
    if first:
        run_passes(model, None, first)
    points = list(place_layers(Inserter(model, "quantized"), options).points)
    seen = observable(model, points, whole=False)
    sha256 = model_hash(model)
    return calibrate_shard(seen.open, seen.observed, samples, shard, model_sha256=sha256, folder=folder)


def merge_parts(model: Model, points: Sequence[str], samples: SampleStream, folder: Path) -> Ranges:
    """Return the range of each point from what all shards found; see `merge_ranges`."""
    observed = observable(model, points, whole=False).observed
    return merge_ranges(observed, samples, model_sha256=model_hash(model), folder=folder)
