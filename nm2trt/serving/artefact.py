"""Artefact to deploy: a model file, and everything of it that a configuration needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nm2trt.backends.options import Profile, ShapeRange
from nm2trt.backends.protocol import TensorSpec
from nm2trt.errors import InputError
from nm2trt.manifest import Manifest, read_manifest

Kind = Literal["onnx", "trt", "trt-rtx"]


@dataclass(frozen=True, slots=True)
class Artefact:
    """A model file that a server can run.

    Args:
        path: The file.
        kind: "onnx", or the builder that made the engine.
        inputs: Its inputs.
        outputs: Its outputs.
        profiles: An engine's optimisation profiles; () for a static one and for ONNX.
        sha256: Hash of its bytes; "" if it was not taken before.
        model_sha256: Hash of the ONNX file that an engine was built from; "" for ONNX.
        mask_sha256: Hash of its masks, or "".
        pattern: Patterns that its weights hold by plan, as "2:4"; "" if none are known.
        versions: Version by product that made it.
        targets: Compute capabilities that an engine is for.
        write: Writes an ONNX model of external data anew, with all of the data in `FILE.data` beside it; None
            if the file is complete in itself. The names that a model gives its data files are never used.
    """

    path: Path
    kind: Kind
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    profiles: tuple[Profile, ...] = ()
    sha256: str = ""
    model_sha256: str = ""
    mask_sha256: str = ""
    pattern: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    write: Callable[[Path], None] | None = None


def engine_artefact(path: str | os.PathLike[str]) -> Artefact:
    """Describe an engine by its manifest; the engine itself is not loaded.

    Raises:
        InputError: It has no manifest, or one of other bytes, or of a builder that no server runs.
    """
    path = Path(path)
    fit = read_manifest(path)
    if fit.manifest is None:
        raise InputError(f"{path}: {fit.sentence}; shapes, profiles and versions are read from there")
    manifest = fit.manifest
    if manifest.backend not in ("trt", "trt-rtx"):
        raise InputError(
            f"{path} was built by {manifest.backend!r}, whose engines no Triton backend here runs"
        )
    kind: Kind = "trt" if manifest.backend == "trt" else "trt-rtx"
    try:
        return Artefact(
            path=path,
            kind=kind,
            inputs=tuple(_tensor(item) for item in manifest.inputs),
            outputs=tuple(_tensor(item) for item in manifest.outputs),
            profiles=tuple(tuple(_range(item) for item in given) for given in manifest.options["profiles"]),
            sha256=fit.engine_sha256,
            model_sha256=manifest.model_sha256,
            mask_sha256=manifest.mask_sha256,
            pattern=_pattern(manifest),
            versions=dict(manifest.versions),
            targets=manifest.targets,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the manifest of {path} is damaged; build the engine again") from error


def _tensor(item: Mapping[str, Any]) -> TensorSpec:
    return TensorSpec(str(item["name"]), str(item["dtype"]), tuple(item["shape"]))


def _range(item: Mapping[str, Any]) -> ShapeRange:
    low, best, high = (tuple(int(size) for size in item[key]) for key in ("min", "opt", "max"))
    return ShapeRange(str(item["input"]), low, best, high)


def _pattern(manifest: Manifest) -> str:
    """Return the patterns of the plan; without one, 2:4 if the builder was allowed to use it."""
    if manifest.plan is not None:
        entries: Iterable[Mapping[str, Any]] = manifest.plan["weights"]
        return ",".join(sorted({str(entry["pattern"]) for entry in entries if entry["pattern"]}))
    held = any(row.get("pattern", {}).get("answer") == "yes" for row in manifest.ladder)
    return "2:4" if held and manifest.options.get("sparsity") != "disable" else ""
