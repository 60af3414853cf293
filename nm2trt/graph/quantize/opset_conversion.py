"""Opset conversion: an older model rewritten in the first opset whose QuantizeLinear has scales per channel.

onnx's own converter does the work; outputs are compared in ONNX Runtime, and every weight must keep its mask.
"""

from __future__ import annotations

import dataclasses

from onnx import version_converter

from nm2trt.errors import LineageError, ModelError, first_line
from nm2trt.graph.analysis.output_kinds import before_saturation
from nm2trt.graph.analysis.shapes import crashes_inference, write_kernel_shapes
from nm2trt.graph.execute.output_comparison import Agreement, run_reference
from nm2trt.graph.pass_frame import Change, Pass
from nm2trt.graph.storage.model import Model, opset
from nm2trt.graph.verify.report import VerifyReport
from nm2trt.nm.lineage import Relation


class OpsetConversion(Pass):
    """Requires a model that onnx can convert; ensures the same masks and outputs.

    Args:
        version: The opset to convert to.
    """

    def __init__(self, version: int) -> None:
        self.stage = f"convert opset {version}"
        self._version, self._before = version, 0

    def rewrite(self, model: Model, parent: VerifyReport) -> Change:  # noqa: ARG002
        """Replace the protobuf by the converted one; see `Pass.rewrite`.

        Raises:
            ModelError: onnx cannot convert the model.
        """
        self._before = opset(model.proto) or 0
        write_kernel_shapes(model.proto.graph)
        if crashes_inference(model.proto):
            raise ModelError(
                f"{model.name} is of opset {self._before} and has an EyeLike, an Einsum in a function, or "
                "(with onnx before 1.22) a convolution of unknown shape, at which onnx's converter may "
                f"crash or never end; export it again with opset {self._version} or newer"
            )
        # A probability near 0 moves by much of itself; the scores before it tell rounding from an error.
        self._reference = run_reference(model, before_saturation(model.proto.graph))
        try:
            converted = version_converter.convert_version(model.proto, self._version)
        except Exception as error:  # the converter raises plain RuntimeErrors, and onnx's own kinds
            raise ModelError(
                f"{model.name} is of opset {self._before} and cannot be converted to opset {self._version}: "
                f"{first_line(error)}; export it again with opset {self._version} or newer"
            ) from error
        made = {name for node in converted.graph.node for name in node.output}
        if not made.issuperset(self._reference.inside):
            self._reference = dataclasses.replace(self._reference, inside={})  # the converter renamed one
        model.proto.CopyFrom(converted)
        return Change()

    def ensures(self, parent: VerifyReport, child: VerifyReport) -> Relation:
        """Return "equal"; see `Pass.ensures`.

        Raises:
            LineageError: A mask changed.
        """
        if child.mask_sha256 != parent.mask_sha256:
            raise LineageError(
                f"the conversion to opset {self._version} changed a mask of the model; nothing was written"
            )
        return "equal"

    def compare(self, after: Model) -> Agreement:
        """Compare the outputs before and after; see `Pass.compare`."""
        agreement = self._reference.compare(after)
        moved = max((item.max_relative for item in agreement.differences), default=0.0)
        compared = agreement.sentence or f"outputs moved by {moved:.2g} of their largest value"
        self.notes = (f"converted from opset {self._before} to {self._version} first; {compared}",)
        return agreement


def conversion(model: Model, version: int) -> list[OpsetConversion]:
    """Return the pass that comes before one that needs a newer opset; [] if the model has it, or has none.

    Args:
        model: The model.
        version: The oldest opset that will do.
    """
    own = opset(model.proto)
    return [OpsetConversion(version)] if own is not None and own < version else []
