"""N:M from samples: masks and values of an ONNX file solved layer by layer against the dense network.

No labels, no training: each layer is fitted to the outputs that it had before pruning, on the inputs that the
pruned network gives it (after AdaPrune, SparseGPT and ALPS). Only the numbers of weights and biases change.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nm2trt.calibration.stream import SampleStream
from nm2trt.errors import DataError, SparsityError
from nm2trt.files import check_output
from nm2trt.graph.execute.output_verdict import OutputVerdict
from nm2trt.graph.reconstruct.choice import check_globs, dense_reason, holds
from nm2trt.graph.reconstruct.chunks import Chunks, read_chunks
from nm2trt.graph.reconstruct.layer_walk import LayerWalk
from nm2trt.graph.reconstruct.layers import REBUILT, Layer, find_layers
from nm2trt.graph.reconstruct.network import Network
from nm2trt.graph.reconstruct.output_verdict import judge_outputs
from nm2trt.graph.reconstruct.report import RebuiltLayer, ReconstructOptions, ReconstructReport
from nm2trt.graph.reconstruct.statistics import held_out
from nm2trt.graph.storage.external_data import pack
from nm2trt.graph.storage.model import Model, load, metadata
from nm2trt.graph.storage.save import Rewrite, refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.storage.tensors import element_type
from nm2trt.graph.verify.mask_lineage import check_rebuilt
from nm2trt.graph.verify.verify_model import VerifyReport, verify_model
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry
from nm2trt.progress import bar

__all__ = ["METHOD", "check_request", "reconstruct_model"]

# What this pass writes as the method of its plan.
METHOD = "reconstruct-onnx"


def check_request(source: Path, target: Path) -> None:
    """Refuse, before any work, a quantised model and an output that cannot be written.

    Raises:
        InputError: A path is wrong.
        ModelError: The model is not sound, or is quantised.
        OutputError: The output cannot be written.
    """
    model = load(source, leave_weights=True)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    check_output(target)
    Network(model).refuse_quantised()


def reconstruct_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    samples: SampleStream,
    options: ReconstructOptions | None = None,
    *,
    name: str | None = None,
) -> ReconstructReport:
    """Write a copy of a model whose weights hold N:M, masks and values solved from samples.

    Args:
        source: The float32 ONNX file, BatchNorms folded (`nm2trt fuse`): a bias is what repairs means.
        target: The file to write; not the source.
        samples: Calibration samples, by the model's input names.
        options: How; None is 2:4 wherever it can be.
        name: What to call the model in messages and in the report; None takes `source`.

    Returns:
        What was done with each weight, and how far the outputs are from the dense network's.

    Raises:
        InputError: A path, a glob or an option is wrong.
        ModelError: The model is not sound, or is quantised.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern, or no layer has a solution; nothing is written.
        LineageError: What was written does not hold what it should; nothing is left behind.
        OutputError: The output cannot be written, or the disk cannot hold the activations.
    """
    options, name = options or ReconstructOptions(), name or str(source)
    started = time.monotonic()
    model = load(source)
    refuse_same_file(source, target)
    check_output(target)
    network = Network(model)
    network.refuse_quantised()
    layers, declined = find_layers(network)
    parent = verify_model(model.proto, pattern=options.pattern, external_data_root=model.root)
    check_globs(options, list(dict.fromkeys(row.weight for row in parent.weights)))
    dense, kept = _sorted_out(layers, parent, options, model)
    if all(layer.weight in dense or layer.weight in kept for layer in layers):
        raise SparsityError(_nothing(name, layers, {**dense, **kept}, parent, declined, options))
    chunks = read_chunks(Path(source), samples)
    if options.valid is not None and options.valid not in chunks.feeds[0]:
        raise DataError(f"the model has no input {options.valid!r}; its inputs are {sorted(chunks.feeds[0])}")
    with (
        tempfile.TemporaryDirectory(prefix="nm2trt-reconstruct-") as folder,
        bar("reconstruct", 1.0) as shown,
    ):
        walk = LayerWalk(
            network, options, chunks, Path(folder), lambda done, words: shown.update(done, description=words)
        )
        walk.run(layers, dense, kept)
        outputs, outside = _judged(walk, network, chunks)
    if not any(row.status == "pruned" for row in walk.layers):
        why = next(row.reason for row in walk.layers if row.weight not in {*dense, *kept})
        raise SparsityError(f"no layer of {name} has a solution: {why}; nothing was written")
    weights = (*walk.layers, *_others(parent, walk.layers, declined))
    plan = _plan(weights, options)
    written: list[VerifyReport] = []

    def finish(after: Model) -> None:
        report = verify_model(after.proto, pattern=options.pattern, external_data_root=after.root)
        relation = check_rebuilt(parent, report, "reconstruct")
        entry = LineageEntry("prune --calib", parent.mask_sha256, report.mask_sha256, relation)
        record(after.proto, entry, plan)
        written.append(report)

    save(model, target, rewrites=_rewrites(network, walk), finish=finish)
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
    )


def _sorted_out(
    layers: Sequence[Layer], parent: VerifyReport, options: ReconstructOptions, model: Model
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the reasons of the layers that stay dense, and of those that are left as they are."""
    text = metadata(model.proto).get(METADATA_KEY)
    plan = None if text is None else Plan.from_json(text)
    planned = {e.weight: e.reason for e in plan or () if e.pattern is None} if plan is not None else {}
    if plan is not None and plan.method in (METHOD, "magnitude-onnx"):
        planned = {}  # a plan of prune itself is made anew
    judged: dict[str, list[int]] = {}
    for position, row in enumerate(parent.weights):
        judged.setdefault(row.weight, []).append(position)
    dense: dict[str, str] = {}
    kept: dict[str, str] = {}
    for layer in layers:
        reason = dense_reason(layer, options, planned)
        if holds([parent.weights[i] for i in judged.get(layer.weight, [])]):
            kept[layer.weight] = f"it held {options.pattern} already"
        elif reason is not None:
            dense[layer.weight] = reason
    return dense, kept


def _nothing(
    source: str,
    layers: Sequence[Layer],
    reasons: dict[str, str],
    parent: VerifyReport,
    declined: dict[str, str],
    options: ReconstructOptions,
) -> str:
    first = next((f"; {layer.weight}: {reasons[layer.weight]}" for layer in layers), "")
    others = _others(parent, (), declined)
    first = first or next((f"; {row.weight}: {row.reason}" for row in others), "; it has no weight")
    return f"no weight of {source} is left to prune to {options.pattern}{first}"


def _judged(walk: LayerWalk, network: Network, chunks: Chunks) -> tuple[tuple[OutputVerdict, ...], bool]:
    outside = [chunk for chunk in range(len(chunks.feeds)) if held_out(chunk)]
    used = outside or list(range(len(chunks.feeds)))
    return judge_outputs(network.outputs, walk.dense, walk.pruned, used), bool(outside)


def _others(
    parent: VerifyReport, layers: Sequence[RebuiltLayer], declined: dict[str, str]
) -> list[RebuiltLayer]:
    """Return a row for each weight that is no layer of the walk."""
    found: dict[str, RebuiltLayer] = {}
    walked = {layer.weight for layer in layers}
    for row in parent.weights:
        if row.weight in walked or row.weight in found:
            continue
        reason = declined.get(row.consumer)
        if reason is None and row.operator in REBUILT:
            reason = "it lies in a body or in a function"
        reason = reason or f"{row.operator} is not rebuilt"
        kept = row.pattern == "holds"
        found[row.weight] = RebuiltLayer(
            weight=row.weight,
            consumers=(row.consumer,),
            shape=row.shape,
            dtype=row.dtype,
            axis=row.axis,
            status="kept" if kept else "dense",
            reason=f"it held {parent.pattern} already" if kept else reason,
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
        data = pack(numbers, element_type(tensor))
        found.append(Rewrite(tensor, lambda data=data: iter([data])))  # type: ignore[misc]
    return found
