"""Write the plan and the mask hash into an ONNX file's metadata, under the file's own names.

Exporters rename weights and transpose them. A plan's entry is matched with a weight by equal name and
shape, else by shape only, both with the reduction axis last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nm2trt import __version__
from nm2trt.files import write_atomic
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.lineage import METADATA_KEY as MASK_KEY
from nm2trt.nm.plan import METADATA_KEY as PLAN_KEY
from nm2trt.nm.plan import Plan, PlanEntry
from nm2trt.nm.verdict import WeightVerdict

VERSION_KEY = "nm2trt.version"


@dataclass(frozen=True, slots=True)
class Annotation:
    """What was written into the metadata.

    Args:
        plan: The plan under ONNX tensor names, or None if the module had no plan.
        mask_sha256: The mask hash of the file.
        filled: Tensors that have fewer zeros than the plan's pattern.
    """

    plan: Plan | None
    mask_sha256: str
    filled: tuple[str, ...] = ()


def annotate(path: str | os.PathLike[str], plan: Plan | None) -> Annotation:
    """Write version, mask hash and plan into the metadata of an ONNX file, whole or not at all.

    Weights in external data are read for the hash and stay where they are.

    Args:
        path: The file.
        plan: The plan under the names of torch parameters (or already of tensors), or None.

    Raises:
        ModelError: The file is not a sound ONNX model.
        OutputError: The file cannot be written.
    """
    report = verify_model(path)
    if plan is not None:
        plan = pack_directions(plan, report.weights)
    renamed = None if plan is None else plan.renamed(match_plan(plan, report.weights))
    values = {VERSION_KEY: __version__, MASK_KEY: report.mask_sha256}
    if renamed is not None:
        values[PLAN_KEY] = renamed.to_json()
    model = onnx.load(os.fspath(path), load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key not in (VERSION_KEY, MASK_KEY, PLAN_KEY)]
    pairs = [(entry.key, entry.value) for entry in kept] + list(values.items())
    del model.metadata_props[:]
    for key, value in pairs:
        model.metadata_props.add(key=key, value=value)
    write_atomic(path, model.SerializeToString())
    planned = {entry.weight: entry.pattern for entry in renamed or () if entry.pattern is not None}
    rows = {row.weight: row.zero_share for row in report.weights if row.weight in planned}
    filled = [w for w, share in rows.items() if share is not None and share < planned[w].sparsity - 1e-9]
    return Annotation(renamed, report.mask_sha256, tuple(filled))


def pack_directions(plan: Plan, weights: Sequence[WeightVerdict]) -> Plan:
    """Join the entries of an LSTM's or GRU's two directions if the file holds them in one tensor.

    Args:
        plan: The plan under the names of torch parameters.
        weights: One row per consumer; a packed tensor has the name of the forward direction's parameter.

    Returns:
        The plan with one entry per packed tensor; the directions have one pattern, or the tensor is dense.
    """
    recurrent = ("LSTM", "GRU", "RNN")
    packed = {w.weight: w for w in weights if w.facts is not None and w.facts.operator in recurrent}
    entries, joined = [], set()
    for entry in plan:
        row = packed.get(entry.weight)
        if row is None or len(row.shape) != 3 or len(entry.shape) != 2:
            entries.append(entry)
            continue
        other = plan.get(f"{entry.weight}_reverse") or entry
        joined.add(f"{entry.weight}_reverse")
        if other.pattern == entry.pattern:
            entries.append(replace(entry, shape=row.shape, axis=row.axis))
            continue
        reason = f"{entry.weight} and {other.weight} share a tensor and were given different patterns"
        entries.append(PlanEntry(entry.weight, None, reason, row.shape, row.axis, unstructured=True))
    return replace(plan, entries=tuple(entry for entry in entries if entry.weight not in joined))


def match_plan(plan: Plan, weights: Sequence[WeightVerdict]) -> dict[str, str]:
    """Match entries with weights.

    Equal name and canonical shape (reduction axis last) decide first. What is left is matched by canonical
    shape in the order of the graph, a weight whose share of zeros fits the entry before one whose does not.

    Args:
        plan: The plan.
        weights: One row per consumer, in the order of the graph.

    Returns:
        Entry name to tensor name, for the entries that were matched.
    """
    free: dict[str, WeightVerdict] = {}
    for row in weights:
        if row.axis is not None:
            free.setdefault(row.weight, row)
    names: dict[str, str] = {}
    for entry in plan:
        row_of_name = free.get(entry.weight)
        if row_of_name is not None and _canonical(row_of_name) == entry.canonical_shape:
            names[entry.weight] = free.pop(entry.weight).weight
    for entry in plan:
        if entry.weight in names or entry.axis is None:
            continue
        same = [row for row in free.values() if _canonical(row) == entry.canonical_shape]
        chosen = next((row for row in same if _zeros_fit(entry, row)), same[0] if same else None)
        if chosen is not None:
            names[entry.weight] = free.pop(chosen.weight).weight
    return names


def _canonical(row: WeightVerdict) -> tuple[int, ...]:
    return PlanEntry(row.weight, None, "", row.shape, row.axis).canonical_shape


def _zeros_fit(entry: PlanEntry, row: WeightVerdict) -> bool:
    share = row.zero_share or 0.0
    if entry.pattern is not None:
        return share >= entry.pattern.sparsity
    # Trained dense weights hold few exact zeros; an unstructured entry may hold any number.
    return entry.unstructured or share < 0.25
