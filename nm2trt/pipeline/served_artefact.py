"""The engine or ONNX model to serve, described for Triton, and its samples."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nm2trt.errors import InputError

if TYPE_CHECKING:
    from nm2trt.serving.artefact import Artefact


def describe_artefact(path: Path) -> Artefact:
    """Describe an engine or ONNX model as Triton needs it.

    Raises:
        InputError: The file is missing or damaged, or a tensor has no known type and rank.
    """
    from nm2trt.engine.inspection import is_engine
    from nm2trt.manifest import read_manifest
    from nm2trt.serving.artefact import Artefact, engine_artefact

    if is_engine(path) or read_manifest(path).status == "fits":
        return engine_artefact(path)
    from nm2trt.backends.protocol import TensorSpec
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.model_info import describe_model
    from nm2trt.graph.storage.save import data_files

    model = load(path, leave_weights=True)
    described = describe_model(model)
    for tensor in (*described.inputs, *described.outputs):
        if not tensor.dtype:
            raise InputError(
                f"{tensor.name!r} of {path} has a type that cannot be served, text for example; do that step "
                "outside the model"
            )
        if tensor.shape is None:
            raise InputError(
                f"the model {path} does not state the rank of {tensor.name!r}, which a server needs; export "
                "it with the shapes of its inputs and outputs"
            )
    plan = described.plan
    return Artefact(
        path=path,
        kind="onnx",
        inputs=tuple(TensorSpec(t.name, t.dtype, t.shape or ()) for t in described.inputs),
        outputs=tuple(TensorSpec(t.name, t.dtype, t.shape or ()) for t in described.outputs),
        mask_sha256=described.mask_sha256,
        pattern="" if plan is None else ",".join(sorted({str(entry.pattern) for entry in plan.sparse})),
        write=partial(_rewrite, path) if data_files(model) - {path.resolve()} else None,
    )


def _rewrite(source: Path, target: Path) -> None:
    from nm2trt.graph.storage.model import load
    from nm2trt.graph.storage.save import save

    save(load(source), target)


def read_samples(path: str | os.PathLike[str], artefact: Artefact) -> dict[str, Any]:
    """Read all samples of an `.npz` by input name; an unnamed array is the first input's."""
    from nm2trt.calibration.sources import read_arrays

    reader = read_arrays(Path(path), None, artefact.inputs[0].name)
    return dict(reader.take(range(reader.length)))
