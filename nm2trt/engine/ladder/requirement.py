"""Builds refused for want of sparse kernels: no weight holds 2:4, or `--require-sparse` is missed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nm2trt.backends.protocol import Backend
from nm2trt.engine.evidence.build_log import parse_build_log
from nm2trt.engine.evidence.evidence import Evidence
from nm2trt.engine.evidence.inspector_json import parse_layer_information
from nm2trt.engine.ladder.ladder import sparse_share
from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.errors import InputError, SparsityError
from nm2trt.figures import percent
from nm2trt.nm.advice import holds_two_of_four, is_quantised, pattern_advice, prunable_weights
from nm2trt.nm.verdict import WeightVerdict


class LadderError(SparsityError):
    """What was asked of sparse kernels cannot be had; `ladder` says why, weight by weight.

    Args:
        message: The sentence.
        ladder: One row per weight.
    """

    def __init__(self, message: str, ladder: tuple[LadderRow, ...]) -> None:
        super().__init__(message)
        self.ladder = ladder


class NothingSparseError(LadderError):
    """Sparse kernels were asked for and the weights do not allow them."""


class TooFewSparseError(LadderError):
    """Fewer sparse kernels run than were required, or it cannot be known here."""


def require_pattern(
    model: Path,
    weights: Sequence[WeightVerdict],
    ladder: tuple[LadderRow, ...],
    *,
    planned: bool,
    missing: Sequence[str],
) -> None:
    """Refuse a sparse build that could only come out dense, or that the model's plan does not back.

    Args:
        model: The model, for the message.
        weights: What `verify` found out of every weight.
        ladder: One row per weight.
        planned: Whether the model carries a plan.
        missing: Weights of the plan that no node reads.

    Raises:
        NothingSparseError: No weight holds 2:4, or the plan is broken.
    """
    broken = [verdict for verdict in weights if verdict.pattern == "broken"]
    if missing:
        raise NothingSparseError(
            f"{model}: the plan that the model carries names {missing[0]!r}, which no node reads; "
            "export the finalised model again",
            ladder,
        )
    if planned and broken:
        first = broken[0]
        raise NothingSparseError(
            f"{model}: {len(broken)} of {len(weights)} weights break the plan that the model carries, first "
            f"{first.weight!r}: {first.sentence}; export the finalised model again, or build with "
            "--sparsity=force",
            ladder,
        )
    if not any(map(holds_two_of_four, weights)):
        what = "none of its weights holds 2:4" if weights else "it has no weights to judge"
        if weights and all(verdict.pattern == "untraceable" for verdict in weights):
            what = "none of its weights could be judged"
        advice = "train it sparse (nm2trt.sparsify), "
        others = {row.remedy for row in ladder} - set(map(pattern_advice, weights))
        if broken and all(map(is_quantised, broken)):
            advice = f"{pattern_advice(broken[0])}, "
        elif len(others) == 1 and all(row.remedy in others for row in ladder):
            advice = f"{others.pop()}, "  # 2:4 would not be enough
        elif prunable_weights(weights):
            advice += "prune it (nm2trt prune), "
        raise NothingSparseError(
            f"{model}: {what}, so no sparse kernel could run; {advice}or build dense with --sparsity=disable",
            ladder,
        )


def read_evidence(log: Sequence[str], layers: str, *, builder: str, version: str) -> Evidence:
    """Read a builder's messages and the engine inspector's JSON of one engine; "" is no JSON.

    An inspector's text that cannot be read costs its evidence, not the engine: a note says so.
    """
    parts = [parse_build_log(log, builder=builder, version=version)] if log else []
    if layers:
        try:
            parts.append(parse_layer_information(layers, builder=builder, version=version))
        except InputError as error:
            parts.append(Evidence(notes=(f"the inspector of {builder} {version} was not read: {error}",)))
    return Evidence.merged(parts)


def cannot_know(model: Path, sparsity: str, backend: Backend, ladder: tuple[LadderRow, ...]) -> None:
    """Raise before the build if it could not tell which kernels run.

    Raises:
        TooFewSparseError: Sparsity is off, or the builder leaves the choice to the machine that loads.
    """
    if sparsity == "disable":
        raise TooFewSparseError(
            f"{model}: --require-sparse needs --sparsity, without which no sparse kernel is considered",
            ladder,
        )
    if backend.name == "ort":
        raise TooFewSparseError(
            f"{model}: --require-sparse has no answer in ONNX Runtime, which has no sparse kernels; build "
            "for TensorRT on a GPU; nothing was built",
            ladder,
        )
    if backend.name == "trt-rtx":
        raise TooFewSparseError(
            f"{model}: --require-sparse can never be answered by an ahead-of-time build for TensorRT for "
            "RTX, which chooses kernels on the GPU that loads the plan; build for TensorRT on a GPU, or run "
            "nm2trt prove there; nothing was built",
            ladder,
        )


def check_share(model: Path, ladder: tuple[LadderRow, ...], evidence: Evidence, required: float) -> None:
    """Raise if fewer sparse kernels run than are required; the engine is not written then.

    Args:
        model: The model, for the message.
        ladder: One row per weight.
        evidence: What the builder said.
        required: Least share of the eligible multiply-accumulates, 0..1.

    Raises:
        TooFewSparseError: It is less, or not known.
    """
    share, why = sparse_share(ladder)
    if share is None:
        reasons = "; ".join((why, *evidence.notes))
        raise TooFewSparseError(
            f"{model}: --require-sparse asks for {percent(required, 0)} of the eligible work in sparse "
            f"kernels, which cannot be known here: {reasons}; no engine was written",
            ladder,
        )
    if share < required:
        raise TooFewSparseError(
            f"{model}: {percent(share)} of the eligible work runs sparse kernels, {percent(required, 0)} is "
            "required; nm2trt explain says why; no engine was written",
            ladder,
        )
