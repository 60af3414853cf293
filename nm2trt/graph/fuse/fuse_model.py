"""Fuse what training left apart: masks on weights, BatchNormalizations, parallel convolution branches.

A pass here changes no output of the model beyond rounding, which ONNX Runtime measures before anything is
written, and no weight that holds a pattern loses it: a merge that would is declined.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nm2trt.compare import OutputDifference
from nm2trt.errors import LineageError
from nm2trt.files import check_output
from nm2trt.graph.edit.editor import Declined, Editor
from nm2trt.graph.execute.output_comparison import Agreement, run_reference
from nm2trt.graph.fuse.batchnorm import fold_batchnorm, fold_constant
from nm2trt.graph.fuse.branch_merge import Merger, Merging
from nm2trt.graph.storage.model import Model, load, metadata
from nm2trt.graph.storage.save import refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, Relation, record
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.plan import METADATA_KEY, Plan, PlanEntry

__all__ = ["DeclinedFusion", "FuseReport", "fuse_model"]


_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


@dataclass(frozen=True, slots=True)
class DeclinedFusion:
    """One place that was left as it is.

    Args:
        node: The node.
        fusion: "fold" of a BatchNormalization, or "merge" of a branch.
        reason: One clause that says why.
    """

    node: str
    fusion: str
    reason: str


@dataclass(frozen=True, slots=True)
class FuseReport:
    """What `fuse_model` did.

    Args:
        model: The model that was read.
        output: The model that was written.
        nodes_before: Nodes of the main graph before.
        nodes_after: And after.
        constants_evaluated: Weights whose masks and casts were evaluated.
        batchnorms_folded: BatchNormalizations that are gone.
        branches_merged: Branches that another convolution took in.
        merges: Each convolution that took branches in.
        declined: What was left as it is, and why.
        differences: How far each output moved; () when not measured.
        not_measured: Why the outputs were not compared, or "".
        parent_mask_sha256: Mask hash of the model that was read.
        mask_sha256: Mask hash of the model that was written.
        relation: How the masks relate.
    """

    model: str
    output: str
    nodes_before: int
    nodes_after: int
    constants_evaluated: int
    batchnorms_folded: int
    branches_merged: int
    merges: tuple[Merging, ...]
    declined: tuple[DeclinedFusion, ...]
    differences: tuple[OutputDifference, ...]
    not_measured: str
    parent_mask_sha256: str
    mask_sha256: str
    relation: Relation

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return asdict(self)


def fuse_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    allow_broken: bool = False,
    compare: bool = True,
) -> FuseReport:
    """Write a copy of a model with masks evaluated, BatchNormalizations folded and branches merged.

    Only the main graph is changed. Fusing the result again changes nothing.

    Args:
        source: The ONNX file.
        target: The file to write; not the source.
        allow_broken: Merge branches even where the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.

    Returns:
        What was fused, what was left and why, and how far the outputs moved.

    Raises:
        InputError: A path is wrong.
        ModelError: The model is no sound ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype; nothing is written.
        LineageError: A mask changed in a way that no fusion explains; nothing is written.
        OutputError: The output cannot be written.
    """
    source = Path(source)
    model = load(source)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    check_output(target)
    parent = verify_model(model.proto, external_data_root=model.root)
    nodes_before = len(model.proto.graph.node)
    made_by = {name: node.op_type for node in model.proto.graph.node for name in node.output if name}
    fused = _fuse_graph(model, allow_broken=allow_broken)
    reference = run_reference(source, _folded_values(model, made_by, fused.merges)) if compare else None
    agreement = [Agreement((), "outputs were not compared: not asked for")]
    child: list[str] = []
    relation: list[Relation] = []

    def finish(after: Model) -> None:
        report = verify_model(after.proto, external_data_root=after.root)
        relation.append(_relation(fused, parent.mask_sha256, report.mask_sha256))
        child.append(report.mask_sha256)
        if fused.changed:
            entry = LineageEntry("fuse", parent.mask_sha256, report.mask_sha256, relation[0])
            record(after.proto, entry, fused.plan)
        if reference is not None:
            agreement[0] = reference.compare(after)

    save(model, target, external=fused.external, finish=finish)
    return FuseReport(
        model=str(source),
        output=str(target),
        nodes_before=nodes_before,
        nodes_after=len(model.proto.graph.node),
        constants_evaluated=fused.constants,
        batchnorms_folded=fused.folded,
        branches_merged=sum(len(merge.branches) for merge in fused.merges),
        merges=fused.merges,
        declined=fused.declined,
        differences=agreement[0].differences,
        not_measured=agreement[0].sentence,
        parent_mask_sha256=parent.mask_sha256,
        mask_sha256=child[0],
        relation=relation[0],
    )


def _folded_values(model: Model, made_by: dict[str, str], merges: Sequence[Merging]) -> list[str]:
    """Return the values that a BatchNormalization made before, and a product makes now.

    Args:
        model: The fused model.
        made_by: The operator that made each value before.
        merges: The merges; what a merged product gives is the sum of its branches, under the name of one.
    """
    merged = {merge.weight for merge in merges}
    outputs = {value.name for value in model.proto.graph.output}
    return [
        name
        for node in model.proto.graph.node
        if node.op_type in _PRODUCTS and merged.isdisjoint(node.input)
        for name in node.output
        if name not in outputs and made_by.get(name) == "BatchNormalization"
    ]


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    constants: int
    folded: int
    zeros: int
    merges: tuple[Merging, ...]
    declined: tuple[DeclinedFusion, ...]
    plan: Plan | None
    external: Sequence[Any]

    @property
    def changed(self) -> bool:
        return bool(self.constants or self.folded or self.merges)


def _fuse_graph(model: Model, *, allow_broken: bool) -> _Fused:
    """Run the passes until none finds anything, and apply them to the protobuf."""
    text = metadata(model.proto).get(METADATA_KEY)
    plan = None if text is None else Plan.from_json(text)
    editor = Editor(model)
    constants = sum(fold_constant(editor, index) for index, _ in list(editor.live()))
    folded = zeros = 0
    merges: list[Merging] = []
    while True:
        count, lost, declined = _fold_all(editor)
        folded, zeros = folded + count, zeros + lost
        merger = Merger(editor, plan, allow_broken=allow_broken)
        found = merger.run()
        merges.extend(found)
        if not found:
            break
    declined += [DeclinedFusion(node, "merge", reason) for node, reason in merger.declined]
    finals = editor.finish()
    wanted = {name: editor.new[name].wanted for name in finals}
    named = tuple(replace(merge, weight=_final(merge, finals, wanted)) for merge in merges)
    return _Fused(
        constants,
        folded,
        zeros,
        named,
        tuple(declined),
        None if plan is None else _merged_plan(plan, named, {finals[n]: w for n, w in wanted.items()}),
        editor.stored_externally(list(finals.values())),
    )


def _fold_all(editor: Editor) -> tuple[int, int, list[DeclinedFusion]]:
    """Return BatchNormalizations folded, weights that became zero, and what was declined."""
    folded = zeros = 0
    declined: list[DeclinedFusion] = []
    for index, node in list(editor.live()):
        if node.op_type != "BatchNormalization" or node.domain not in ("", "ai.onnx"):
            continue
        try:
            zeros += fold_batchnorm(editor, index)
            folded += 1
        except Declined as why:
            declined.append(DeclinedFusion(editor.label(index), "fold", str(why)))
    return folded, zeros, declined


def _final(merge: Merging, finals: dict[str, str], wanted: dict[str, str]) -> str:
    """Return a merged weight's name in the file; a later fold may have made it anew."""
    if merge.weight in finals:
        return finals[merge.weight]
    return next((finals[name] for name, want in wanted.items() if want in merge.names), merge.weight)


def _merged_plan(plan: Plan, merges: Sequence[Merging], origins: dict[str, str]) -> Plan:
    """Return the plan under the names of the fused file; branches leave one entry.

    Args:
        plan: The plan of the file that was read.
        merges: The merges, with final names.
        origins: Final name of each new tensor to the name of the tensor that it replaces.
    """
    taken = {name: merge for merge in merges for name in merge.names}
    copies: dict[str, list[str]] = {}
    for final, origin in origins.items():
        if final != origin and origin not in taken:
            copies.setdefault(origin, []).append(final)
    entries: list[PlanEntry] = []
    done: set[str] = set()
    for entry in plan:
        merge = taken.get(entry.weight)
        if merge is None:
            entries.append(entry)
            entries.extend(replace(entry, weight=name) for name in copies.get(entry.weight, ()))
        elif merge.weight not in done:
            done.add(merge.weight)
            entries.append(_joined(plan, merge, entry))
    return replace(plan, entries=tuple(entries))


def _joined(plan: Plan, merge: Merging, first: PlanEntry) -> PlanEntry:
    found = [entry for entry in (plan.get(name) for name in merge.names) if entry is not None]
    sparse = next((entry for entry in found if entry.pattern is not None), None)
    chosen = sparse or first
    reason = f"merged of {', '.join(merge.names)}"
    pattern = None if merge.broken or sparse is None else sparse.pattern
    return replace(chosen, weight=merge.weight, pattern=pattern, reason=reason)


def _relation(fused: _Fused, parent: str, child: str) -> Relation:
    """Name the relation of the masks.

    Raises:
        LineageError: They differ, and no fusion says why.
    """
    if fused.merges:
        return "merged"
    if parent == child:
        return "equal"
    if not fused.zeros:
        raise LineageError(
            "the masks changed, though no weight gained a zero and no branches were merged; "
            "nothing was written"
        )
    return "subset"
