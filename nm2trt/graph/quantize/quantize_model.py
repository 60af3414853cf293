"""Quantise an ONNX model to INT8 or FP8 with explicit Q/DQ, symmetric, each layer quantised in and out.

`nm2trt.graph.quantize.qdq_placement` decides where pairs stand; ranges come from samples. docs/precision.md
says why onnxruntime's own inserter is not used; its histograms and thresholds are.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nm2trt.backends.batch_axes import fixed_batch, sample_shapes
from nm2trt.backends.choice import place_of
from nm2trt.calibration.stream import SampleStream, filled, fitted
from nm2trt.errors import DifferenceError
from nm2trt.graph.analysis.multiply_accumulates import free_shapes
from nm2trt.graph.analysis.qdq_islands import Island
from nm2trt.graph.analysis.quantised_values import refuse_quantised
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.model_session import open_session
from nm2trt.graph.execute.output_comparison import NOT_ASKED, Agreement, Demands, Reference, reference_of
from nm2trt.graph.execute.range_probes import value_ranges
from nm2trt.graph.function_inlining import inlining
from nm2trt.graph.pass_frame import Change, Pass, run_passes
from nm2trt.graph.quantize.calibrate_model import merge_parts, place_layers, require_mergeable
from nm2trt.graph.quantize.opset_conversion import conversion
from nm2trt.graph.quantize.pair_insertion import PairInsertion, Rounded
from nm2trt.graph.quantize.preset import Preset
from nm2trt.graph.quantize.range_search import search_ranges
from nm2trt.graph.quantize.report import QuantizeOptions, QuantizeReport
from nm2trt.graph.quantize.search_report import RangeSearch
from nm2trt.graph.quantize.work_shares import layer_work, work_shares
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.node_parts import node_name
from nm2trt.graph.storage.save import refuse_data_file
from nm2trt.graph.verify.mask_lineage import check_descent
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.eligibility import Place
from nm2trt.nm.lineage import Relation
from nm2trt.nm.plan import Plan

# For which architectures work is counted; () takes the builder's own choice.
_TARGETS: Mapping[str, tuple[str, ...]] = {"int8": (), "fp8": ("sm89",)}


def quantize_model(
    source: str | os.PathLike[str] | Model,
    target: str | os.PathLike[str] | None,
    samples: SampleStream,
    options: QuantizeOptions | None = None,
    *,
    cache: Path | None = None,
    compare: bool = True,
    preset: Preset | None = None,
    place: Place | None = None,
    parts: Path | None = None,
) -> QuantizeReport:
    """Quantise an open float32 model, or a copy of a file; one of too old an opset is converted first.

    Args:
        source: The ONNX file, or an open model; weights are read one at a time.
        target: The file to write, not the source; None changes the open model.
        samples: Calibration samples, by the model's input names.
        options: How; None is INT8 by extremes.
        cache: File that keeps what calibration found, and from which it goes on after an interruption.
        compare: Run both models on the first batch of samples and say how far they differ.
        preset: Ranges and weights that were found before; None finds them.
        place: Builder and targets that the work which can run sparse is counted for; None takes the default
            builder.
        parts: Folder of what `find_part` found in each shard, to merge; None runs the samples here.

    Raises:
        InputError: A path, a glob or an option is wrong.
        ModelError: The model is not a valid ONNX file, is quantised already, has no layer in float32, or is
            of too old an opset and cannot be converted.
        DifferenceError: The conversion to a newer opset changed the outputs, no trial of a search is within
            its limit, or without a search an output has little in common with the original's; nothing is
            written.
        DataError: The samples do not fit the model.
        LineageError: A zero was lost; nothing is written.
        OutputError: The output cannot be written.
        Interrupted: Calibration was stopped; the cache is up to date and no model is written.
    """
    options = options or QuantizeOptions()
    require_mergeable(options, parts)
    model = load(source, leave_weights=True)
    refuse_quantised(model, "give the float model")
    step = _Quantize(options, samples, cache, compared=compare, preset=preset, place=place, parts=parts)
    first = [*inlining(model, compared=compare), *conversion(model, options.form.opset)]
    passed = run_passes(model, target, [*first, step])
    agreement, work = passed.agreement, step.work
    inside = {island.consumer for island in step.islands}
    return QuantizeReport(
        **passed.facts(),
        options=step.options,
        layers=tuple(replace(one, whole=one.quantised and one.layer not in inside) for one in step.layers),
        scales=work.scales,
        ranges=step.ranges,
        islands=step.islands,
        differences=agreement.differences,
        not_measured=agreement.sentence,
        work=step.shares,
        search=step.search,
    )


class _Quantize(Pass):
    """Requires a float32 model that is not quantised; ensures that no weight loses a zero."""

    def __init__(
        self,
        options: QuantizeOptions,
        samples: SampleStream,
        cache: Path | None,
        *,
        compared: bool,
        preset: Preset | None,
        place: Place | None,
        parts: Path | None,
    ) -> None:
        self._preset, self._place, self._parts = preset, place, parts
        self.stage = f"quantize {options.to}"
        self.options, self._samples, self._cache, self._compared = options, samples, cache, compared
        self.search: RangeSearch | None = None
        self._reference: Reference | None = None

    def requires(self, model: Model) -> None:
        refuse_quantised(model, "give the float model")
        if self._cache is not None:
            refuse_data_file(model, self._cache)

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:
        editor = Inserter(model, "quantized")
        placed = place_layers(editor, self.options, None if self._preset is None else self._preset.sharp)
        self._shapes = free_shapes(model, next(self._samples.read(1)))
        first: list[tuple[Any, Any]] = []
        rounded: Rounded = {}
        if self._preset is not None:
            self.ranges, self.search = self._preset.ranges, self._preset.search
            rounded = self._preset.rounded(placed)
        elif self.options.max_loss is None:
            points = list(placed.points)
            if self._parts is not None:
                self.ranges = merge_parts(model, points, self._samples, self._parts)
            else:
                self.ranges = value_ranges(
                    model,
                    points,
                    self._samples,
                    self._cache,
                    first if self._compared else None,
                    method=self.options.method,
                    percentile=self.options.percentile,
                )
        else:
            work = layer_work(model, parent, self._shapes)
            found = search_ranges(model, self._samples, self.options, work, cache=self._cache)
            self.options, self.ranges, self.search = found.options, found.ranges, found.record
            placed = place_layers(editor, self.options, found.sharp)
        if self._compared:
            self._reference = _reference(model, self._samples, first)
        self.work = PairInsertion(editor, placed, self.ranges, self.options, rounded)
        self.work.insert_pairs()
        # Weights are read one at a time, and are never in memory together.
        self.layers = tuple(self.work.quantise(layer) for layer in placed.layers)
        # A node without a name is called by its position, which pairs in front of it change.
        self._labels = {editor.nodes[layer.index].output[0]: layer.label for layer in placed.layers}
        # With a preset, who made it says this.
        copies = () if self._preset is not None else self._samples.copies_note()
        self.notes = (*self.work.notes, *copies)
        self._finals = editor.finish()
        return Change(new=set(self._finals.values()))

    def plan(self, model: Model, weights: Collection[str]) -> Plan | None:  # noqa: ARG002
        return self.work.plan(self._finals, weights)

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        self._child = child
        return check_descent(parent, child, "quantise")

    def compare(self, after: Model) -> Agreement:
        self.islands = _under_old_labels(self._child.islands, after, self._labels)
        place = self._place or place_of(None, _TARGETS[self.options.to])
        self.shares = work_shares(after, self._child, self._shapes, place)
        if self._reference is None:
            return NOT_ASKED
        try:
            # A search has held the outputs to its own limit.
            demands = Demands(close=False, related=self.options.max_loss is None)
            return self._reference.compare(after, demands)
        except DifferenceError as error:
            raise DifferenceError(
                f"{error}; leave layers in float (--max-loss 2%, or --exclude), or write it all the same "
                "(nm2trt quantize --no-compare); nothing was written"
            ) from error


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


def _reference(model: Model, samples: SampleStream, first: Sequence[tuple[Any, Any]]) -> Reference:
    """Return what the float model gives on a batch: as calibration saw it, or run anew after a full cache."""
    if first:
        return reference_of(*first[0])
    with open_session(model, optimize=True) as session:
        given = next(samples.read(samples.batch))
        fitted(given, session.inputs, samples.source)
        size = fixed_batch(session.inputs, sample_shapes(given))
        if size is not None:
            given = filled(next(samples.read(size)), size)
        batch = fitted(given, session.inputs, samples.source)
        return reference_of(batch, session.run(batch))
