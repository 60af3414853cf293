"""A served model checked against ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from nm2trt.errors import InputError
from nm2trt.options.field import filled, keywords
from nm2trt.options.serving import ProbeCommand
from nm2trt.pipeline.served_artefact import describe_artefact, read_samples
from nm2trt.serving.options import ProbeOptions

if TYPE_CHECKING:
    from nm2trt.serving.artefact import Artefact
    from nm2trt.serving.probe_report import ProbeReport


def probe(
    url: str,
    name: str,
    reference: str | os.PathLike[str] | Artefact,
    *,
    data: str | os.PathLike[str] | None = None,
    repository: str | os.PathLike[str] | None = None,
    options: ProbeOptions | None = None,
) -> ProbeReport:
    """Check a served model against ONNX Runtime: outputs batch by batch and under concurrency, and latency.

    Args:
        url: The server, e.g. "localhost:8000" or "grpc://localhost:8001".
        name: The model.
        reference: The ONNX model that it should answer like, or its description if it was read already.
        data: An `.npz` with real samples by input name; random ones by default.
        repository: The repository that it was deployed to: its configuration is compared with the server's.
        options: Batches, concurrency and tolerance.

    Raises:
        InputError: The reference, the data or the address is wrong.
        DifferenceError: `report.require_passed()` raises it; the report itself only says so.
        BackendError: The model is not loaded, or refuses requests.
        ServerError: The server cannot be reached.
    """
    from nm2trt.serving.artefact import Artefact
    from nm2trt.serving.probe import probe_model
    from nm2trt.serving.repository import served_config

    described = reference if isinstance(reference, Artefact) else describe_artefact(Path(reference))
    if described.kind != "onnx":
        raise InputError(
            f"{described.path} is an engine; the reference is the ONNX model that it was built from"
        )
    config = None if repository is None else served_config(repository, name)
    samples = None if data is None else read_samples(data, described)
    return probe_model(url, name, described, samples=samples, config=config, options=options)


def probe_command(command: ProbeCommand) -> ProbeReport:
    """Probe as the options of `nm2trt probe` say; raises what `probe` does."""
    options = filled(ProbeOptions, command)
    return probe(options=options, **keywords(command, *ProbeOptions.__dataclass_fields__))
