"""Commands read JSON values without converting them from another type, and refuse NaN."""

import json
import math

import pytest

from nm2trt.engine.ladder.ladder_row import LadderRow
from nm2trt.errors import Nm2trtError
from nm2trt.json_types import number, text, whole
from nm2trt.nm.gain_table import parse_dense_names, parse_gain_table
from nm2trt.nm.plan import Plan
from nm2trt.reporting.folder import RunFolder
from nm2trt.reporting.records import read_record
from nm2trt.validation.latency.bench_files import read_trtexec
from nm2trt.validation.metrics.detection import _read_annotations

ROW = {"m": 64, "n": 64, "k": 64, "dtype": "float16", "dense_ms": 2.0, "sparse_ms": 1.5}
BOX = {"image_id": 1, "category_id": 1, "bbox": [1.0, 2.0, 3.0, 4.0], "area": 12.0, "iscrowd": 0}
RUNG = {"answer": "yes", "detail": "d"}
FILE = {"path": "a", "sha256": "b", "size_bytes": 1, "mtime_ns": 2}


def from_file(read):
    def reader(written, tmp_path):
        path = tmp_path / "verify.json"
        path.write_text(written)
        return read(path)

    return reader


def telemetry(written, tmp_path):
    folder = RunFolder(tmp_path)
    folder.telemetry_path.write_text(f"{written}\n")
    return folder.telemetry()


# A sound document of each kind that a command reads, and its reader.
READERS = {
    "gain table": (
        {"schema": 1, "device": {"name": "A10", "target": "sm86"}, "versions": {"trt": "10"}, "rows": [ROW]},
        lambda written, _: parse_gain_table(written, where="t.json"),
    ),
    "gain report": (
        {"schema": 1, "layers": [{"weight": "w", "sentence": "s"}], "exclude": ["w"]},
        lambda written, _: parse_dense_names(written, where="t.json"),
    ),
    "plan": (
        {
            "version": 1,
            "method": "m",
            "weights": [{"weight": "w", "pattern": "2:4", "reason": "r", "shape": [4, 8], "axis": 1}],
        },
        lambda written, _: Plan.from_json(written),
    ),
    "times": ([{"latencyMs": 1.5}], from_file(read_trtexec)),
    "boxes": (
        {"images": [{"id": 1}], "annotations": [BOX], "categories": [{"id": 1}]},
        from_file(_read_annotations),
    ),
    "record": (
        {
            "schema": 1,
            "stage": "verify",
            "name": "verify",
            "status": "done",
            "seconds": 1.5,
            "inputs": [FILE],
            "result": {},
        },
        from_file(read_record),
    ),
    "telemetry": ({"step": 1, "run": "a"}, telemetry),
    "ladder": (
        {
            **dict.fromkeys(("pattern", "fits", "dtype", "listed", "chosen", "gain"), RUNG),
            "weight": "w",
            "consumer": "c",
            "operator": "Conv",
            "reason": "r",
            "sentence": "s",
            "shape": [4, 8],
            "macs": 9,
            "doubts": {"code": "why"},
        },
        lambda written, _: LadderRow.from_json(json.loads(written), where="m.json"),
    ),
}


def leaves(value, at=()):
    """Yield the path of every number and text below a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from leaves(item, (*at, key))
    if isinstance(value, int | float | str):
        yield at


def replaced(value, at, new):
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], new)
    return copy


def value_at(value, at):
    for step in at:
        value = value[step]
    return value


@pytest.mark.parametrize("kind", READERS)
def test_a_sound_document_is_read(kind, tmp_path):
    document, read = READERS[kind]
    assert read(json.dumps(document), tmp_path)


@pytest.mark.parametrize(
    ("kind", "at"), [(kind, at) for kind, (document, _) in READERS.items() for at in leaves(document)]
)
def test_a_value_of_another_type_is_refused(kind, at, tmp_path):
    document, read = READERS[kind]
    old = value_at(document, at)
    others = [1, True] if isinstance(old, str) else [str(old), math.nan, math.inf, [old]]
    # COCO files of some tools say true and false.
    others += [] if at[-1] in ("iscrowd", "schema", "version") else [not old]
    for other in others:
        written = json.dumps(replaced(document, at, other))
        if kind == "telemetry":
            written += "\n{}\n"  # a damaged last line is one that a kill cut short
        with pytest.raises(Nm2trtError) as caught:
            read(written, tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "value"),
    [
        *((whole, value) for value in (True, 1.0, "1", None, 1 << 63, -(1 << 63), math.nan)),
        *((number, value) for value in (True, "1", None, math.nan, math.inf, 10**400, [1.0])),
        *((text, value) for value in (True, 1, None, b"a", ["a"])),
    ],
)
def test_other_types_are_refused(read, value):
    with pytest.raises((TypeError, ValueError)):
        read(value)


def test_values_pass_as_they_are():
    assert (whole(3), text("a"), number(3), number(-0.5)) == (3, "a", 3.0, -0.5)
    assert type(number(3)) is float
