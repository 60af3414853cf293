"""Function inlining: calls of local functions replaced by their nodes, for passes on the main graph.

onnx's inliner does the work. Nodes and values get the names that `verify` shows for them inside a call, so
that names which a user gives and a plan holds stay right; every mask must stay, and outputs are compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from nm2trt.errors import LineageError, ModelError
from nm2trt.figures import counted
from nm2trt.graph.analysis.pinned_values import all_names
from nm2trt.graph.analysis.scopes import unfolded, walk
from nm2trt.graph.analysis.value_states import Scope
from nm2trt.graph.analysis.weight_operands import consumers
from nm2trt.graph.execute.output_comparison import NOT_ASKED, Agreement, Reference, run_reference
from nm2trt.graph.pass_frame import Change, Pass
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model
from nm2trt.graph.storage.node_parts import bodies
from nm2trt.graph.storage.stage_metadata import plan_of
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.limits.bounds import bounds
from nm2trt.nm.lineage import Relation
from nm2trt.nm.plan import Plan


class FunctionInlining(Pass):
    """Requires functions whose copies are of a bearable size; ensures the same masks and outputs.

    Args:
        compared: Run the model before and after in ONNX Runtime.
    """

    stage = "inline functions"
    reads_verdicts = False

    def __init__(self, *, compared: bool) -> None:
        self._compared = compared
        self._reference: Reference | None = None
        self._renamed: dict[str, str] = {}

    def requires(self, model: Model) -> None:
        """Refuse functions whose copies would be larger than is allowed; each call gets their constants.

        Raises:
            ModelError: They would.
        """
        most = bounds().constant_bytes + model.proto.ByteSize()
        total = unfolded(model, lambda node: node.ByteSize() - sum(b.ByteSize() for _, b in bodies(node)))
        if total > most:
            raise ModelError(
                f"the local functions of {model.name} unfold to {total:,} bytes, more than {most:,}; export "
                "it with their constants as initializers, or without functions"
            )

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:  # noqa: ARG002 - one frame for all passes
        """Replace the protobuf by one without calls; see `Pass.rewrite`."""
        before = walk(model)
        calls = sum(map(_is_call, before))
        if not calls:
            return Change(idle=True)
        weights = [operand.weight_name for operand in consumers(model)]
        if self._compared:
            self._reference = run_reference(model)
        from onnx import inliner  # only here: most models call no function

        inlined = inliner.inline_local_functions(model.proto)
        taken = all_names(model.proto.graph)
        model.proto.CopyFrom(inlined)
        model.touch()
        left = sum(map(_is_call, walk(model)))
        why = f"; {left:,} of other opsets than the model's stay" if left else ""
        self.notes = (f"{counted(calls - left, 'call')} of local functions inlined{why}",)
        _name_as_before(model, [pair for pair in before if not _is_call(pair)], taken)
        now = [operand.weight_name for operand in consumers(model)]
        if len(now) == len(weights):
            self._renamed = {old: new for old, new in zip(weights, now, strict=True) if old != new}
        return Change()

    def plan(self, model: Model, weights: Collection[str]) -> Plan | None:
        """Return the plan under the names of weights that stand in bodies; see `Pass.plan`."""
        plan = plan_of(model)
        return None if plan is None or not self._renamed else plan.renamed(self._renamed, weights)

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        """Return "equal"; see `Pass.ensures`.

        Raises:
            LineageError: A mask changed.
        """
        if child.mask_sha256 != parent.mask_sha256:
            raise LineageError("inlining local functions changed a mask of the model; nothing was written")
        return "equal"

    def compare(self, after: Model) -> Agreement:
        """Compare the outputs before and after; see `Pass.compare`."""
        return NOT_ASKED if self._reference is None else self._reference.compare(after)


def inlining(model: Model, *, compared: bool) -> list[FunctionInlining]:
    """Return the pass that comes before one that rewrites the main graph; [] if the model has no functions.

    Args:
        model: The model.
        compared: Run the model before and after in ONNX Runtime.
    """
    return [FunctionInlining(compared=compared)] if model.proto.functions else []


def _is_call(pair: tuple[Scope, onnx.NodeProto]) -> bool:
    scope, node = pair
    return (node.domain, node.op_type) in scope.functions


def _name_as_before(model: Model, before: list[tuple[Scope, onnx.NodeProto]], taken: Collection[str]) -> None:
    """Name what came into the main graph from functions as it was called inside them.

    Args:
        model: The inlined model.
        before: The nodes before, without calls.
        taken: Names of the main graph before.
    """
    after = [pair for pair in walk(model) if not _is_call(pair)]
    if [node.op_type for _, node in before] != [node.op_type for _, node in after]:
        return  # sorted in another order: the inliner's own names are as good
    names: dict[str, str] = {}
    labels = Counter(inside.label(was) for inside, was in before)
    for (inside, was), (scope, node) in zip(before, after, strict=True):
        if scope.name or not inside.name:
            continue
        if labels[inside.label(was)] == 1:
            node.name = inside.label(was)
        names.update(
            (new, inside.name + old)
            for old, new in zip(was.output, node.output, strict=False)
            if old and new not in taken
        )
    # Calls may share a name; what stands in them then keeps the inliner's names.
    counts = Counter([*names.values(), *(name for node in model.proto.graph.node for name in node.output)])
    free = {new: old for new, old in names.items() if old not in taken and counts[old] == 1}
    _rename(model.proto.graph.node, free)
    for value in model.proto.graph.value_info:
        value.name = free.get(value.name, value.name)
    model.touch()


def _rename(nodes: Iterable[onnx.NodeProto], names: Mapping[str, str]) -> None:
    for node in nodes:
        for field in (node.input, node.output):
            for place, name in enumerate(field):
                if name in names:
                    field[place] = names[name]
        for _, body in bodies(node):
            _rename(body.node, names)
            for value in body.output:
                value.name = names.get(value.name, value.name)
