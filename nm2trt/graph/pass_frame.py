"""The frame of a pass: refuse or take a model, rewrite it, verify, compare, record, and write it if asked.

A pass says what it requires of a model and what it ensures of the masks. The frame runs it on a file or on an
open model. Passes on one open model compose in memory: the report that one leaves is the next one's parent.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nm2trt.files import check_output
from nm2trt.graph.analysis.sound_nodes import check_nodes
from nm2trt.graph.analysis.weight_operands import consumers
from nm2trt.graph.execute.output_comparison import NOT_ASKED, Agreement
from nm2trt.graph.storage.external_data import clear_values
from nm2trt.graph.storage.light_onnx import TensorProto
from nm2trt.graph.storage.model import Model, load, set_metadata
from nm2trt.graph.storage.model_file import Rewrite
from nm2trt.graph.storage.save import embed, inline_bytes, refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, plan_of, record
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.graph.verify.verify_model import verify_model, without_verdicts
from nm2trt.nm.lineage import Relation
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import METADATA_KEY, Plan

_LARGE_BYTES = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """What a pass did to the protobuf, and what is left to do when the model is written.

    Args:
        rewrites: Tensors whose numbers change.
        new: Names of initializers that the pass added; they go into the data file if the model has one.
        idle: Whether the pass found nothing to do, so that the model's lineage stays as it is.
    """

    rewrites: Sequence[Rewrite] = ()
    new: Collection[str] = ()
    idle: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    """What the frame saw of a pass.

    Args:
        parent: The report on the model before.
        child: The report on the model after, as it will be read back.
        relation: How the masks relate.
        agreement: How far the outputs agree.
        model: The model that was read.
        output: The model that was written; "" if it stays in memory.
        notes: Those of all passes.
    """

    parent: VerifyReport
    child: VerifyReport
    relation: Relation
    agreement: Agreement
    model: str = ""
    output: str = ""
    notes: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what a `PassReport` says, by its fields."""
        return {
            "model": self.model,
            "output": self.output,
            "parent_mask_sha256": self.parent.mask_sha256,
            "mask_sha256": self.child.mask_sha256,
            "relation": self.relation,
            "notes": self.notes,
            "verified": self.child,
        }


class Pass:
    """One rewriting of a model.

    Attributes:
        stage: Its name in the model's lineage.
        pattern: The pattern that `verify` holds all weights to; None takes the model's plan.
        keeps_plan: Whether the result is held to the plan that the pass writes instead of to `pattern`.
        reads_verdicts: Whether the pass reads the verdicts on the model before; if not, they are not made.
        notes: What there is to know of what it did, one sentence each.
    """

    stage: str
    pattern: NMPattern | None = None
    keeps_plan = False
    reads_verdicts = True
    notes: tuple[str, ...] = ()

    def requires(self, model: Model) -> None:
        """Raise if the pass cannot take the model."""

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:
        """Change the protobuf; the frame does the rest.

        Args:
            model: The model; weights that it left in its file are read from there.
            parent: The report on it.
        """
        raise NotImplementedError

    def plan(self, model: Model, weights: Collection[str]) -> Plan | None:  # noqa: ARG002 - for passes that rename
        """Return the plan under the names of the changed model; None keeps it.

        Args:
            model: The changed model.
            weights: Names of its weights, if it has a plan.
        """
        return None

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        """Return how the masks before and after relate.

        Raises:
            LineageError: They do not relate as the pass promises.
        """
        raise NotImplementedError

    def compare(self, after: Model) -> Agreement:  # noqa: ARG002 - for passes that compare
        """Compare the outputs before and after.

        Raises:
            DifferenceError: They differ by more than the pass may change.
        """
        return NOT_ASKED

    def start_compare(self, after: Model) -> Callable[[], Agreement]:
        """Begin what `compare` does, for a pass that runs the model while it is verified.

        Returns:
            Returns what `compare` does, or raises it.
        """
        return lambda: self.compare(after)


def run_passes(
    source: str | os.PathLike[str] | Model, target: str | os.PathLike[str] | None, steps: Sequence[Pass]
) -> Passed:
    """Run passes on a model one after the other, and write the last result or keep it in memory.

    Args:
        source: The file, or an open model, which is changed.
        target: The file to write, not the source; None leaves the result in the open model.
        steps: The passes, at least one.

    Returns:
        What the last one did, with the notes of all.

    Raises:
        InputError: A path is wrong, or the target is the source or holds weights of it.
        ModelError: The model is not sound, or a pass does not take it.
        LineageError: The masks do not relate as a pass promises; nothing is written.
        DifferenceError: The outputs differ by more than a pass may change; nothing is written.
        OutputError: The target cannot be written.
    """
    model = load(source, leave_weights=True)
    name, output = model.name, "" if target is None else str(target)
    check_nodes(model)
    if target is not None:
        if model.path is not None:
            refuse_same_file(model.path, target)
        refuse_data_file(model, target)
        check_output(target)
    for step in steps:
        passed = _run(model, target if step is steps[-1] else None, step)
    notes = tuple(note for step in steps for note in step.notes)
    return replace(passed, model=name, output=output, notes=notes)


def _run(model: Model, target: str | os.PathLike[str] | None, step: Pass) -> Passed:
    step.requires(model)
    parent = verify_model(model, pattern=step.pattern) if step.reads_verdicts else without_verdicts(model)
    # Whether there is, or will be, a data file: a pass may replace every tensor that names it.
    apart = any(t.name in model.outside or model.stores_apart(t) for t in model.proto.graph.initializer)
    try:
        change = step.rewrite(model, parent)
    finally:
        # Also if it raises half-way: the model is then neither the file nor what was found of it.
        model.touch()
    model.outside.difference_update(change.new)  # a new tensor may bear the name of the one that it replaces
    if apart:
        large = (t for t in model.proto.graph.initializer if t.name in change.new and _is_large(t))
        model.outside.update(tensor.name for tensor in large)
    if target is None:
        _take_in(model, change)
        return _finish(model, step, parent, change)
    passed: list[Passed] = []
    write_model(
        model,
        target,
        rewrites=change.rewrites,
        finish=lambda after: passed.append(_finish(after, step, parent, change)),
    )
    return passed[0]


def _take_in(model: Model, change: Change) -> None:
    """Store the numbers that a pass makes in memory, and remember which of them belong in the data file."""
    # All are made before the first is stored: one may be made from another.
    made = [(rewrite.tensor, b"".join(rewrite.chunks())) for rewrite in change.rewrites]
    outside = {tensor.name for tensor in _outside(model)}
    outside.update(tensor.name for tensor, _ in made if model.stores_apart(tensor))
    while made:
        tensor, data = made.pop()
        clear_values(tensor)
        tensor.raw_data = data
    model.outside |= outside


def _is_large(tensor: TensorProto) -> bool:
    # What makes a tensor's numbers while they are written has stored none so far.
    return max(inline_bytes(tensor), int(math.prod(tensor.dims))) >= _LARGE_BYTES


def _outside(model: Model) -> list[TensorProto]:
    """Return the tensors in memory that belong in the data file."""
    return [tensor for tensor in model.proto.graph.initializer if tensor.name in model.outside]


def _finish(after: Model, step: Pass, parent: VerifyReport, change: Change) -> Passed:
    """Verify, record and compare the changed model."""
    planned = plan_of(after) is not None  # only then does a pass ask for the names
    plan = step.plan(after, {operand.weight_name for operand in consumers(after)} if planned else set())
    if plan is not None:
        set_metadata(after.proto, {METADATA_KEY: plan.to_json()})
    compared = step.start_compare(after)
    child = verify_model(after, pattern=None if step.keeps_plan else step.pattern)
    relation = step.ensures(parent, child)
    if not change.idle:
        record(after.proto, LineageEntry(step.stage, parent.mask_sha256, child.mask_sha256, relation), plan)
        recorded = replace(child, recorded_mask_sha256=child.mask_sha256)
        for question, fact in after.facts.items():
            after.facts[question] = recorded if fact is child else fact
    return Passed(parent, child, relation, compared())


def write_model(
    model: Model,
    target: str | os.PathLike[str],
    *,
    rewrites: Sequence[Rewrite] = (),
    finish: Callable[[Model], None] | None = None,
) -> None:
    """Write an open model, which is spent afterwards; weights that were left in its file are taken in.

    Args:
        model: The model.
        target: The file to write.
        rewrites: Tensors whose numbers change.
        finish: As `save` takes it.

    Raises:
        ModelError: As `save`.
        OutputError: As `save`.
    """
    embed(model, rewritten=[rewrite.tensor for rewrite in rewrites])
    save(model, target, rewrites=rewrites, external=_outside(model), finish=finish)
