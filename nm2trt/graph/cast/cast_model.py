"""Cast an ONNX model to fp16 or bf16: strongly typed, inputs and outputs as they were, zeros kept.

Operators that need float32's range or digits keep it, visibly (`nm2trt.graph.cast.cast_rules.KEEP`). A value
is cast once for all who read it in the other type, and a tensor is stored in the type in which it is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from nm2trt.calibration.stream import SampleStream
from nm2trt.compare.output_difference import OutputDifference
from nm2trt.errors import DifferenceError, InputError, ModelError
from nm2trt.graph.analysis.shapes import infer_shapes, infer_types
from nm2trt.graph.cast.cast_nodes import Casts
from nm2trt.graph.cast.cast_plan import PrecisionPlan
from nm2trt.graph.cast.cast_rules import LOW, Low, named_for
from nm2trt.graph.cast.report import CastReport
from nm2trt.graph.cast.trial import TRIAL, trial_overflows
from nm2trt.graph.cast.value_bounds import ValueBounds
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.half_precision_emulation import rounded_in_float32
from nm2trt.graph.execute.output_comparison import (
    NOT_ASKED,
    Agreement,
    Demands,
    Reference,
    reference_of,
    run_reference,
)
from nm2trt.graph.execute.range_probes import Run, value_ranges
from nm2trt.graph.function_inlining import inlining
from nm2trt.graph.pass_frame import Change, Pass, run_passes
from nm2trt.graph.storage.model import Model, load, opset
from nm2trt.graph.storage.save import refuse_data_file
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.mask_lineage import check_descent
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation
from nm2trt.nm.plan import Plan

_OPSET_OF_TYPED_SCALES = 19
_OPSET_OF_BF16 = 13


def cast_model(
    source: str | os.PathLike[str] | Model,
    target: str | os.PathLike[str] | None,
    *,
    to: str = "fp16",
    keep: Sequence[str] = (),
    io: bool = False,
    samples: SampleStream | None = None,
    cache: Path | None = None,
    compare: bool = True,
) -> CastReport:
    """Make an open float32 model, or a copy of a file, compute in fp16 or bf16.

    Args:
        source: The ONNX file, or an open model.
        target: The file to write, not the source; None changes the open model.
        to: "fp16" or "bf16".
        keep: Globs on names of nodes, or types of operators, that stay in float32 too.
        io: Cast the model's inputs and outputs too.
        samples: Calibration samples: nodes around values that overflow on them stay in float32.
        cache: File that keeps what calibration found.
        compare: Run both models in ONNX Runtime and say how far they differ.

    Raises:
        InputError: A path, a glob or the type is wrong.
        ModelError: The model is not a valid ONNX file, has nothing to cast, or is quantised in an opset whose
            scales are float32 only.
        DataError: The samples do not fit the model.
        DifferenceError: An output becomes NaN or infinite, or on the samples has little in common with the
            original's; nothing is written.
        LineageError: A zero was lost; nothing is written.
        OutputError: The output cannot be written.
        Interrupted: Calibration was stopped.
    """
    if to not in LOW:
        raise InputError(f"cannot cast to {to!r}; choose {' or '.join(LOW)}")
    step = _Cast(LOW[to], keep, samples, cache, io=io, compared=compare)
    model = load(source, leave_weights=True)
    passed = run_passes(model, target, [*inlining(model, compared=compare), step])
    agreement = passed.agreement
    return CastReport(
        **passed.facts(),
        to=to,
        cast_nodes=step.work.cast_nodes,
        kept=tuple(step.cast_plan.kept()),
        casts=step.work.casts,
        tensors=tuple(t for t in step.cast_plan.tensors.values() if t.overflow or t.subnormal or t.lost),
        overflowing=step.overflowing,
        samples=0 if samples is None else samples.count,
        differences=agreement.differences,
        comparison=agreement.sentence,
    )


class _Cast(Pass):
    """Requires an opset that names the type; ensures that no weight loses a zero."""

    def __init__(
        self,
        low: Low,
        keep: Sequence[str],
        samples: SampleStream | None,
        cache: Path | None,
        *,
        io: bool,
        compared: bool,
    ) -> None:
        self.stage = f"cast {low.name}"
        self._low, self._keep, self._samples, self._cache = low, keep, samples, cache
        self._io, self._compared = io, compared
        self._reference: Reference | None = None

    def requires(self, model: Model) -> None:
        if self._cache is not None:
            refuse_data_file(model, self._cache)
        _check_scales(model)
        _check_opset(model, self._low)

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:  # noqa: ARG002
        low, samples = self._low, self._samples
        editor, types = Inserter(model, low.name), infer_types(model)
        if self._compared and samples is None:
            self._reference = run_reference(model)
        self.cast_plan, self.overflowing, first = _planned(
            editor, types, low, self._keep, samples, self._cache, self._reference
        )
        if self._compared and self._reference is None:
            self._reference = run_reference(model) if first is None else reference_of(*first)
        self.work = Casts(editor, self.cast_plan, types, low, io=self._io)
        self.work.run()
        self._finals = editor.finish()
        self.work.retype(self._finals)
        lowered = {node.op_type for index, node in editor.live() if self.cast_plan.is_low(index)}
        self.notes = _notes(lowered, opset(model.proto) or 0, low)
        return Change(editor.made, set(self._finals.values()))

    def plan(self, model: Model, weights: Collection[str]) -> Plan | None:
        return _plan(model, self._finals, self.work.renamed, weights)

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        return check_descent(parent, child, f"cast to {self._low.name}")

    def compare(self, after: Model) -> Agreement:
        if self._reference is None:
            return NOT_ASKED
        related = self._samples is not None
        try:
            agreement = _compare(self._reference, after, self._low, self.work.made_low, related=related)
        except DifferenceError as error:
            raise DifferenceError(
                f"{error}; {self._remedy}, or write it all the same (nm2trt cast --no-compare); nothing was "
                "written"
            ) from error
        self.notes = (*self.notes, *_doubts(agreement.differences, self._remedy))
        return agreement

    @property
    def _remedy(self) -> str:
        if self._samples is not None:
            return "name nodes to keep in float32 (nm2trt cast --keep)"
        return (
            f"give samples (--calib) that show which values overflow {self._low.name}, or name nodes to keep "
            "in float32 (nm2trt cast --keep)"
        )


def _check_opset(model: Model, low: Low) -> None:
    version = opset(model.proto)
    # Without operators of ONNX's own there is nothing to cast, which is said later.
    if low.name == "bf16" and version is not None and version < _OPSET_OF_BF16:
        raise ModelError(
            f"{model.name} is of opset {version}; bf16 needs opset {_OPSET_OF_BF16} or newer: export it "
            "again, or convert it with onnx.version_converter"
        )


def _check_scales(model: Model) -> None:
    version = opset(model.proto) or 0
    quantised = any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node)
    if quantised and version < _OPSET_OF_TYPED_SCALES:
        raise ModelError(
            f"{model.name} is quantised in opset {version}, whose scales are float32 only, so that every "
            "pair would need a Cast that breaks its layer apart; export it with opset "
            f"{_OPSET_OF_TYPED_SCALES} or newer"
        )


def _planned(
    editor: Inserter,
    types: Mapping[str, int],
    low: Low,
    keep: Sequence[str],
    samples: SampleStream | None,
    cache: Path | None,
    reference: Reference | None,
) -> tuple[PrecisionPlan, dict[str, float], Run | None]:
    """Decide what is cast: by samples, or by the graph and a trial on random inputs."""
    if samples is not None:
        first: list[Run] = []
        plan = PrecisionPlan(editor, types, low, keep, {})
        ranges = value_ranges(editor.model, plan.low_values(), samples, cache, first, infinite=True)
        overflowing = {v: ranges.largest(v) for v in ranges.low if ranges.largest(v) > low.largest}
        plan = PrecisionPlan(editor, types, low, keep, overflowing)
        return plan, overflowing, first[0] if first else None
    bounds = ValueBounds(editor, infer_shapes(editor.model))
    plan = PrecisionPlan(editor, types, low, keep, {}, bounds=bounds)
    if reference is None or reference.sentence:
        return plan, {}, None
    overflowing = trial_overflows(editor.model, plan.low_values(), reference.feeds, low.largest)
    if overflowing:
        plan = PrecisionPlan(editor, types, low, keep, overflowing, bounds=bounds, seen_in=TRIAL)
    return plan, overflowing, None


def _compare(reference: Reference, after: Model, low: Low, made_low: set[str], *, related: bool) -> Agreement:
    if reference.sentence:
        return Agreement((), reference.sentence)
    # The comparison runs in float32: inputs of the lower type too.
    feeds = {
        name: array.astype(np.float32) if array.dtype == low.dtype else array
        for name, array in reference.feeds.items()
    }
    rounded = rounded_in_float32(after, frozenset(made_low), low.onnx)
    demands = Demands(close=False, alive=(low.epsilon, low.floor), related=related)
    found = Reference(feeds, reference.outputs).compare(rounded, demands)
    return Agreement(found.differences, f"compared in float32 arithmetic, each value rounded to {low.name}")


def _plan(
    model: Model, finals: Mapping[str, str], renamed: Mapping[str, str], weights: Collection[str]
) -> Plan | None:
    plan = plan_of(model)
    if plan is None:
        return None
    names = {old: finals[new] for old, new in renamed.items() if finals.get(new, old) != old}
    known = {entry.weight for entry in plan}
    return plan.renamed({old: new for old, new in names.items() if old in known}, weights)


def _doubts(differences: Sequence[OutputDifference], remedy: str) -> list[str]:
    return [
        f"output {item.name!r} has a cosine of {item.cosine_text} to the original's: {remedy}"
        for item in differences
        if item.unrelated
    ]


def _notes(operators: Collection[str], version: int, low: Low) -> tuple[str, ...]:
    """Name the operators that compute in a type which ONNX gave them only in a later opset."""
    later = ", ".join(sorted(operator for operator in operators if not named_for(operator, version, low)))
    why = "TensorRT reads it anyway, onnx.checker and ONNX Runtime refuse it"
    return (f"opset {version} names no {low.name} for {later}: {why}",) if later else ()
