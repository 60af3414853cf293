"""Permute the channels of an ONNX file: its function stays, and N:M pruning then keeps larger weights."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nm2trt.compare import OutputDifference
from nm2trt.errors import DifferenceError, SparsityError
from nm2trt.files import check_output
from nm2trt.graph.execute.output_comparison import Agreement, Reference, lowest_type, run_reference
from nm2trt.graph.permute.permute_graph import Permutation, find_permutation, rewrites_of
from nm2trt.graph.permute.space_search import PermuteOptions, SaliencyOf, SpaceResult, magnitude
from nm2trt.graph.storage.model import Model, load
from nm2trt.graph.storage.save import refuse_data_file, refuse_same_file, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.verify.mask_lineage import check_permuted
from nm2trt.graph.verify.verify_model import verify_model
from nm2trt.nm.lineage import Relation
from nm2trt.nm.pattern import NMPattern

__all__ = ["TOLERANCE", "PermuteReport", "permute_model"]

# Largest allowed max|a - b| / max|b| of a float32 output: the same products are added in another order.
TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class PermuteReport:
    """What `permute_model` did.

    Args:
        model: The model that was read.
        output: The model that was written.
        pattern: The pattern that the search was for.
        spaces: The result for each channel space that a weight to be pruned reduces.
        kept_before: Share of the weights' magnitude that the pattern would keep before, 0..1; every weight
            counts by its size, not by its scale.
        kept_after: The same afterwards.
        differences: How far each output moved; () if they were not compared.
        not_measured: Why the outputs were not compared, or "".
        parent_mask_sha256: Mask hash of the model that was read.
        mask_sha256: Mask hash of the model that was written.
        relation: "permuted".
    """

    model: str
    output: str
    pattern: NMPattern
    spaces: tuple[SpaceResult, ...]
    kept_before: float
    kept_after: float
    differences: tuple[OutputDifference, ...]
    not_measured: str
    parent_mask_sha256: str
    mask_sha256: str
    relation: Relation

    @property
    def moved(self) -> int:
        """Number of spaces whose channels moved."""
        return sum(space.moved for space in self.spaces)

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {**asdict(self), "pattern": str(self.pattern), "moved": self.moved}


def permute_model(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    options: PermuteOptions | None = None,
    *,
    compare: bool = True,
    saliency: SaliencyOf = magnitude,
) -> PermuteReport:
    """Write a copy of a model with permuted channels.

    Args:
        source: The ONNX file; weights are read one at a time.
        target: The file to write; not the source.
        options: Which weights count, and how long to search.
        compare: Run both models in ONNX Runtime on random inputs, and refuse a result that differs.
        saliency: How much each element of a weight matters.

    Returns:
        How much the pattern keeps in each channel space before and after, and how far the outputs moved.

    Raises:
        InputError: A path or a glob is wrong.
        ModelError: The model is quantised, or is no sound ONNX file.
        SparsityError: No channel can move; nothing is written.
        DifferenceError: The outputs differ by more than rounding; nothing is written.
        LineageError: A weight lost its zeros or the pattern that it held; nothing is written.
        OutputError: The output cannot be written.
    """
    options = options or PermuteOptions()
    model = load(source)
    refuse_same_file(source, target)
    refuse_data_file(model, target)
    check_output(target)
    permutation = find_permutation(model, options, saliency=saliency)
    _refuse_unmoved(permutation, str(source), options)
    parent = verify_model(model.proto, pattern=options.pattern, external_data_root=model.root)
    unasked = "outputs were not compared: not asked for"
    reference = run_reference(Path(source)) if compare else Reference({}, {}, unasked)
    agreement: list[Agreement] = []
    child: list[str] = []

    def finish(after: Model) -> None:
        report = verify_model(after.proto, pattern=options.pattern, external_data_root=after.root)
        relation = check_permuted(parent, report, "permute")
        record(after.proto, LineageEntry("permute", parent.mask_sha256, report.mask_sha256, relation), None)
        agreement.append(_compared(reference, after))
        child.append(report.mask_sha256)

    save(model, target, rewrites=rewrites_of(model, permutation), finish=finish)
    return PermuteReport(
        model=str(source),
        output=str(target),
        pattern=options.pattern,
        spaces=permutation.spaces,
        kept_before=permutation.kept_before,
        kept_after=permutation.kept_after,
        differences=agreement[0].differences,
        not_measured=agreement[0].sentence,
        parent_mask_sha256=parent.mask_sha256,
        mask_sha256=child[0],
        relation="permuted",
    )


def _refuse_unmoved(permutation: Permutation, name: str, options: PermuteOptions) -> None:
    """Raise if no space of the model moves.

    Raises:
        SparsityError: None does.
    """
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
            and lowest_type(after.proto) is None
        ):
            raise DifferenceError(
                f"before and after: output {item.name!r} differs by {item.max_relative:.3g} of its largest "
                f"value, more than the {TOLERANCE:g} that another order of sums explains; nothing was written"
            )
    return agreement
