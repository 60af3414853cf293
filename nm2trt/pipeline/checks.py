"""Is it right, is it faster: a model against another."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nm2trt.pipeline.sessions import open_session

if TYPE_CHECKING:
    from nm2trt.validation.report import ValidationReport

__all__ = ["validate"]


def validate(
    model: str | os.PathLike[str],
    *,
    against: str | os.PathLike[str],
    data: str | os.PathLike[str],
    output: str | None = None,
    batch: int | None = None,
    runs: int = 200,
    warmup: int = 20,
    threads: int = 0,
) -> ValidationReport:
    """Compare two ONNX models on labelled data: top-1 with the paired interval, outputs, latency.

    Both run on ONNX Runtime on the CPU, where zeros bring no speed.

    Args:
        model: The model in question, e.g. the sparse one.
        against: The model to compare with, e.g. the dense one.
        data: An `.npz` with the inputs by their names and class indices under `labels`.
        output: Output of class scores; by default the only one of rank 2.
        batch: Batch size; 64 for accuracy and 1 for latency by default.
        runs: Timed runs of each model; 0 leaves latency out.
        warmup: Runs of each before, not timed.
        threads: Threads of ONNX Runtime; 0 leaves it to the library.

    Raises:
        InputError: A file or option is wrong, or the data does not fit a model.
        DifferenceError: The models' outputs cannot be compared, or are NaN.
        BackendError: ONNX Runtime is missing or failed.
    """
    from nm2trt.files import check_input
    from nm2trt.validation.data import load_labelled
    from nm2trt.validation.report import validate_sessions

    paths = [check_input(path, "an ONNX model") for path in (model, against)]
    samples = load_labelled(data)
    with (
        open_session(paths[0], threads=threads) as candidate,
        open_session(paths[1], threads=threads) as reference,
    ):
        return validate_sessions(
            candidate,
            reference,
            samples,
            names=(str(model), str(against), str(data)),
            output=output,
            batch=batch,
            runs=runs,
            warmup=warmup,
            conditions={"backend": "ONNX Runtime on the CPU", "threads": str(threads or "its default")},
        )
