"""Folder of one version of a model, and the files beside the versions."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nm2trt.arrays import Arrays
from nm2trt.errors import InputError
from nm2trt.figures import counted
from nm2trt.file_replacement import sync_folder
from nm2trt.files import write_atomic
from nm2trt.hashes import sha256_bytes, sha256_file
from nm2trt.serving.artefact import Artefact
from nm2trt.serving.config_message import to_text
from nm2trt.serving.history import RECORD, SCHEMA
from nm2trt.serving.model_config import Extras, build_config, choose_backend
from nm2trt.serving.options import DeployOptions
from nm2trt.serving.runtime_bundle import runtime_modules
from nm2trt.serving.samples import fit_samples
from nm2trt.serving.staging import copy_file, is_real_folder, write_file

WARMUP = "warmup"


@dataclass(frozen=True, slots=True)
class BesideFiles:
    """What is written beside the versions: contents by name, and how the configuration refers to them."""

    contents: Mapping[str, bytes] = field(default_factory=dict)
    extras: Extras = field(default_factory=lambda: Extras({}, {}))


def beside_files(
    artefact: Artefact, sample: Arrays | None, labels: Mapping[str, Sequence[str]]
) -> BesideFiles:
    """Make the files that stand beside the versions.

    Args:
        artefact: What is deployed.
        sample: A real sample by input name, or None.
        labels: Names of the classes by output.

    Raises:
        InputError: Sample or labels do not fit the model.
    """
    contents: dict[str, bytes] = {}
    warmup: dict[str, tuple[str, tuple[int, ...]]] = {}
    label_files: dict[str, str] = {}
    if sample is not None:
        for name, array in fit_samples(artefact.inputs, sample, "the sample").items():
            spec = next(spec for spec in artefact.inputs if spec.name == name)
            free = not isinstance(spec.shape[0], int)
            count = 1 if free else int(spec.shape[0] or 1)
            if len(array) < count:
                raise InputError(
                    f"the sample of input {name!r} holds {len(array)}; its fixed batch is {count}"
                )
            data = array[:count].tobytes()
            file = f"{sha256_bytes(data)[:16]}.bin"
            contents[f"{WARMUP}/{file}"] = data
            warmup[name] = (file, array.shape[1:] if free else array[:count].shape)
    for name, lines in labels.items():
        output = next((spec for spec in artefact.outputs if spec.name == name), None)
        if output is None:
            known = ", ".join(repr(spec.name) for spec in artefact.outputs)
            raise InputError(f"labels are given for {name!r}; the model's outputs are {known}")
        classes = output.shape[-1] if output.shape else None
        if isinstance(classes, int) and classes != len(lines):
            raise InputError(
                f"{counted(len(lines), 'label is', 'labels are')} given for output {name!r}, which has "
                f"{counted(classes, 'class', 'classes')}"
            )
        data = ("\n".join(" ".join(line.split()) for line in lines) + "\n").encode()
        label_files[name] = f"labels-{sha256_bytes(data)[:16]}.txt"
        contents[label_files[name]] = data
    return BesideFiles(contents, Extras(warmup, label_files))


def fill_version(
    folder: Path,
    artefact: Artefact,
    name: str,
    version: int,
    options: DeployOptions,
    files: BesideFiles,
    previous: int | None,
) -> tuple[str, str, list[str]]:
    """Write a version's folder; return the artefact's hash, the configuration and the notes."""
    backend = choose_backend(artefact, options.backend)
    model = folder / {"trt": "model.plan", "onnx": "model.onnx", "trt-rtx": "model.rtx"}[artefact.kind]
    digest = copy_file(artefact.path, model) if artefact.write is None else sha256_file(artefact.path)
    if artefact.write is not None:
        artefact.write(model)
    if artefact.sha256 not in ("", digest):
        raise InputError(f"{artefact.path} changed while it was deployed; deploy it again")
    copies: dict[str, Path] = {}
    if artefact.kind == "trt-rtx":
        copies |= {f"runtime/{place}": path for place, path in runtime_modules().items()}
    if backend == "python":
        copies["model.py"] = Path(__file__).with_name("python_model.py")
    for place_, source in copies.items():
        target = folder / place_
        target.parent.mkdir(parents=True, exist_ok=True)
        copy_file(source, target)
    known = replace(artefact, sha256=digest)
    config, notes = build_config(known, name, version, options, files.extras)
    text = to_text(config)
    record = {
        "schema": SCHEMA,
        "name": name,
        "version": version,
        "previous": previous,
        "artefact": artefact.path.name,
        "artefact_sha256": digest,
        "config": text,
        "files": sorted(files.contents),
        "created": dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
    }
    write_file(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())
    for inner in {folder, *(path.parent for path in folder.rglob("*"))}:
        sync_folder(inner)
    return digest, text, notes


def write_beside(model: Path, files: BesideFiles) -> None:
    """Write those of the files that are not there yet."""
    for name, data in files.contents.items():
        target = model / name
        if target.parent != model and not is_real_folder(target.parent):
            target.parent.mkdir()
        if target.is_symlink():
            target.unlink()  # what is written goes into the repository, not to where a link leads
        if not target.is_file() or target.read_bytes() != data:
            write_atomic(target, data)
    sync_folder(model)
