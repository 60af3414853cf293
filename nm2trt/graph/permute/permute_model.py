"""Permute the channels of an ONNX file: its function stays, and N:M pruning then keeps larger weights."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nm2trt.compare.output_difference import OutputDifference, difference_lines
from nm2trt.compare.tolerance import NOISE
from nm2trt.errors import DifferenceError, SparsityError
from nm2trt.figures import percent
from nm2trt.graph.analysis.output_kinds import before_saturation, lowest_type
from nm2trt.graph.execute.output_comparison import NOT_ASKED, Agreement, Reference, run_reference
from nm2trt.graph.function_inlining import inlining
from nm2trt.graph.pass_frame import Change, Pass, run_passes
from nm2trt.graph.pass_report import PassReport
from nm2trt.graph.permute.permute_graph import Permutation, find_permutation, rewrites_of
from nm2trt.graph.permute.space_search import PermuteOptions, SaliencyOf, SpaceResult, magnitude
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.verify.mask_lineage import check_permuted
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation, relation_in_words
from nm2trt.nm.pattern import NMPattern
from nm2trt.tables.table import Column, Row, Table

# Largest allowed max|a - b| / max|b| of a float32 output: the same products are added in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class PermuteReport(PassReport):
    """What `permute_model` did.

    Args:
        pattern: The pattern that the search was for.
        spaces: The result for each channel space that a weight to be pruned reduces.
        kept_before: Share of the weights' magnitude that the pattern would keep before, 0..1; every weight
            counts by its size, not by its scale.
        kept_after: The same afterwards.
        differences: How far each output moved; () if they were not compared.
        not_measured: Why the outputs were not compared, or "".
    """

    json_names = (
        "model output pattern spaces kept_before kept_after differences not_measured parent_mask_sha256 "
        "mask_sha256 relation notes moved"
    )

    pattern: NMPattern
    spaces: tuple[SpaceResult, ...]
    kept_before: float
    kept_after: float
    differences: tuple[OutputDifference, ...]
    not_measured: str

    @property
    def moved(self) -> int:
        """Number of spaces whose channels moved."""
        return sum(space.moved for space in self.spaces)

    def tables(self) -> tuple[Table, ...]:
        """Return how much the pattern keeps in each channel space."""
        columns = (
            Column("channels of", "name"),
            Column("number", "number"),
            Column("weights", "name", rank=1),
            Column("kept before", "number"),
            Column("kept after", "number"),
        )
        rows = (
            Row(
                (
                    space.space,
                    str(space.channels),
                    ", ".join(space.weights),
                    percent(space.kept_before, 2),
                    percent(space.kept_after, 2) if space.moved else "-",
                ),
                "good" if space.moved else "",
                space.reason,
            )
            for space in self.spaces
        )
        return (Table(columns, tuple(rows), noun="channel spaces"),)

    def remarks(self) -> tuple[str, ...]:
        """Return what moved, what the pattern keeps, and how far the outputs are apart."""
        return (
            (
                f"{self.moved} of {len(self.spaces)} channel spaces permuted; {self.pattern} keeps "
                f"{percent(self.kept_after, 2)} of the weights' magnitude, "
                f"{percent(self.kept_before, 2)} before"
            ),
            *difference_lines(self.differences, self.not_measured),
            f"masks: {relation_in_words(self.relation)}",
            *self.written,
        )


def permute_model(
    source: str | os.PathLike[str] | Model,
    target: str | os.PathLike[str] | None,
    options: PermuteOptions | None = None,
    *,
    compare: bool = True,
    saliency: SaliencyOf = magnitude,
) -> PermuteReport:
    """Permute the channels of an open model, or of a copy of a file.

    Args:
        source: The ONNX file, or an open model; weights are read one at a time.
        target: The file to write, not the source; None changes the open model.
        options: Which weights count, and how long to search.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.
        saliency: How much each element of a weight matters.

    Returns:
        How much the pattern keeps in each channel space before and after, and how far the outputs moved.

    Raises:
        InputError: A path or a glob is wrong.
        ModelError: The model is quantised, or is not a valid ONNX file.
        SparsityError: No channel can move; nothing is written.
        DifferenceError: The outputs differ by more than rounding; nothing is written.
        LineageError: A weight lost its zeros or the pattern that it held; nothing is written.
        OutputError: The output cannot be written.
    """
    step = _Permute(options or PermuteOptions(), saliency, compared=compare)
    model = load(source, leave_weights=True)
    passed = run_passes(model, target, [*inlining(model, compared=compare), step])
    permutation, agreement = step.permutation, passed.agreement
    return PermuteReport(
        **passed.facts(),
        pattern=step.pattern,
        spaces=permutation.spaces,
        kept_before=permutation.kept_before,
        kept_after=permutation.kept_after,
        differences=agreement.differences,
        not_measured=agreement.sentence,
    )


class _Permute(Pass):
    """Requires a float model with a channel that can move; ensures the same zeros at permuted channels."""

    stage = "permute"
    pattern: NMPattern

    def __init__(self, options: PermuteOptions, saliency: SaliencyOf, *, compared: bool) -> None:
        self.pattern = options.pattern
        self._options, self._saliency, self._compared = options, saliency, compared
        self._reference: Reference | None = None

    def requires(self, model: Model) -> None:
        self.permutation = find_permutation(model, self._options, saliency=self._saliency)
        _refuse_unmoved(self.permutation, model.name, self._options)

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:  # noqa: ARG002
        self._reference = (
            run_reference(model, before_saturation(model.proto.graph)) if self._compared else None
        )
        return Change(rewrites_of(model, self.permutation))

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        return check_permuted(parent, child)

    def compare(self, after: Model) -> Agreement:
        return NOT_ASKED if self._reference is None else _compared(self._reference, after)


def _refuse_unmoved(permutation: Permutation, name: str, options: PermuteOptions) -> None:
    """Raise SparsityError if no space of the model moves."""
    if permutation.moved:
        return
    if not permutation.spaces:
        raise SparsityError(
            f"{name} has no weight that {options.pattern} can prune, so no channel is permuted"
        )
    first = permutation.spaces[0]
    raise SparsityError(f"no channel of {name} can move to a better place; {first.space}: {first.reason}")


def _compared(reference: Reference, after: Model) -> Agreement:
    """Compare the outputs, float32 to `TOLERANCE` and other types to that of their dtype.

    Raises:
        DifferenceError: They differ by more.
    """
    agreement = reference.compare(after)
    for item in agreement.differences:
        if (
            item.dtype == "float32"
            and not item.max_relative <= TOLERANCE
            and not (reference.inside and item.max_abs <= NOISE["float32"])
            and lowest_type(after.proto) is None
        ):
            raise DifferenceError(
                f"before and after: output {item.name!r} differs by {item.max_relative:.3g} of its largest "
                f"value, more than the {TOLERANCE:g} that another order of sums explains; nothing was written"
            )
    return agreement
