"""Fuse what training left apart: masks on weights, BatchNormalizations, parallel convolution branches.

A pass here changes no output of the model beyond rounding, which ONNX Runtime measures before anything is
written, and no weight that holds a pattern loses it: a merge that would is declined.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from nm2trt.errors import LineageError
from nm2trt.graph.analysis.kernel_chains import PRODUCTS
from nm2trt.graph.edit.editor import Editor
from nm2trt.graph.edit.graph_view import Declined
from nm2trt.graph.execute.output_comparison import NOT_ASKED, Agreement, Reference, start_reference
from nm2trt.graph.function_inlining import inlining
from nm2trt.graph.fuse.batchnorm import fold_batchnorm
from nm2trt.graph.fuse.branch_merge import Merger, Merging
from nm2trt.graph.fuse.constant_weights import fold_constant
from nm2trt.graph.fuse.report import DeclinedFusion, FuseReport
from nm2trt.graph.pass_frame import Change, Pass, run_passes
from nm2trt.graph.storage.light_onnx import is_default, onnx
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation
from nm2trt.nm.plan import Plan, PlanEntry


def fuse_model(
    source: str | os.PathLike[str] | Model,
    target: str | os.PathLike[str] | None,
    *,
    allow_broken: bool = False,
    compare: bool = True,
    moved: bool = False,
) -> FuseReport:
    """Evaluate masks, fold BatchNormalizations and merge branches, in a copy of a file or in an open model.

    Only the main graph is changed; calls of local functions are inlined into it first. Fusing the result
    again changes nothing.

    Args:
        source: The ONNX file, or an open model.
        target: The file to write, not the source; None changes the open model.
        allow_broken: Merge branches even if the result loses the pattern that they held.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.
        moved: Store a weight as it is multiplied, if nothing else reads it: a Transpose, Reshape, Slice,
            Split or Concat in front of it goes.

    Returns:
        What was fused, what was left and why, and how far the outputs moved.

    Raises:
        InputError: A path is wrong.
        ModelError: The model is not a valid ONNX file.
        DifferenceError: The outputs differ beyond the tolerance of their dtype; nothing is written.
        LineageError: A mask changed in a way that no fusion explains; nothing is written.
        OutputError: The output cannot be written.
    """
    step = _Fuse(allow_broken=allow_broken, compared=compare, moved=moved)
    model = load(source, leave_weights=True)
    passed = run_passes(model, target, [*inlining(model, compared=compare), step])
    fused, agreement = step.fused, passed.agreement
    return FuseReport(
        **passed.facts(),
        nodes_before=step.nodes_before,
        nodes_after=step.nodes_after,
        constants_evaluated=fused.constants,
        batchnorms_folded=fused.folded,
        branches_merged=sum(len(merge.branches) for merge in fused.merges),
        merges=fused.merges,
        declined=fused.declined,
        differences=agreement.differences,
        not_measured=agreement.sentence,
    )


class _Fuse(Pass):
    """Requires a float model with sorted nodes; ensures equal masks, more zeros, or merged branches."""

    stage = "fuse"
    reads_verdicts = False

    def __init__(self, *, allow_broken: bool, compared: bool, moved: bool) -> None:
        self._allow_broken, self._compared, self._moved = allow_broken, compared, moved
        self._reference: Reference | None = None

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:  # noqa: ARG002 - one frame for all passes
        graph = model.proto.graph
        self.nodes_before = len(graph.node)
        pending = None
        if self._compared:
            watched = _normed_or_summed(graph) - {value.name for value in graph.output}
            pending = start_reference(model, sorted(watched))
        self.fused = _fuse_graph(model, allow_broken=self._allow_broken, moved=self._moved)
        self.nodes_after = len(graph.node)
        if pending is not None:
            same, reference = _values_of_fusions(model, self.fused), pending()
            kept = {name: value for name, value in reference.inside.items() if name in same}
            self._reference = replace(reference, inside=kept)
        return Change(new=self.fused.new, idle=not self.fused.changed)

    def plan(self, model: Model, weights: Collection[str]) -> Plan | None:  # noqa: ARG002
        return self.fused.plan if self.fused.changed else None

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        return _relation(self.fused, parent.mask_sha256, child.mask_sha256)

    def start_compare(self, after: Model) -> Callable[[], Agreement]:
        return (lambda: NOT_ASKED) if self._reference is None else self._reference.start_compare(after)


def _normed_or_summed(graph: onnx.GraphProto) -> set[str]:
    """Return the values that a fusion may make anew: those of BatchNormalizations, and sums of branches."""
    found: set[str] = set()
    branches: set[str] = set()
    for node in graph.node:
        if node.op_type == "BatchNormalization" or (
            node.op_type in ("Add", "Sum") and not branches.isdisjoint(node.input)
        ):
            found.update(filter(None, node.output))
            branches.update(node.output)
        elif node.op_type == "Conv":
            branches.update(node.output)
    return found


def _values_of_fusions(model: Model, fused: _Fused) -> set[str]:
    """Return the values of the fused model that stand where it was changed, and should be as before.

    A product gives what its BatchNormalization gave, or the sum of merged branches; under the name of one of
    them, if others stand in the sum too.
    """
    return {
        name
        for node in model.proto.graph.node
        for name in node.output
        if (name in fused.sums or node.op_type in PRODUCTS) and name not in fused.partial
    }


@dataclass(frozen=True, slots=True, eq=False)
class _Fused:
    constants: int
    folded: int
    zeros: int
    merges: tuple[Merging, ...]
    declined: tuple[DeclinedFusion, ...]
    plan: Plan | None
    new: Collection[str]
    sums: Collection[str]
    partial: Collection[str]

    @property
    def changed(self) -> bool:
        return bool(self.constants or self.folded or self.merges)


def _fuse_graph(model: Model, *, allow_broken: bool, moved: bool) -> _Fused:
    """Run the passes until they find nothing more, and apply them to the protobuf."""
    plan = plan_of(model)
    editor = Editor(model)
    apart: dict[str, bool] | None = {} if moved else None
    constants = sum(fold_constant(editor, index, apart) for index, _ in list(editor.live()))
    folded = zeros = 0
    merges: list[Merging] = []
    sums: set[str] = set()
    partial: set[str] = set()
    while True:
        count, lost, declined = _fold_all(editor)
        folded, zeros = folded + count, zeros + lost
        merger = Merger(editor, plan, allow_broken=allow_broken)
        found = merger.run()
        merges.extend(found)
        sums |= merger.sums
        partial |= merger.partial
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
        set(finals.values()),
        sums,
        partial,
    )


def _fold_all(editor: Editor) -> tuple[int, int, list[DeclinedFusion]]:
    """Return BatchNormalizations folded, weights that became zero, and what was declined."""
    folded = zeros = 0
    declined: list[DeclinedFusion] = []
    for index, node in list(editor.live()):
        if node.op_type != "BatchNormalization" or not is_default(node):
            continue
        if editor.scope.state(node.output[0]).kind == "constant":  # it normalises a weight
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
