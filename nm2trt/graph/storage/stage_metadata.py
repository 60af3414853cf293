"""Metadata that a stage writes into the model that it made: plan, mask hash, and lineage.

Each stage appends one entry: the mask hash that it found, the one that it left, and how they relate
(`nm2trt.nm.lineage.RELATIONS`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from nm2trt.errors import ModelError
from nm2trt.graph.storage.light_onnx import onnx
from nm2trt.graph.storage.model import Model, metadata, set_metadata
from nm2trt.json_types import text
from nm2trt.json_value import JsonValue
from nm2trt.nm.lineage import METADATA_KEY as MASK_KEY
from nm2trt.nm.lineage import Relation
from nm2trt.nm.plan import METADATA_KEY as PLAN_KEY
from nm2trt.nm.plan import Plan

LINEAGE_KEY = "nm2trt.lineage"


@dataclass(frozen=True, slots=True)
class LineageEntry(JsonValue):
    """What one stage did to the masks.

    Args:
        stage: Its name, e.g. "fuse".
        parent: Mask hash of the model that it read.
        child: Mask hash of the model that it wrote.
        relation: How the masks relate.
    """

    stage: str
    parent: str
    child: str
    relation: Relation


def read_lineage(proto: onnx.ModelProto) -> list[LineageEntry]:
    """Return the stages that a model has gone through, oldest first.

    Raises:
        ModelError: The metadata entry is damaged.
    """
    written = metadata(proto).get(LINEAGE_KEY)
    if written is None:
        return []
    try:
        items = json.loads(written)
        for value in (value for item in items for value in item.values()):
            text(value)
        return [LineageEntry(**item) for item in items]
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"the lineage in the ONNX metadata ({LINEAGE_KEY}) is damaged; remove it or export again"
        ) from error


def plan_of(model: Model) -> Plan | None:
    """Return the plan in a model's metadata, or None.

    Raises:
        ModelError: It is damaged.
    """
    text = metadata(model.proto).get(PLAN_KEY)
    return None if text is None else Plan.from_json(text)


def record(proto: onnx.ModelProto, entry: LineageEntry, plan: Plan | None) -> None:
    """Append a stage to a model's lineage, and set its mask hash and plan.

    Raises:
        ModelError: The lineage that is there is damaged.
    """
    stages = [*read_lineage(proto), entry]
    values = {MASK_KEY: entry.child, LINEAGE_KEY: json.dumps([stage.to_json() for stage in stages])}
    if plan is not None:
        values[PLAN_KEY] = plan.to_json()
    set_metadata(proto, values)
