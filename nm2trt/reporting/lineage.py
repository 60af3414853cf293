"""Lineage of artefacts, by the hashes of files that stages read and wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePath

from nm2trt.reporting.fields import Fields
from nm2trt.reporting.records import FileRecord, StageRecord

# Stages whose outputs are models or engines; files that other stages write do not belong to the lineage.
_MAKERS = frozenset(
    {"train", "sparsify", "export", "fuse", "permute", "prune", "cast", "quantize", "build", "deploy"}
)
# Samples, recipes, code and what belongs to a model: files that stages read or write beside models.
_NO_MODELS = (".data", ".json", ".npz", ".npy", ".yaml", ".yml", ".py", ".pbtxt")


@dataclass(frozen=True, slots=True)
class LineageNode:
    """One artefact and how it came about.

    Args:
        key: What other nodes call it by.
        name: File name.
        stage: Name of the stage that wrote it, or "given".
        parents: Keys of the artefacts that it was made from.
        relation: How its masks relate to its parent's: one of `nm2trt.nm.lineage.RELATIONS`, or "".
        sha256: Hash of the file, or "".
        mask_sha256: Hash of its masks, or "".
        size_bytes: Its size, or None.
    """

    key: str
    name: str
    stage: str
    parents: tuple[str, ...]
    relation: str
    sha256: str
    mask_sha256: str
    size_bytes: int | None


def lineage_of(records: Sequence[StageRecord]) -> tuple[LineageNode, ...]:
    """Return the artefacts of a run, each after those that it was made from.

    Args:
        records: Stages that are done, in order.
    """
    masks = _masks(records)
    nodes: dict[str, LineageNode] = {}
    for record in records:
        if record.stage not in _MAKERS:
            continue
        models = [file for file in whole(record.inputs) if not file.path.endswith(_NO_MODELS)]
        for file in models:
            if _key(file) not in nodes:
                nodes[_key(file)] = _node(file, "given", (), "", masks)
        relation = Fields(dict(record.result), record.name).text("relation", "")
        parents = tuple(dict.fromkeys(_key(file) for file in models))
        for file in whole(record.outputs):
            # A file with the bytes of an earlier one is that artefact under another name.
            if _key(file) not in (*parents, *nodes) and not file.path.endswith(_NO_MODELS):
                nodes[_key(file)] = _node(file, record.name, parents, relation, masks)
    return tuple(nodes.values())


def whole(files: Sequence[FileRecord]) -> list[FileRecord]:
    """Return each model as one file: its external data is in its size and in its hash.

    The hash is that of `nm2trt.graph.storage.model_hash`.
    """
    parts: dict[str, list[FileRecord]] = {}
    for file in files:
        if file.part_of:
            parts.setdefault(file.part_of, []).append(file)
    found = []
    for file in files:
        if file.part_of:
            continue
        data = parts.get(file.path, [])
        digests = "".join([file.sha256, *(part.sha256 for part in data)])
        sha256 = hashlib.sha256(digests.encode()).hexdigest() if data else file.sha256
        size = file.size_bytes + sum(part.size_bytes for part in data)
        found.append(replace(file, sha256=sha256, size_bytes=size))
    return found


def _key(file: FileRecord) -> str:
    return file.sha256 or file.path


def _node(
    file: FileRecord, stage: str, parents: tuple[str, ...], relation: str, masks: Mapping[str, str]
) -> LineageNode:
    name = PurePath(file.path).name
    shown = "/".join(PurePath(file.path).parts[-2:]) if name.isdigit() else name  # a version's folder
    return LineageNode(
        _key(file), shown, stage, parents, relation, file.sha256, masks.get(name, ""), file.size_bytes
    )


def _masks(records: Sequence[StageRecord]) -> dict[str, str]:
    """Return the mask hash by file name, from every result that tells one."""
    masks: dict[str, str] = {}
    for record in records:
        result = Fields(dict(record.result), record.name)
        digest = result.text("mask_sha256", "")
        named = result.text("output", "") or result.text("engine", "") or result.text("model", "")
        if digest and named:
            masks[PurePath(named).name] = digest
    return masks
