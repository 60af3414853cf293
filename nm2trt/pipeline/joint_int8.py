"""Joint 2:4 and INT8: masks, values and integers of each layer solved on the inputs that INT8 gives it."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError
from nm2trt.pipeline.calibration_input import open_calibration
from nm2trt.tables import Result, Table

if TYPE_CHECKING:
    from nm2trt.graph.quantize.report import QuantizeReport
    from nm2trt.graph.reconstruct.report import ReconstructOptions, ReconstructReport

__all__ = ["JointReport", "prune_to_int8"]


@dataclass(frozen=True, slots=True, repr=False)
class JointReport(Result):
    """What a joint solve did.

    Args:
        report: The reconstruction; its verdict on the outputs is that of the INT8 network.
        quantized: The quantisation.
    """

    report: ReconstructReport
    quantized: QuantizeReport

    @property
    def output(self) -> str:
        """The model that was written."""
        return self.quantized.output

    def tables(self) -> tuple[Table, ...]:
        """Return the table of the reconstruction, and those of the quantisation."""
        return (*self.report.tables(), *self.quantized.tables())

    def remarks(self) -> tuple[str, ...]:
        """Return what both say."""
        return (*self.report.remarks()[:-1], *self.quantized.remarks())

    def to_json(self) -> dict[str, Any]:
        """Return the reconstruction as JSON values, with the quantisation under `quantized`."""
        return {**self.report.to_json(), "output": self.output, "quantized": self.quantized.to_json()}


def prune_to_int8(
    model: str | os.PathLike[str],
    output: Path,
    options: ReconstructOptions,
    *,
    calib: str | os.PathLike[str],
    permute: bool = True,
    data_root: str | os.PathLike[str] | None = None,
    allow_functions: bool = False,
) -> JointReport:
    """Write an N:M INT8 copy of a model, solved in one pass.

    Ranges are those of the float network. The pruned stream carries activations rounded to INT8, so that each
    layer also repairs what rounding did before it; its kept weights are rounded in order, and its bias takes
    the rest (`nm2trt.nm.integer_grid`).

    Args:
        model: The float32 ONNX file.
        output: The file to write.
        options: Pattern, weights, seed.
        calib: Calibration samples, which choose the ranges too.
        permute: Permute channels first.
        data_root: Folder that a recipe's paths are relative to; its own by default.
        allow_functions: Run a recipe's `function` source, which is code.

    Raises:
        InputError: A path or an option is wrong, or the model is not sound, not float32 or is quantised.
        DataError: The samples do not fit the model.
        SparsityError: No weight can hold the pattern.
    """
    from nm2trt.graph.pass_frame import run_pass
    from nm2trt.graph.quantize.opset_conversion import OpsetConversion
    from nm2trt.graph.quantize.preset import Preset, prepare
    from nm2trt.graph.quantize.quantize_model import quantize_model
    from nm2trt.graph.quantize.report import QuantizeOptions
    from nm2trt.graph.reconstruct.activation_grid import IntegerGrid
    from nm2trt.graph.reconstruct.reconstruct_model import check_request, reconstruct_model
    from nm2trt.graph.storage.model import load, opset
    from nm2trt.graph.storage.save import is_same_file
    from nm2trt.pipeline.reconstruct import normalised

    model = Path(model)
    if is_same_file(calib, output):
        raise InputError(f"the output {output} is the file of samples; give another path with -o")
    samples = open_calibration(calib, None, data_root, allow_functions=allow_functions)
    check_request(model, output)
    asked = QuantizeOptions()
    with tempfile.TemporaryDirectory(prefix="nm2trt-") as name:
        folder = Path(name)
        source, note = model, ""
        if (opset(load(model, leave_weights=True).proto) or 0) < asked.form.opset:
            converted = OpsetConversion(asked.form.opset)
            source = folder / "converted" / model.name
            source.parent.mkdir()
            run_pass(load(model, leave_weights=True), source, converted)
            note = converted.note
        source, facts = normalised(source, folder, samples, options, permute=permute)
        prepared = prepare(load(source, leave_weights=True), samples, asked)
        grid = IntegerGrid(prepared.scales, prepared.weights)
        solved = folder / f"{model.stem}.solved.onnx"
        report = reconstruct_model(source, solved, samples, options, name=str(model), grid=grid)
        quantized = quantize_model(
            solved,
            output,
            samples,
            prepared.options,
            compare=False,
            preset=Preset(prepared.ranges, grid.steps),
        )
    notes = (note, *quantized.notes) if note else quantized.notes
    return JointReport(
        replace(report, output=str(output), **facts),
        replace(quantized, model=str(model), notes=notes),
    )
