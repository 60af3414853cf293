"""Opset conversion: an older file rewritten in the first opset whose QuantizeLinear has scales per channel.

onnx's own converter does the work; outputs are compared in ONNX Runtime, and every weight must keep its mask.
"""

from __future__ import annotations

from pathlib import Path

from onnx import version_converter

from nm2trt.errors import LineageError, ModelError
from nm2trt.graph.execute.output_comparison import run_reference
from nm2trt.graph.storage.model import Model, load, opset
from nm2trt.graph.storage.save import embed, save
from nm2trt.graph.storage.stage_metadata import LineageEntry, record
from nm2trt.graph.verify.verify_model import verify_model

__all__ = ["convert_opset"]


def convert_opset(source: Path, target: Path, version: int) -> str:
    """Write a model in a newer opset.

    Args:
        source: The ONNX file, of an older opset.
        target: The file to write; not the source.
        version: The opset.

    Returns:
        A sentence that says what was converted, and how far the outputs moved.

    Raises:
        ModelError: onnx cannot convert the model.
        DifferenceError: The outputs differ beyond the tolerance of their dtype; nothing is written.
        LineageError: A mask changed; nothing is written.
        OutputError: The output cannot be written.
    """
    model = load(source, leave_weights=True)
    parent = verify_model(source)
    try:
        converted = version_converter.convert_version(model.proto, version)
    except Exception as error:  # the converter raises plain RuntimeErrors, and onnx's own kinds
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ModelError(
            f"{source} is of opset {opset(model.proto)} and cannot be converted to opset {version}: "
            f"{reason.strip()}; export it again with opset {version} or newer"
        ) from error
    reference = run_reference(source)
    found = []

    def finish(after: Model) -> None:
        child = verify_model(after.proto, external_data_root=after.root)
        if child.mask_sha256 != parent.mask_sha256:
            raise LineageError(
                f"the conversion to opset {version} changed a mask of {source}; nothing was written"
            )
        entry = LineageEntry(f"convert opset {version}", parent.mask_sha256, child.mask_sha256, "equal")
        record(after.proto, entry, None)
        found.append(reference.compare(after))

    new = Model(converted, model.path, model.root)
    embed(new)
    save(new, target, finish=finish)
    moved = max((item.max_relative for item in found[0].differences), default=0.0)
    compared = found[0].sentence or f"outputs moved by {moved:.2g} of their largest value"
    return f"converted from opset {opset(model.proto)} to {version} first; {compared}"
