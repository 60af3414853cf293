"""N:M from samples: masks and values of an ONNX file solved layer by layer against the dense network.

No labels, no training: each layer is fitted to the outputs that it had before pruning, on the inputs that the
pruned network gives it (after AdaPrune, SparseGPT and ALPS). Only the numbers of weights and biases change.
"""

from __future__ import annotations

import functools
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import DataError, SparsityError
from nm2trt.figures import percent
from nm2trt.files import check_output
from nm2trt.graph.analysis.quantised_values import refuse_quantised
from nm2trt.graph.analysis.sound_nodes import check_nodes
from nm2trt.graph.execute.output_verdict import OutputVerdict
from nm2trt.graph.reconstruct.activation_grid import IntegerGrid
from nm2trt.graph.reconstruct.choice import METHOD, sort_layers
from nm2trt.graph.reconstruct.chunks import Chunks, read_chunks
from nm2trt.graph.reconstruct.layer_cache import LayerCache
from nm2trt.graph.reconstruct.layer_walk import LayerWalk
from nm2trt.graph.reconstruct.layers import REBUILT, Layer, find_layers
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.report import RebuiltLayer, ReconstructOptions, ReconstructReport
from nm2trt.graph.reconstruct.sensitivity import Sensitivity, dense_by_sensitivity, layer_sensitivities
from nm2trt.graph.reconstruct.statistics import held_out
from nm2trt.graph.reconstruct.streams import judge_outputs
from nm2trt.graph.storage.element_types import element_type
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.save import refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.verify.mask_lineage import check_rebuilt
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.advice import prunable_weights
from nm2trt.nm.plan import Plan, PlanEntry
from nm2trt.progress import bar

_REMEDY = "prune the float model with --calib first, and quantise the result"


def check_request(source: Path, target: Path) -> None:
    """Refuse, before any work, a quantised model and an output that cannot be written.

    Raises:
        InputError: A path is wrong.
        ModelError: The model is not sound, or is quantised.
        OutputError: The output cannot be written.
    """
    model = load(source, leave_weights=True)
    check_nodes(model)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    check_output(target)
    refuse_quantised(model, _REMEDY)


def reconstruct_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    samples: SampleStream,
    options: ReconstructOptions | None = None,
    *,
    name: str | None = None,
    sensitivities: Mapping[str, Sensitivity] | None = None,
    gains: Mapping[str, float] | None = None,
    cache: str | os.PathLike[str] | None = None,
    grid: IntegerGrid | None = None,
) -> ReconstructReport:
    """Write a copy of a model whose weights hold N:M, masks and values solved from samples.

    Args:
        source: The float32 ONNX file, BatchNorms folded (`nm2trt fuse`): a bias is what repairs means.
        target: The file to write; not the source.
        samples: Calibration samples, by the model's input names.
        options: How; None is 2:4 wherever it can be.
        name: What to call the model in messages and in the report; None takes `source`.
        sensitivities: What `measure_sensitivities` found for this file; None measures if the options ask.
        gains: What pruning a layer brings, by weight, for `share`; None takes its multiply-accumulates.
        cache: Folder that keeps solved layers, so that a run that was stopped goes on; None keeps nothing.
        grid: What computes in INT8 in the network that is written: layers are solved on rounded inputs, and
            their weights lie on the grid, whose steps are filled in. None keeps floats.

    Returns:
        What was done with each weight, and how far the outputs are from the dense network's.

    Raises:
        InputError: A path, a glob or an option is wrong.
        ModelError: The model is not sound, or is quantised.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern, or no layer has a solution; nothing is written.
        LineageError: What was written does not hold what it should; nothing is written.
        OutputError: The output cannot be written, or the disk cannot hold the activations.
    """
    options, name = options or ReconstructOptions(), name or str(source)
    started = time.monotonic()
    refuse_same_file(source, target)
    check_output(target)
    opened = _opened(source, options)
    network, layers, dense, kept = opened.network, opened.layers, opened.dense, opened.kept
    if all(layer.weight in dense or layer.weight in kept for layer in layers):
        raise SparsityError(_nothing(name, opened, options))
    chunks = read_chunks(Path(source), samples)
    if options.valid is not None and options.valid not in chunks.names:
        raise DataError(f"the model has no input {options.valid!r}; its inputs are {chunks.names}")
    if sensitivities is None and options.measures:
        sensitivities = layer_sensitivities(network, opened.prunable, chunks, options, kept)
    if sensitivities is not None and options.share < 1:
        dense.update(dense_by_sensitivity(sensitivities, options.share, gains=gains, sparse=kept))
        if all(layer.weight in dense or layer.weight in kept for layer in layers):
            raise SparsityError(
                f"no weight of {name} is left to prune to {options.pattern}: {len(kept)} of {len(layers)} "
                f"hold it already, and do at least {percent(options.share, 0)} of the work; ask for more"
            )
    with (
        tempfile.TemporaryDirectory(prefix="nm2trt-reconstruct-") as folder,
        bar("reconstruct", 1.0) as shown,
    ):
        walk = LayerWalk(
            network,
            options,
            chunks,
            Path(folder),
            lambda done, words: shown.update(done, description=words),
            grid=grid,
        )
        if cache is not None:
            walk.cache = LayerCache(Path(cache), Path(source), chunks.sha256, options, dense, kept, grid)
        walk.run(layers, dense, kept)
        rows = tuple(_with_sensitivity(row, sensitivities or {}) for row in walk.layers)
        outputs, outside = _judged(walk, network, chunks)
    if not any(row.status == "pruned" for row in walk.layers):
        why = next(row.reason for row in walk.layers if row.weight not in {*dense, *kept})
        raise SparsityError(f"no layer of {name} has a solution: {why}; nothing was written")
    parent = opened.parent
    weights = (*rows, *_others(opened, walk.layers))
    plan = _plan(weights, options)
    written: list[VerifyReport] = []

    def finish(after: Model) -> None:
        report = verify_model(after.proto, pattern=options.pattern, external_data_root=after.root)
        relation = check_rebuilt(parent, report)
        entry = LineageEntry("prune --calib", parent.mask_sha256, report.mask_sha256, relation)
        record(after.proto, entry, plan)
        written.append(report)

    save(network.model, target, rewrites=_rewrites(network, walk), finish=finish)
    return ReconstructReport(
        model=name,
        output=str(target),
        pattern=options.pattern,
        weights=weights,
        outputs=outputs,
        outputs_held_out=outside,
        samples=chunks.samples,
        source=samples.source,
        samples_sha256=chunks.sha256,
        plan=plan,
        seconds=time.monotonic() - started,
        parent_mask_sha256=parent.mask_sha256,
        mask_sha256=written[0].mask_sha256,
        relation="rebuilt",
        padding="" if options.valid is not None else chunks.padding_mask(),
        verified=written[0],
    )


def measure_sensitivities(
    source: str | os.PathLike[str], samples: SampleStream, options: ReconstructOptions
) -> dict[str, Sensitivity]:
    """Prune each layer of a model alone, and measure how far its outputs move; by weight.

    Args:
        source: The float32 ONNX file.
        samples: Calibration samples.
        options: Pattern and weights.

    Raises:
        InputError: A path or a glob is wrong.
        ModelError: The model is not sound, or is quantised.
        DataError: The samples do not fit the model.
        OutputError: The disk cannot hold the activations.
    """
    opened = _opened(source, options)
    chunks = read_chunks(Path(source), samples)
    return layer_sensitivities(opened.network, opened.prunable, chunks, options, opened.kept)


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """A sound float model, its layers, and why others are not solved, by label or by weight."""

    network: Network
    layers: list[Layer]
    declined: dict[str, str]
    parent: VerifyReport
    dense: dict[str, str]
    kept: dict[str, str]

    @property
    def prunable(self) -> list[Layer]:
        """The layers that may be pruned."""
        return [layer for layer in self.layers if layer.weight not in self.dense]


def _opened(source: str | os.PathLike[str], options: ReconstructOptions) -> _Opened:
    model = load(source)
    check_nodes(model)
    network = Network(model)
    refuse_quantised(model, _REMEDY)
    layers, declined = find_layers(network)
    parent = verify_model(model.proto, pattern=options.pattern, external_data_root=model.root)
    return _Opened(network, layers, declined, parent, *sort_layers(layers, parent, options, model))


def _with_sensitivity(row: RebuiltLayer, found: Mapping[str, Sensitivity]) -> RebuiltLayer:
    known = found.get(row.weight)
    return row if known is None else replace(row, divergence_alone=known.divergence, work=known.work)


def _nothing(name: str, opened: _Opened, options: ReconstructOptions) -> str:
    layers, words = opened.layers, f"no weight of {name} is left to prune to {options.pattern}"
    if opened.kept:
        held = f"{len(opened.kept)} of {len(layers)} hold it already and are not solved again"
        return f"{words}: {held}; give the model as it was before pruning"
    reasons = {row.weight: row.reason for row in _others(opened, ())} | opened.dense
    apart = {verdict.weight for verdict in prunable_weights(opened.parent.weights)} - opened.dense.keys()
    # A weight that the other way prunes is reported before those that no way does.
    first = next((weight for weight in reasons if weight in apart), next(iter(opened.dense or reasons), None))
    words += f"; {first}: {reasons[first]}" if first is not None else "; it has no weight"
    return f"{words}; leave --calib out to prune by magnitude" if apart else words


def _judged(walk: LayerWalk, network: Network, chunks: Chunks) -> tuple[tuple[OutputVerdict, ...], bool]:
    outside = [chunk for chunk in range(chunks.count) if held_out(chunk)]
    used = outside or list(range(chunks.count))
    dense, numbers = walk.reference(used)
    pairs = list(zip(numbers, used, strict=True))
    return judge_outputs(network.outputs, dense, walk.pruned, pairs), bool(outside)


def _others(opened: _Opened, layers: Sequence[RebuiltLayer]) -> list[RebuiltLayer]:
    """Return a row for each weight outside the walked layers."""
    found: dict[str, RebuiltLayer] = {}
    walked = {layer.weight for layer in layers}
    for row in opened.parent.weights:
        if row.weight in walked or row.weight in found:
            continue
        reason = opened.declined.get(row.consumer)
        if reason is None and row.pattern == "untraceable":
            reason = row.sentence
        elif reason is None and row.operator in REBUILT:
            reason = "it lies in a body"
        reason = reason or f"{row.operator} is not rebuilt"
        kept = row.pattern == "holds"
        found[row.weight] = RebuiltLayer(
            weight=row.weight,
            consumers=(row.consumer,),
            shape=row.shape,
            dtype=row.dtype,
            axis=row.axis,
            status="kept" if kept else "dense",
            reason=f"it held {opened.parent.pattern} already" if kept else reason,
        )
    return list(found.values())


def _plan(weights: Sequence[RebuiltLayer], options: ReconstructOptions) -> Plan:
    entries = (
        PlanEntry(
            row.weight,
            options.pattern if row.status in ("pruned", "kept") else None,
            row.reason,
            row.shape,
            row.axis,
        )
        for row in weights
    )
    return Plan(tuple(entries), METHOD)


def _rewrites(network: Network, walk: LayerWalk) -> list[Rewrite]:
    found = []
    for name, numbers in walk.weights.items():
        tensor = network.tensor(name)
        found.append(Rewrite(tensor, functools.partial(iter, [pack(numbers, element_type(tensor))])))
    return found
