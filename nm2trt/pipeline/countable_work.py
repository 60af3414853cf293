"""Countable work of an accuracy budget: layers that a builder can run sparse, each with its gain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.calibration.stream import SampleStream
    from nm2trt.graph.reconstruct.report import ReconstructOptions
    from nm2trt.nm.gain_table import GainTable
    from nm2trt.pipeline.accuracy_budget import Evaluation

# Types that a float32 file may be lowered to and run sparse in, the fastest first.
_LOWERED = ("int8", "float16", "bfloat16")


class CountableWork:
    """Which layers count: those that a builder can run sparse, each with its gain.

    Args:
        source: The float32 model.
        samples: Calibration samples, whose shapes the gain table is asked for.
        options: The pattern.
        evaluation: Builder, targets and gain table.

    Attributes:
        beyond: Reasons by weight of the layers that do not count.
        gains: Gain by weight; None takes the work.
        place: Builder and targets, as a clause.
        notes: What limits the answers of the gain table, one sentence each.

    Raises:
        InputError: The pattern is not 2:4, or the gain table is damaged, of another GPU, or has no answer for
            any layer.
    """

    def __init__(
        self, source: Path, samples: SampleStream, options: ReconstructOptions, evaluation: Evaluation
    ) -> None:
        self.beyond: dict[str, str] = {}
        self.gains: dict[str, float] | None = None
        self.place = ""
        self.notes: tuple[str, ...] = ()
        check_counted(options, evaluation)
        if evaluation.backend is not None or evaluation.targets is not None:
            self._by_builder(source, evaluation)
        if evaluation.gain is not None:
            self._by_table(source, samples, evaluation)

    def _by_builder(self, source: Path, evaluation: Evaluation) -> None:
        from nm2trt.backends.choice import place_of
        from nm2trt.graph.verify.verify_model import verify_model
        from nm2trt.nm.eligibility import can_run_sparse
        from nm2trt.nm.outlook import assumed_sparse

        place = place_of(evaluation.backend, evaluation.targets)
        rows = verify_model(source).weights
        self.place = place.suffix
        # The file is float32 still; it counts if a type that it may be lowered to has a sparse kernel.
        lowered = [assumed_sparse(rows, dtype=dtype) for dtype in _LOWERED]
        for row, *others in zip(rows, *lowered, strict=True):
            answers = [can_run_sparse(one.facts, place) for one in others if one.facts is not None]
            if answers and not any(answer.answer == "yes" for answer in answers):
                self.beyond[row.weight] = (
                    f"no sparse kernel is known to run it{place.suffix}: {answers[0].sentence}"
                )

    def _by_table(self, source: Path, samples: SampleStream, evaluation: Evaluation) -> None:
        from nm2trt.pipeline.gain import gain, open_table

        table = open_table(evaluation.gain or "")
        dtype = _dtype(table)
        report = gain(
            source,
            table.where,
            shapes=_shapes(source, samples, evaluation.shapes),
            device=_device(table, evaluation.targets),
            as_dtype=dtype,
            backend=evaluation.backend,
        )
        self.gains = {}
        for layer in report.layers:
            pays = layer.pays == "yes" and layer.speedup
            saved = 1.0 - 1.0 / layer.speedup if pays and layer.speedup else 0.0
            self.gains[layer.weight] = saved * float(layer.macs or 0)
            if layer.pays == "no":
                self.beyond.setdefault(layer.weight, f"the gain table says: {layer.sentence}")
        if not any(layer.pays == "yes" for layer in report.layers):
            why = next((x.sentence for x in report.layers if x.pays == "unknown"), "no layer pays")
            why = next((x.sentence for x in report.layers if x.pays == "no" and x.speedup), why)
            raise InputError(
                f"{table.where} names no layer that pays, so nothing is worth its loss: {why}; give the "
                "batch that is served, as in --shape x:8, or leave --gain out"
            )
        self.notes = (*report.notes, f"gains are those of {dtype} on {report.device}")


def check_counted(options: ReconstructOptions, evaluation: Evaluation) -> None:
    """Raise InputError, before any work, if builder, targets or gain table cannot be taken."""
    from nm2trt.backends.choice import place_of
    from nm2trt.pipeline.gain import open_table

    if evaluation.shapes and evaluation.gain is None:
        raise InputError("--shape says at which shape the gain table is read; give the table with --gain")
    if evaluation.backend is None and evaluation.targets is None and evaluation.gain is None:
        return
    if str(options.pattern) != "2:4":
        raise InputError(f"sparse kernels take 2:4; leave --target and --gain out for {options.pattern}")
    place_of(evaluation.backend, evaluation.targets)
    if evaluation.gain is not None:
        _dtype(open_table(evaluation.gain))


def _dtype(table: GainTable) -> str:
    """Return the type that layers are looked up in: the fastest that was measured."""
    found = next((name for name in _LOWERED if name in table.dtypes()), None)
    if found is None:
        raise InputError(
            f"{table.where} has no rows of int8, fp16 or bf16; measure them with benchmarks/gpu_gain.py"
        )
    return found


def _device(table: GainTable, targets: str | None) -> str | None:
    """Return which GPU the table has to be of: its own, if that is among the targets."""
    if targets is None:
        return None
    from nm2trt.backends.options import parse_targets

    named = parse_targets(targets)
    return table.target if table.target in named else named[0]


def _shapes(source: Path, samples: SampleStream, given: Sequence[str]) -> list[str]:
    """Return shapes of all inputs that have free sizes: those given, else those of one sample."""
    from nm2trt.backends.options import format_shape, parse_static_shapes
    from nm2trt.graph.analysis.multiply_accumulates import free_shapes
    from nm2trt.graph.storage.model import load

    found = free_shapes(load(source, leave_weights=True), next(samples.read(1)))
    for asked in parse_static_shapes(given):
        own = found.get(asked.input, ())
        # A batch without a shape takes its other sizes from the sample.
        found[asked.input] = (*asked.shape, *own[1:]) if len(asked.shape) == 1 else asked.shape
    return [f"{name}:{format_shape(shape)}" for name, shape in found.items()]
