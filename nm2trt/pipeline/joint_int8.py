"""Joint 2:4 and INT8: masks, values and integers of each layer solved on the inputs that INT8 gives it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.pipeline.reconstruct import Calibration, folder_of_copies, normalised
from nm2trt.tables.result import Result
from nm2trt.tables.table import Table

if TYPE_CHECKING:
    from nm2trt.graph.quantize.report import QuantizeReport
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport
    from nm2trt.graph.verify.report import VerifyReport


@dataclass(frozen=True, slots=True, repr=False)
class JointReport(Result):
    """What a joint solve did.

    Args:
        report: The reconstruction; its verdict on the outputs is that of the INT8 network.
        quantized: The quantisation.
    """

    json_names = "**report output quantized"

    report: ReconstructReport
    quantized: QuantizeReport

    @property
    def output(self) -> str:
        """The model that was written."""
        return self.quantized.output

    @property
    def verified(self) -> VerifyReport | None:
        """What `verify` says of it."""
        return self.quantized.verified

    def tables(self) -> tuple[Table, ...]:
        """Return the table of the reconstruction, and those of the quantisation."""
        return (*self.report.tables(), *self.quantized.tables())

    def remarks(self) -> tuple[str, ...]:
        """Return what both say; the outputs were compared by the reconstruction."""
        quantized = (line for line in self.quantized.remarks() if line != self.quantized.not_measured)
        return (*self.report.remarks()[:-1], *quantized)

    @property
    def notes(self) -> tuple[str, ...]:
        """What else there is to know of both."""
        return (*self.report.notes, *self.quantized.notes)


def prune_to_int8(
    model: str | os.PathLike[str],
    output: Path,
    options: ReconstructOptions,
    calibration: Calibration,
    *,
    max_loss: float | None = None,
) -> JointReport:
    """Write an N:M INT8 copy of a model, solved in one pass.

    Ranges are those of the float network. The pruned stream carries activations rounded to INT8, so that each
    layer also repairs what rounding did before it; its kept weights are rounded in order, and its bias takes
    the rest (`nm2trt.nm.solver.integer_grid`).

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed.
        calibration: The samples, which choose the ranges too.
        max_loss: Leave layers in float until INT8 by itself, on the dense network, changes at most this share
            of answers; None leaves none.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound, not float32 or is quantised.
        DataError: The samples do not fit the model.
        DifferenceError: No ranges and placement are within `max_loss`; nothing is written.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.quantize.preset import prepare
    from nm2trt.graph.quantize.quantize_model import quantize_model
    from nm2trt.graph.quantize.report import QuantizeOptions
    from nm2trt.graph.reconstruct.activation_grid import IntegerGrid
    from nm2trt.graph.reconstruct.reconstruct_model import reconstruct_model
    from nm2trt.graph.storage.model import load

    model = Path(model)
    samples = calibration.open(model, output)
    asked = QuantizeOptions(max_loss=max_loss)
    with folder_of_copies(model) as folder:
        source, notes = _converted(model, folder, asked.form.opset)
        source, facts = normalised(
            source, folder, samples, options, permute=calibration.permute, called=model
        )
        opened = load(source, leave_weights=True)
        opened.called = str(model)
        prepared = prepare(opened, samples, asked)
        grid = IntegerGrid(prepared.scales, prepared.axes.keys(), prepared.nearest)
        solved = folder / f"{model.stem}.solved.onnx"
        report = reconstruct_model(
            source, solved, samples, options, name=str(model), cache=calibration.cache, grid=grid
        )
        quantized = quantize_model(
            solved, output, samples, prepared.options, compare=False, preset=prepared.preset(grid.steps)
        )
    return JointReport(
        replace(report, output=str(output), **facts),
        replace(quantized, model=str(model), notes=(*notes, *quantized.notes)),
    )


def _converted(model: Path, folder: Path, least: int) -> tuple[Path, tuple[str, ...]]:
    """Return the model in an opset that can be quantised, and what was converted."""
    from nm2trt.graph.function_inlining import inlining
    from nm2trt.graph.pass_frame import run_passes
    from nm2trt.graph.quantize.opset_conversion import conversion
    from nm2trt.graph.storage.model import load

    opened = load(model, leave_weights=True)
    converted = conversion(opened, least)
    if not converted:
        return model, ()
    target = folder / "converted" / model.name
    target.parent.mkdir()
    return target, run_passes(opened, target, [*inlining(opened, compared=True), *converted]).notes
