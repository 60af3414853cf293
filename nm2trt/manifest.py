"""The `.json` beside an engine: what it is, what it was made from, and how.

`nm2trt.engine.pair_writer` writes both; a reader hashes the engine and takes the record with that hash.

The keys are those of `Manifest`, explained in docs/manifest.md, with `schema` in front; a record under
`previous` of an engine that had none holds its hash and `built_elsewhere: true`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from nm2trt.errors import InputError, OutputError
from nm2trt.file_replacement import os_reason
from nm2trt.files import read_regular
from nm2trt.hashes import sha256_file
from nm2trt.json_value import JsonValue

SCHEMA = 1

Json = Mapping[str, Any]

# What the items of the record's lists are; and which of its values are texts.
_LISTS = {"targets": str, "notes": str, "inputs": dict, "outputs": dict, "ladder": dict}
_TEXTS = ("kind", "engine_sha256", "model", "model_sha256", "mask_sha256", "backend", "created", "device")


@dataclass(frozen=True, slots=True)
class Manifest(JsonValue):
    """What is recorded of one engine; docs/manifest.md is the schema.

    Args:
        kind: What the engine is and where it runs, in a sentence.
        engine_sha256: Hash of its bytes.
        engine_bytes: Its size.
        model: File name of the ONNX model.
        model_sha256: Hash of that file.
        mask_sha256: Hash of the masks (`nm2trt.nm.lineage`).
        plan: The model's sparsity plan (`nm2trt.nm.plan`), or None.
        backend: Name of the builder.
        versions: Version by product: "nm2trt" and the builder.
        options: `BuildOptions`, complete: profiles and targets included.
        targets: Compute capabilities that it is for.
        inputs: Name, dtype and shape of each input; a free dimension is its name, or None.
        outputs: The same of each output.
        ladder: One row per weight (`nm2trt.engine.ladder.ladder`).
        notes: What the user was told.
        created: UTC time, ISO 8601.
        device: The GPU that it was built on; "" for a build ahead of time.
    """

    schema = SCHEMA
    json_names = "schema *"

    kind: str
    engine_sha256: str
    engine_bytes: int
    model: str
    model_sha256: str
    mask_sha256: str
    plan: Json | None
    backend: str
    versions: Mapping[str, str]
    options: Json
    targets: tuple[str, ...]
    inputs: tuple[Json, ...]
    outputs: tuple[Json, ...]
    ladder: tuple[Json, ...]
    notes: tuple[str, ...]
    created: str
    device: str = ""

    @classmethod
    def from_json(cls, data: Any, *, where: str) -> Manifest:
        """Read a record; keys that this release does not know are ignored.

        Args:
            data: The decoded JSON.
            where: The file, for messages.

        Raises:
            InputError: The record is damaged, or of a later schema.
        """
        if isinstance(data, dict) and isinstance(data.get("schema"), int) and data["schema"] > SCHEMA:
            raise InputError(
                f"{where} has schema {data['schema']}, this release reads {SCHEMA}; update nm2trt to read it"
            )
        try:
            if data["schema"] != SCHEMA:
                raise ValueError
            # What has a default came later, and may be absent.
            values = {
                field.name: data[field.name]
                for field in fields(cls)
                if field.default is MISSING or field.name in data
            }
            _check_types(values)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{where} is damaged or not a manifest of nm2trt; build the engine again"
            ) from error
        values |= {name: tuple(values[name]) for name in _LISTS}
        return cls(**values)


@dataclass(frozen=True, slots=True)
class Fit(JsonValue):
    """An engine and what its manifest says of it.

    Args:
        status: "fits", "missing" (no manifest) or "other" (it describes other bytes).
        sentence: The same in words, with what to do.
        engine_sha256: Hash of the engine's bytes.
        manifest: The record of these very bytes, or None.
    """

    status: Literal["fits", "missing", "other"]
    sentence: str
    engine_sha256: str
    manifest: Manifest | None


def manifest_path(artefact: str | os.PathLike[str]) -> Path:
    """Return where an artefact's manifest lies: its own name followed by `.json`."""
    artefact = Path(artefact)
    return artefact.with_name(artefact.name + ".json")


def read_manifest(engine: str | os.PathLike[str]) -> Fit:
    """Find the record of the engine's bytes in its manifest.

    Raises:
        InputError: The manifest is damaged or of a later schema.
        OSError: The engine cannot be read.
    """
    engine = Path(engine)
    path = manifest_path(engine)
    # The engine may be replaced between the two reads; a second look then finds the pair whole.
    for _ in range(2):
        digest = sha256_file(engine)
        records = records_of(path)
        for record in records:
            if record.get("engine_sha256") == digest:
                if record.get("built_elsewhere"):
                    return Fit(
                        "missing", f"{engine.name} was not built by nm2trt; it has no manifest", digest, None
                    )
                manifest = Manifest.from_json(record, where=str(path))
                return Fit("fits", f"{path.name} describes this very engine", digest, manifest)
    if not records:
        return Fit("missing", f"{path.name} is not there; build the engine again to have one", digest, None)
    return Fit("other", _other(engine, path, records), digest, None)


def _other(engine: Path, path: Path, records: list[dict[str, Any]]) -> str:
    """Say how an engine differs from the one that its manifest describes."""
    size, recorded = engine.stat().st_size, records[0].get("engine_bytes")
    if isinstance(recorded, int) and size < recorded:
        why = (
            f"{engine.name} has {size} bytes, but {path.name} says {recorded}: it is cut short, or of "
            "another engine"
        )
    else:
        why = f"{path.name} describes another engine than {engine.name}"
    return f"{why}; build it again"


def refuse_foreign(engine: str | os.PathLike[str]) -> None:
    """Raise if no engine is, and what lies in its manifest's place is a file of somebody else's.

    Raises:
        OutputError: It would be replaced, and nobody named it.
    """
    path = manifest_path(engine)
    if Path(engine).exists():
        return
    try:
        records_of(path)
    except InputError as error:
        raise OutputError(
            f"{path} is not a manifest of nm2trt, and would be replaced; choose another output path"
        ) from error


def _check_types(values: Json) -> None:
    """Raise an error of Python's if a record is not what docs/manifest.md says, as far as it is read."""
    profiles = values["options"].get("profiles", [])
    right = (
        all(isinstance(values.get(name, ""), str) for name in _TEXTS),
        all(isinstance(values[name], list) for name in _LISTS),
        all(isinstance(item, kind) for name, kind in _LISTS.items() for item in values[name]),
        all(isinstance(version, str) for version in values["versions"].values()),
        isinstance(values["options"], dict),
        isinstance(values["plan"], (dict, type(None))),
        all(isinstance(row.get("pattern", {}), dict) for row in values["ladder"]),
        all(
            size is None or isinstance(size, str) or (type(size) is int and abs(size) < 1 << 63)
            for tensor in (*values["inputs"], *values["outputs"])
            for size in tensor["shape"]
        ),
        all(isinstance(shapes["input"], str) for profile in profiles for shapes in profile),
        all(
            type(size) is int
            for profile in profiles
            for shapes in profile
            for end in ("min", "opt", "max")
            for size in shapes[end]
        ),
    )
    if not all(right):
        raise TypeError


def records_of(path: Path) -> list[dict[str, Any]]:
    """Return the manifest's record and, during a replacement, the previous one; [] without a manifest."""
    try:
        data = json.loads(read_regular(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise InputError(f"{path} cannot be read: {os_reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is damaged: it is not JSON; build the engine again") from error
    if not isinstance(data, dict) or not isinstance(data.get("engine_sha256"), str):
        raise InputError(f"{path} is damaged or not a manifest of nm2trt; build the engine again")
    previous = data.pop("previous", None)
    return [data, previous] if isinstance(previous, dict) else [data]
