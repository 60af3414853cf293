"""Verification of an ONNX model: which weights hold N:M on the axis that their consumer reduces.

For every weight and every consumer two questions are answered apart: does the pattern hold, and may a
sparse kernel run it. Only the first is a property of the file; the second follows the rules of
`nm2trt.nm.eligibility`, each of which names its source.
"""

from __future__ import annotations

import os
from dataclasses import replace

from nm2trt.errors import InputError
from nm2trt.graph.analysis.parser_hazards import BLOCKED
from nm2trt.graph.analysis.qdq_islands import find_islands
from nm2trt.graph.analysis.quantised_values import quantised_node
from nm2trt.graph.analysis.scopes import first_node
from nm2trt.graph.analysis.shapes import infer_shapes
from nm2trt.graph.analysis.sound_nodes import check_nodes
from nm2trt.graph.analysis.weight_operands import consumers
from nm2trt.graph.storage.element_types import ELEMENT_TYPES, ElementType
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, load, metadata, opset
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.report import VerifyReport, summarise
from nm2trt.graph.verify.stored_readers import Changes
from nm2trt.graph.verify.verdicts import DEFAULT_PATTERN, WeightJudge
from nm2trt.nm.eligibility import NOWHERE, Place
from nm2trt.nm.eligibility_tables import UNREAD_BY_RTX, UNREAD_OPERATORS
from nm2trt.nm.lineage import METADATA_KEY as MASK_KEY
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.verdict import WeightVerdict


def verify_model(
    source: str | os.PathLike[str] | bytes | onnx.ModelProto | Model,
    *,
    pattern: NMPattern | str | None = None,
    as_dtype: str | None = None,
    external_data_root: str | os.PathLike[str] | None = None,
    place: Place = NOWHERE,
) -> VerifyReport:
    """Judge every weight of a model.

    Args:
        source: A path, the bytes of a file, a protobuf, or an open model, whose weights are read once for
            each pair of `pattern` and `as_dtype`.
        pattern: The pattern to hold. By default each weight is held to its plan, or to 2:4 if the
            metadata has no plan. If given, it replaces the plan's patterns;
            layers that the plan keeps dense stay dense.
        as_dtype: "fp16" or "bf16" judges what rounding floating-point weights to that type leaves.
        external_data_root: Folder below which external data is read; by default the real model's folder.
        place: Builder, version and targets that eligibility is answered for.

    Raises:
        InputError: The path or an argument is wrong.
        ModelError: The file is not a sound ONNX model.
        PatternError: `pattern` is not an N:M pattern.
    """
    model = load(source, external_data_root=external_data_root, leave_weights=True)
    asked = None if pattern is None else NMPattern.parse(pattern)
    report = model.once(("verify", asked, as_dtype), lambda: _verify(model, asked, as_dtype))
    return report if place == NOWHERE else report.at(place)


def _verify(model: Model, asked: NMPattern | None, as_dtype: str | None) -> VerifyReport:
    plan = plan_of(model)
    # First: onnx's shape inference unfolds functions without a bound, and this refuses those that have none.
    check_nodes(model)
    operands = list(consumers(model))
    islands = find_islands(model, operands)
    planned = {entry.weight: entry for entry in plan or ()}
    judge_one = WeightJudge(
        asked,
        planned,
        _rounding(as_dtype),
        infer_shapes(model),
        islands,
        unread=first_node(model, UNREAD_OPERATORS, BLOCKED),
        unread_by_rtx=first_node(model, UNREAD_BY_RTX),
        opset=opset(model.proto) or 0,
        changes=Changes(model, operands),
    )
    found = judge_one.all(operands)
    model.check_unchanged()
    seen = {name for verdict in found for name in (verdict.weight, *verdict.parts)}
    missing = tuple(e.weight for e in (plan.sparse if plan else ()) if e.weight not in seen)
    if plan is not None and not missing:
        # Every planned weight is accounted for, so that one the plan does not name was never to be sparse.
        found = [
            _unplanned(verdict) if planned.keys().isdisjoint((verdict.weight, *verdict.parts)) else verdict
            for verdict in found
        ]
    return VerifyReport(
        model=str(model.path or ""),
        pattern=asked or DEFAULT_PATTERN,
        weights=tuple(found),
        plan=plan,
        missing=missing,
        mask_sha256=judge_one.masks.hexdigest(),
        recorded_mask_sha256=metadata(model.proto).get(MASK_KEY, ""),
        summary=summarise(model, found),
        islands=tuple(islands.values()),
        quantised=quantised_node(model),
    )


def without_verdicts(model: Model) -> VerifyReport:
    """Return what `verify_model` finds of a model but for its weights: for whoever only compares masks.

    Raises:
        ModelError: The file is not a sound ONNX model.
    """
    whole: VerifyReport | None = model.facts.get(("verify", None, None))
    return whole or model.once("masks", lambda: _without_verdicts(model))


def _without_verdicts(model: Model) -> VerifyReport:
    check_nodes(model)
    found = WeightJudge().hash_masks(list(consumers(model)))
    model.check_unchanged()
    return VerifyReport(
        model=str(model.path or ""),
        pattern=DEFAULT_PATTERN,
        weights=(),
        plan=plan_of(model),
        missing=(),
        mask_sha256=found,
        recorded_mask_sha256=metadata(model.proto).get(MASK_KEY, ""),
        summary=summarise(model, ()),
    )


def _rounding(as_dtype: str | None) -> ElementType | None:
    if as_dtype is None:
        return None
    names = {"fp16": "float16", "float16": "float16", "bf16": "bfloat16", "bfloat16": "bfloat16"}
    if as_dtype not in names:
        raise InputError(f"--as takes fp16 or bf16, not {as_dtype!r}")
    return next(kind for kind in ELEMENT_TYPES.values() if kind.name == names[as_dtype])


def _unplanned(verdict: WeightVerdict) -> WeightVerdict:
    if verdict.pattern != "broken":
        return verdict
    return replace(
        verdict,
        pattern="dense-by-plan",
        wanted="",
        reason="dense-by-plan",
        sentence="dense by plan: the plan does not name it, and every weight that it names is here",
    )
