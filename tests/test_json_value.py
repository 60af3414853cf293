"""`JsonValue` and `named`: which keys a result's JSON has, and what each kind of value becomes."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

from nm2trt.json_value import JsonValue, named
from nm2trt.nm.pattern import NMPattern


@dataclass(frozen=True, slots=True)
class Layer:
    name: str
    error: float


@dataclass(frozen=True, slots=True)
class Timing(JsonValue):
    json_names = "milliseconds=ms unit"
    unit = "ms"

    ms: float


@dataclass(frozen=True, slots=True)
class Report(JsonValue):
    json_names = "schema *"
    schema = 3

    model: Path
    pattern: NMPattern
    layers: tuple[Layer, ...]
    timing: Timing
    ranges: dict[str, tuple[float, float]]


REPORT = Report(
    Path("a/net.onnx"),
    NMPattern(2, 4),
    (Layer("conv", 0.5), Layer("head", math.inf)),
    Timing(1.5),
    {"x": (-1.0, math.nan)},
)


def test_names_choose_rename_and_spread():
    assert named(REPORT, "layer=layers model **timing timing") == {
        "layer": [{"name": "conv", "error": 0.5}, {"name": "head", "error": None}],
        "model": "a/net.onnx",
        "milliseconds": 1.5,
        "unit": "ms",
        "timing": {"milliseconds": 1.5, "unit": "ms"},
    }
    assert named(REPORT, "took=timing.ms") == {"took": 1.5}


def test_all_fields_are_plain_json_in_their_order():
    found = named(REPORT, "schema *")
    assert list(found) == ["schema", "model", "pattern", "layers", "timing", "ranges"]
    assert found["pattern"] == "2:4"
    assert found["ranges"] == {"x": [-1.0, None]}
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_json_is_all_fields_unless_a_class_names_others():
    assert Timing(2.0).to_json() == {"milliseconds": 2.0, "unit": "ms"}

    @dataclass(frozen=True, slots=True)
    class Point(JsonValue):
        x: int
        y: int

    assert Point(1, 2).to_json() == {"x": 1, "y": 2}
