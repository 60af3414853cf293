"""Options and report of a reconstruction: per layer, and for the network's outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nm2trt.compare.output_difference import UNRELATED
from nm2trt.figures import counted, percent
from nm2trt.graph.execute.output_verdict import OutputVerdict
from nm2trt.graph.pass_report import PassReport, PrunedWeight
from nm2trt.nm.pattern import NMPattern
from nm2trt.nm.plan import Plan
from nm2trt.tables.table import Column, Row, Table

_TWO_FOUR = NMPattern(2, 4)


@dataclass(frozen=True, slots=True)
class ReconstructOptions:
    """How a model is reconstructed.

    Args:
        pattern: The pattern.
        include: Globs on names of weights; when given, all others stay dense.
        exclude: Globs on names of weights that stay dense.
        min_channels: Fewest input channels of a pruned weight.
        valid: An input of the model that is not 0 at real tokens; rows are drawn from those.
        seed: Seed of the rows that are drawn.
        share: Share of the work that can be pruned, in multiply-accumulates, that is pruned at least; over 0
            and up to 1. Below 1 the layers that move the outputs most per work stay dense.
        sensitivity: Measure how far each layer moves the outputs alone although `share` does not need it.
        dense: Weights that stay dense, each with the clause that says why.
    """

    pattern: NMPattern = _TWO_FOUR
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    min_channels: int = 16
    valid: str | None = None
    seed: int = 0
    share: float = 1.0
    sensitivity: bool = False
    dense: Mapping[str, str] = field(default_factory=dict)

    @property
    def measures(self) -> bool:
        """Whether each layer is pruned alone first."""
        return self.sensitivity or self.share < 1


@dataclass(frozen=True, slots=True)
class RebuiltLayer(PrunedWeight):
    """What was done with one weight from samples.

    Args:
        ridge: lambda; None if nothing was solved.
        held_out: Whether the errors were measured on rows that were not fitted.
        rows: Input rows that were used.
        dense_error: Error of the unpruned fit with that lambda, as a share of the output's variance.
        error: The same of what was written.
        magnitude_error: The same of the magnitude mask with the same fit.
        chosen: "admm", "magnitude" or "dense"; "" if nothing was solved.
        divergence_alone: KL divergence of the outputs with only this layer pruned, in nats (without scores
            per class, the share of their variance that is lost); None if it was not measured.
        work: Multiply-accumulates of one sample; None if they were not counted.
        inputs: Weights of one output; 0 if nothing was solved.
    """

    ridge: float | None = None
    held_out: bool = False
    rows: int = 0
    dense_error: float | None = None
    error: float | None = None
    magnitude_error: float | None = None
    chosen: str = ""
    divergence_alone: float | None = None
    work: float | None = None
    inputs: int = 0


@dataclass(frozen=True, slots=True, repr=False, kw_only=True)
class ReconstructReport(PassReport):
    """What `reconstruct_model` did.

    Args:
        pattern: The pattern.
        weights: One entry per stored weight, in the order of their consumers.
        outputs: The verdict of the run, one entry per output.
        outputs_held_out: Whether its samples were never fitted.
        samples: Calibration samples.
        source: Where they are from.
        samples_sha256: Hash of the samples.
        plan: The plan that was written.
        seconds: Time that the run took.
        batchnorms_folded: BatchNorms that were folded into layers first.
        permuted: Whether channels were permuted first.
        channels_kept: Why they were not though it was asked for, or "".
        padding: An input that looks like a mask of padding and was not named as `valid`, or "".
    """

    method = "reconstruct"
    json_names = (
        "model output method pattern counts pruned_share weights outputs outputs_held_out samples source "
        "samples_sha256 seconds batchnorms_folded permuted channels_kept parent_mask_sha256 mask_sha256 "
        "relation notes"
    )

    pattern: NMPattern
    weights: tuple[RebuiltLayer, ...]
    outputs: tuple[OutputVerdict, ...]
    outputs_held_out: bool
    samples: int
    source: str
    samples_sha256: str
    plan: Plan
    seconds: float
    batchnorms_folded: int = 0
    permuted: bool = False
    channels_kept: str = ""
    padding: str = ""

    @property
    def counts(self) -> dict[str, int]:
        """Number of weights by status."""
        statuses = [weight.status for weight in self.weights]
        return {status: statuses.count(status) for status in ("pruned", "refitted", "kept", "dense")}

    @property
    def pruned_share(self) -> float | None:
        """Share of the work that can be pruned that is; None if no layer was measured alone."""
        counted = [weight for weight in self.weights if weight.work is not None]
        total = sum(weight.work or 0.0 for weight in counted)
        done = sum(weight.work or 0.0 for weight in counted if weight.status in ("pruned", "kept"))
        return done / total if total else None

    def tables(self) -> tuple[Table, ...]:
        """Return one row per stored weight, with the error of its layer's output."""
        columns = (
            Column("weight", "name"),
            Column("shape"),
            Column("result"),
            Column("lambda", "number", rank=2),
            Column("error dense", "number"),
            Column("magnitude", "number", rank=1),
            Column("written", "number"),
            Column("alone", "number", fold=True),
        )
        rows = (
            Row(
                (
                    w.weight,
                    "x".join(map(str, w.shape)),
                    w.status,
                    "-" if w.ridge is None else f"{w.ridge:g}",
                    *("-" if e is None else f"{e:.4f}" for e in (w.dense_error, w.magnitude_error, w.error)),
                    "-" if w.divergence_alone is None else f"{w.divergence_alone:.3g}",
                ),
                "" if w.status == "dense" else "good",
                w.reason if w.status in ("dense", "kept") else "",
            )
            for w in self.weights
        )
        return (Table(columns, tuple(rows), "error of each layer's output, as a share of its variance"),)

    def remarks(self) -> tuple[str, ...]:
        """Return what was done, how far the outputs moved, and where the file is."""
        counts = self.counts
        pruned, dense = counted(counts["pruned"], "weight"), counted(counts["dense"], "stays", "stay")
        done = f"{pruned} pruned to {self.pattern}, {counts['refitted']} refitted"
        lines = [f"{done}, {counts['kept']} held it already, {dense} dense"]
        if self.pruned_share is not None:
            lines.append(f"{percent(self.pruned_share)} of the work that can be pruned holds {self.pattern}")
        if self.channels_kept:
            lines.append(self.channels_kept)
        solved = [weight for weight in self.weights if weight.ridge is not None]
        seen = sum(not weight.held_out for weight in solved)
        if seen:
            lines.append(
                f"the errors of {seen} of {len(solved)} layers are those of the fitted rows, as fewer than 8 "
                "rows could be held out; give 64 samples or more"
            )
        few = [weight for weight in solved if weight.rows < weight.inputs]
        if few:
            worst = min(few, key=lambda weight: weight.rows / weight.inputs)
            was = "were" if len(few) > 1 else "was"
            lines.append(
                f"{len(few)} of {len(solved)} layers {was} fitted on fewer rows than an output has weights, "
                f"so that lambda decides: {worst.weight} has {worst.inputs} weights per output, "
                f"{counted(worst.rows, 'row')} and lambda {worst.ridge:g}; give more samples"
            )
        if self.padding:
            lines.append(
                f"rows of padding were fitted like others: if {self.padding!r} is 0 there, give --valid "
                f"{self.padding}"
            )
        kind = "held-out" if self.outputs_held_out else "fitted"
        lines += [output.sentence(kind) for output in self.outputs]
        if not self.outputs:
            lines.append("no output was compared with the dense network's: none is a tensor of numbers")
        lines += [
            f"output {output.output} has little in common with the dense network's: give more samples, or "
            "prune less (--share 50%)"
            for output in self.outputs
            if output.cosine is not None and output.cosine < UNRELATED
        ]
        lines.append(
            f"calibrated on {counted(self.samples, 'sample')} of {self.source} "
            f"(sha256 {self.samples_sha256[:12]})"
        )
        return (*lines, f"wrote {self.output} in {self.seconds:.0f} s")
