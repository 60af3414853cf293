"""Quantise an ONNX model to INT8 or FP8 with explicit Q/DQ, symmetric, each layer quantised in and out.

`nm2trt.graph.quantize.qdq_placement` decides where pairs stand; ranges come from samples. docs/precision.md
says why onnxruntime's own inserter is not used; its histograms and thresholds are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from nm2trt.backends.batch_axes import fixed_batch, sample_shapes
from nm2trt.backends.ort import open_onnx
from nm2trt.calibration.ranges import Ranges, calibrate
from nm2trt.calibration.stream import SampleStream, fitted
from nm2trt.errors import ModelError
from nm2trt.files import check_output
from nm2trt.graph.analysis.constant_values import main_source
from nm2trt.graph.analysis.qdq_islands import Island
from nm2trt.graph.analysis.scopes import node_name
from nm2trt.graph.analysis.shapes import infer_types
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.output_comparison import Agreement, Reference
from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.quantize.number_formats import Format
from nm2trt.graph.quantize.pair_insertion import PairInsertion
from nm2trt.graph.quantize.qdq_placement import Placement, place
from nm2trt.graph.quantize.report import QuantizedLayer, QuantizeOptions, QuantizeReport
from nm2trt.graph.storage.model import Model, load, opset
from nm2trt.graph.storage.model_hash import model_hash
from nm2trt.graph.storage.save import embed, refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.storage.tensors import DTYPE_NAMES
from nm2trt.graph.verify.mask_lineage import check_descent
from nm2trt.graph.verify.verify_model import VerifyReport, verify_model

__all__ = ["QuantizeOptions", "QuantizeReport", "QuantizedLayer", "quantize_model"]

Array = npt.NDArray[Any]
_QUANTISED = frozenset(
    """QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul ConvInteger
    MatMulInteger QGemm QAttention QLinearAdd QLinearConcat MatMulIntegerToFloat
    DynamicQuantizeMatMul""".split()
)


def quantize_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    samples: SampleStream,
    options: QuantizeOptions | None = None,
    *,
    cache: Path | None = None,
    compare: bool = True,
) -> QuantizeReport:
    """Write a quantised copy of a float32 model.

    Args:
        source: The ONNX file.
        target: The file to write; not the source.
        samples: Calibration samples, by the model's input names.
        options: How; None is INT8 by extremes.
        cache: File that keeps what calibration found, and from which it goes on after an interruption.
        compare: Run both models on the first batch of samples and say how far they differ.

    Raises:
        InputError: A path, a glob or an option is wrong.
        ModelError: The model is no sound ONNX file, is quantised already, is not float32, or of too old
            an opset.
        DataError: The samples do not fit the model.
        LineageError: A zero was lost; nothing is written.
        OutputError: The output cannot be written.
        Interrupted: Calibration was stopped; the cache is up to date and no model is written.
    """
    options = options or QuantizeOptions()
    # Weights are read one at a time, and are never in memory together.
    model = load(source, leave_weights=True)
    _check_model(model, options.form)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    if cache is not None:
        refuse_data_file(model, cache)
    check_output(target)
    editor = Inserter(model, "quantized")
    placed = _place(editor, options)
    first: list[tuple[Any, Any]] = []
    ranges = _calibrate(source, list(placed.points), samples, options, cache, first if compare else None)
    parent = verify_model(source)
    work = PairInsertion(editor, placed, ranges, options)
    work.insert_pairs()
    layers = tuple(work.quantise(layer) for layer in placed.layers)
    # A node without a name is called by its position, which pairs in front of it change.
    labels = {editor.nodes[layer.index].output[0]: layer.label for layer in placed.layers}
    finals = editor.finish()
    embed(model)
    written: list[VerifyReport] = []
    agreement = [Agreement((), "outputs were not compared: not asked for")]
    reference = _reference(Path(source), samples, first) if compare else None

    def finish(after: Model) -> None:
        report = verify_model(after.proto, external_data_root=after.root)
        relation = check_descent(parent, report, "quantise")
        entry = LineageEntry(f"quantize {options.to}", parent.mask_sha256, report.mask_sha256, relation)
        record(after.proto, entry, work.plan(finals, {row.weight for row in report.weights}))
        if reference is not None:
            agreement[0] = reference.compare(after, required=False)
        written.append(report)

    save(model, target, external=editor.stored_externally(list(finals.values())), finish=finish)
    child = written[0]
    islands = _under_old_labels(child.islands, model, labels)
    inside = {island.consumer for island in islands}
    layers = tuple(replace(one, whole=one.quantised and one.layer not in inside) for one in layers)
    return QuantizeReport(
        model=str(source),
        output=str(target),
        options=options,
        layers=layers,
        scales=work.scales,
        ranges=ranges,
        islands=islands,
        differences=agreement[0].differences,
        not_measured=agreement[0].sentence,
        notes=tuple(work.notes),
        parent_mask_sha256=parent.mask_sha256,
        mask_sha256=child.mask_sha256,
        relation="equal" if parent.mask_sha256 == child.mask_sha256 else "subset",
    )


def _under_old_labels(
    islands: Sequence[Island], after: Model, labels: Mapping[str, str]
) -> tuple[Island, ...]:
    """Return islands under the labels that their nodes had before pairs were inserted."""
    now = {
        node_name(node, position): labels[node.output[0]]
        for position, node in enumerate(after.proto.graph.node)
        if node.output and node.output[0] in labels
    }
    return tuple(replace(island, consumer=now.get(island.consumer, island.consumer)) for island in islands)


def _check_model(model: Model, form: Format) -> None:
    version = opset(model.proto) or 0
    if version < form.opset:
        raise ModelError(
            f"{model.name} is of opset {version}; {form.name} needs opset {form.opset} or newer: export it "
            "again, or convert it with onnx.version_converter"
        )
    for node in model.proto.graph.node:
        if node.op_type in _QUANTISED:
            raise ModelError(
                f"{model.name} is quantised already: {node.op_type} at {node.name or node.output[0]!r}; "
                "give the float model"
            )


def _place(editor: Editor, options: QuantizeOptions) -> Placement:
    placed = place(editor, options.exclude, float_depthwise=options.float_depthwise)
    if not placed.quantised:
        first = f"; {placed.layers[0].label}: {placed.layers[0].why_float}" if placed.layers else ""
        raise ModelError(f"{editor.model.name} has no Conv, Gemm or MatMul to quantise{first}")
    types = infer_types(editor.model)
    for layer in placed.quantised:
        source = main_source(layer.consumer.scope, layer.consumer.value)
        stored = "float32" if source is None else source.dtype
        read = types.get(layer.consumer.value, TensorProto.FLOAT)
        if stored != "float32" or read != TensorProto.FLOAT:
            found = stored if stored != "float32" else DTYPE_NAMES.get(read, "of another type")
            raise ModelError(
                f"weight {layer.weight!r} of {editor.model.name} is {found}; quantise the float32 "
                "model, and cast what stays float afterwards"
            )
    return placed


def _calibrate(
    source: str | os.PathLike[str],
    points: Sequence[str],
    samples: SampleStream,
    options: QuantizeOptions,
    cache: Path | None,
    first: list[tuple[Any, Any]] | None,
) -> Ranges:
    seen = observable(source, points, whole=options.method != "minmax")
    given = {value.name for value in load(source, leave_weights=True).proto.graph.output}

    def keep(feeds: Any, outputs: Mapping[str, Array]) -> None:
        if first is not None:
            first.append((feeds, {name: outputs[name].copy() for name in given}))

    return calibrate(
        lambda: open_onnx(seen.data, weights_folder=seen.weights_folder),
        seen.observed,
        samples,
        method=options.method,
        percentile=options.percentile,
        model_sha256=model_hash(source),
        cache=cache,
        first=keep,
    )


def _reference(source: Path, samples: SampleStream, first: Sequence[tuple[Any, Any]]) -> Reference:
    """Return what the float model gives on a batch: as calibration saw it, or run anew after a full cache."""
    if first:
        return Reference(*first[0])
    with open_onnx(source) as session:
        given = next(samples.read(samples.batch))
        fitted(given, session.inputs, samples.source)
        size = fixed_batch(session.inputs, sample_shapes(given))
        if size is not None:
            given = next(samples.read(size))
            at = np.arange(size).clip(max=len(next(iter(given.values()))) - 1)
            given = {name: array[at] for name, array in given.items()}
        batch = fitted(given, session.inputs, samples.source)
        return Reference(batch, session.run(batch))
