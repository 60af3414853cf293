"""Cast an ONNX model to fp16 or bf16: strongly typed, inputs and outputs as they were, zeros kept.

Operators that need float32's range or digits keep it, visibly (`nm2trt.graph.cast.cast_rules.KEEP`). A value
is cast once for all who read it in the other type, and a tensor is stored in the type in which it is read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from nm2trt.backends.ort import open_onnx
from nm2trt.calibration.ranges import Ranges, calibrate
from nm2trt.calibration.stream import SampleStream
from nm2trt.compare import OutputDifference
from nm2trt.errors import DifferenceError, InputError, ModelError
from nm2trt.files import check_output
from nm2trt.graph.analysis.shapes import infer_shapes, infer_types
from nm2trt.graph.cast.cast_nodes import Casts
from nm2trt.graph.cast.cast_plan import PrecisionPlan
from nm2trt.graph.cast.cast_rules import LOW, Low
from nm2trt.graph.cast.report import CastReport
from nm2trt.graph.cast.trial import TRIAL, trial_overflows
from nm2trt.graph.cast.value_bounds import ValueBounds
from nm2trt.graph.edit.node_inserter import Inserter
from nm2trt.graph.execute.half_precision_emulation import rounded_in_float32
from nm2trt.graph.execute.output_comparison import Agreement, Reference, run_reference
from nm2trt.graph.execute.range_probes import observable
from nm2trt.graph.storage.model import Model, load, metadata, opset
from nm2trt.graph.storage.model_hash import model_hash
from nm2trt.graph.storage.save import embed, refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.verify.mask_lineage import check_descent
from nm2trt.graph.verify.verify_model import VerifyReport, verify_model
from nm2trt.nm.plan import METADATA_KEY, Plan

__all__ = ["CastReport", "cast_model"]

# One batch: what the model was fed, and what it gave.
_Run: TypeAlias = tuple[Mapping[str, npt.NDArray[Any]], Mapping[str, npt.NDArray[Any]]]

_OPSET_OF_TYPED_SCALES = 19
_OPSET_OF_BF16 = 13
_UNRELATED = 0.5


def cast_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: str = "fp16",
    keep: Sequence[str] = (),
    io: bool = False,
    samples: SampleStream | None = None,
    cache: Path | None = None,
    compare: bool = True,
) -> CastReport:
    """Write a copy of a float32 model that computes in fp16 or bf16.

    Args:
        source: The ONNX file.
        target: The file to write; not the source.
        to: "fp16" or "bf16".
        keep: Globs on names of nodes, or types of operators, that stay in float32 too.
        io: Cast the model's inputs and outputs too.
        samples: Calibration samples: nodes around values that overflow on them stay in float32.
        cache: File that keeps what calibration found.
        compare: Run both models in ONNX Runtime and say how far they differ.

    Raises:
        InputError: A path, a glob or the type is wrong.
        ModelError: The model is no sound ONNX file, has nothing to cast, or is quantised in an opset whose
            scales are float32 alone.
        DataError: The samples do not fit the model.
        DifferenceError: An output becomes NaN or infinite; nothing is written.
        LineageError: A zero was lost; nothing is written.
        OutputError: The output cannot be written.
        Interrupted: Calibration was stopped.
    """
    if to not in LOW:
        raise InputError(f"cannot cast to {to!r}; choose {' or '.join(LOW)}")
    low = LOW[to]
    source = Path(source)
    model = load(source, leave_weights=True)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    if cache is not None:
        refuse_data_file(model, cache)
    check_output(target)
    _check_scales(model)
    _check_opset(model, low)
    editor, types = Inserter(model, to), infer_types(model)
    reference = run_reference(source) if compare and samples is None else None
    plan, overflowing, first = _planned(source, editor, types, low, keep, samples, cache, reference)
    work = Casts(editor, plan, types, low, io=io)
    work.run()
    parent = verify_model(source)
    finals = editor.finish()
    work.retype(finals)
    embed(model)
    if compare and reference is None:
        reference = Reference(*first) if first is not None else run_reference(source)
    agreement = [Agreement((), "outputs were not compared: not asked for")]
    written: list[VerifyReport] = []

    def finish(after: Model) -> None:
        report = verify_model(after.proto, external_data_root=after.root)
        relation = check_descent(parent, report, f"cast to {to}")
        entry = LineageEntry(f"cast {to}", parent.mask_sha256, report.mask_sha256, relation)
        weights = {row.weight for row in report.weights}
        record(after.proto, entry, _plan(model, finals, work.renamed, weights))
        if reference is not None:
            agreement[0] = _compare(reference, after, low, work.made_low)
        written.append(report)

    save(model, target, external=editor.stored_externally(list(finals.values())), finish=finish)
    return CastReport(
        model=str(source),
        output=str(target),
        to=to,
        cast_nodes=work.cast_nodes,
        kept=tuple(plan.kept()),
        casts=work.casts,
        tensors=tuple(t for t in plan.tensors.values() if t.overflow or t.subnormal or t.lost),
        overflowing=overflowing,
        samples=0 if samples is None else samples.count,
        differences=agreement[0].differences,
        comparison=agreement[0].sentence,
        notes=(*_notes(model, low), *_doubts(agreement[0].differences)),
        parent_mask_sha256=parent.mask_sha256,
        mask_sha256=written[0].mask_sha256,
        relation="equal" if parent.mask_sha256 == written[0].mask_sha256 else "subset",
    )


def _check_opset(model: Model, low: Low) -> None:
    version = opset(model.proto) or 0
    if low.name == "bf16" and version < _OPSET_OF_BF16:
        raise ModelError(
            f"{model.name} is of opset {version}; bf16 needs opset {_OPSET_OF_BF16} or newer: export it "
            "again, or convert it with onnx.version_converter"
        )


def _check_scales(model: Model) -> None:
    version = opset(model.proto) or 0
    quantised = any(node.op_type == "QuantizeLinear" for node in model.proto.graph.node)
    if quantised and version < _OPSET_OF_TYPED_SCALES:
        raise ModelError(
            f"{model.name} is quantised in opset {version}, whose scales are float32 alone, so that every "
            "pair would need a Cast that breaks its layer apart; export it with opset "
            f"{_OPSET_OF_TYPED_SCALES} or newer"
        )


def _planned(
    source: Path,
    editor: Inserter,
    types: Mapping[str, int],
    low: Low,
    keep: Sequence[str],
    samples: SampleStream | None,
    cache: Path | None,
    reference: Reference | None,
) -> tuple[PrecisionPlan, dict[str, float], _Run | None]:
    """Decide what is cast: by samples, or by the graph and a trial on random inputs."""
    if samples is not None:
        plan = PrecisionPlan(editor, types, low, keep, {})
        ranges, first = _calibrate(source, plan.low_values(), samples, cache)
        overflowing = {v: ranges.largest(v) for v in ranges.low if ranges.largest(v) > low.largest}
        return PrecisionPlan(editor, types, low, keep, overflowing), overflowing, first
    bounds = ValueBounds(editor, infer_shapes(editor.model)) if low.name == "fp16" else None
    plan = PrecisionPlan(editor, types, low, keep, {}, bounds=bounds)
    if reference is None or reference.sentence or low.name != "fp16":
        return plan, {}, None
    overflowing = trial_overflows(source, plan.low_values(), reference.feeds, low.largest)
    if overflowing:
        plan = PrecisionPlan(editor, types, low, keep, overflowing, bounds=bounds, seen_in=TRIAL)
    return plan, overflowing, None


def _calibrate(
    source: Path, values: Sequence[str], samples: SampleStream, cache: Path | None
) -> tuple[Ranges, _Run | None]:
    """Return every value's range, and the first batch with the outputs it gave."""
    seen = observable(source, values, whole=False)
    given = {value.name for value in load(source, leave_weights=True).proto.graph.output}
    first: list[_Run] = []
    ranges = calibrate(
        lambda: open_onnx(seen.data, weights_folder=seen.weights_folder),
        seen.observed,
        samples,
        model_sha256=model_hash(source),
        cache=cache,
        first=lambda feeds, outputs: first.append((feeds, {name: outputs[name].copy() for name in given})),
        infinite=True,
    )
    return ranges, first[0] if first else None


def _compare(reference: Reference, after: Model, low: Low, made_low: set[str]) -> Agreement:
    if reference.sentence:
        return Agreement((), reference.sentence)
    feeds = {name: _readable(array, low) for name, array in reference.feeds.items()}
    rounded = rounded_in_float32(after, frozenset(made_low), low.onnx)
    try:
        found = Reference(feeds, reference.outputs).compare(
            rounded, required=False, alive=(low.epsilon, low.floor)
        )
    except DifferenceError as error:
        raise DifferenceError(
            f"{error}; give samples (--calib) that show which values overflow {low.name}, or name nodes to "
            "keep in float32 (--keep); nothing was written"
        ) from error
    return Agreement(found.differences, f"compared in float32 arithmetic, each value rounded to {low.name}")


def _readable(array: npt.NDArray[Any], low: Low) -> npt.NDArray[Any]:
    """Return an input of the lower type as float32, in which the comparison runs."""
    return array.astype(np.float32) if array.dtype == low.dtype else array


def _plan(
    model: Model, finals: Mapping[str, str], renamed: Mapping[str, str], weights: Collection[str]
) -> Plan | None:
    text = metadata(model.proto).get(METADATA_KEY)
    if text is None:
        return None
    names = {old: finals[new] for old, new in renamed.items() if finals.get(new, old) != old}
    plan = Plan.from_json(text)
    known = {entry.weight for entry in plan}
    return plan.renamed({old: new for old, new in names.items() if old in known}, weights)


def _doubts(differences: Sequence[OutputDifference]) -> list[str]:
    return [
        f"output {item.name!r} has a cosine of {item.cosine_text} to the original's: give samples (--calib), "
        "or keep nodes in float32 (--keep)"
        for item in differences
        if item.max_abs > 0 and (item.cosine is None or item.cosine < _UNRELATED)
    ]


def _notes(model: Model, low: Low) -> list[str]:
    version = opset(model.proto) or 0
    if low.name == "bf16" and version < 22:
        why = "TensorRT reads it all the same, onnx.checker may not"
        return [f"opset {version} names no bf16 for some operators, such as Conv before opset 22: {why}"]
    return []
