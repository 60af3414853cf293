"""Verification beside the builder's parser: both read the same file, and neither waits for the other."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nm2trt.backends.options import BuildOptions
    from nm2trt.backends.protocol import Backend
    from nm2trt.engine.early_parse import Parsed
    from nm2trt.graph.storage.model import Model
    from nm2trt.graph.verify.report import VerifyReport


def is_sound(model: Model) -> bool:
    """Tell whether a parser can be given a file before all its weights were read.

    Raises:
        ModelError: The graph is not valid ONNX.
    """
    from nm2trt.graph.analysis.sound_nodes import check_nodes
    from nm2trt.graph.analysis.weight_operands import consumers
    from nm2trt.graph.storage.save import all_tensors
    from nm2trt.graph.storage.tensors import has_its_bytes

    check_nodes(model)  # a node without its outputs ends TensorRT's parser in a segmentation fault
    list(consumers(model))
    return all(has_its_bytes(tensor, model.root) for tensor in all_tensors(model.proto))


def _verified(model: Model) -> VerifyReport:
    from nm2trt.graph.verify.verify_model import verify_model  # here: it loads while the parser works

    return verify_model(model)


def verified_and_parsed(
    model: Model, source: Path, options: BuildOptions, builder: Backend
) -> tuple[VerifyReport, Parsed | None]:
    """Verify a model while the builder parses its file, or with None where it is to be parsed afterwards.

    Args:
        model: The model.
        source: The file to parse: the model's own, or what was made of it.
        options: What to build.
        builder: The builder.

    Raises:
        ModelError: The graph is not valid ONNX.
        BackendError: The parser crashes on the model, which was tried in another process.
    """
    from nm2trt.engine.early_parse import parse_early
    from nm2trt.graph.analysis.parser_hazards import has_bodies

    if builder.name != "ort" and has_bodies(model):
        from nm2trt.engine.trial_parse import try_parser

        found = _verified(model)
        try_parser(source, options.plugins, builder, model.path or source)
        return found, None
    if source != model.file or not is_sound(model):
        return _verified(model), None
    verifying = _Verifying(model)
    interval = sys.getswitchinterval()
    # The parser waits for the interpreter at each of its messages: a thousand waits of the usual 5 ms.
    sys.setswitchinterval(1e-4)
    try:
        verifying.start()
        try:
            parsed = parse_early(source, options, builder)
        finally:
            verifying.join()
        return verifying.result(), parsed
    finally:
        sys.setswitchinterval(interval)


class _Verifying(threading.Thread):
    """Verifies a model, then loads what the build needs next; an executor would take longer to import."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model
        self._report: VerifyReport
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._report = _verified(self._model)
            import nm2trt.engine.build  # noqa: F401
        except BaseException as error:
            self._error = error

    def result(self) -> VerifyReport:
        """Return the report once the thread has ended, or raise what verification raised."""
        if self._error is not None:
            raise self._error
        return self._report
