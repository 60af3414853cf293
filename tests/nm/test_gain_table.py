"""Gain tables: the nearest product, what is too far, and damaged files. The numbers are invented."""

import json
import math

import pytest

from nm2trt.errors import InputError
from nm2trt.nm.gain_table import parse_dense_names, parse_gain_table

# Synthetic: no GPU ever took these times.
SYNTHETIC = {
    "schema": 1,
    "device": {"name": "Synthetic GPU", "target": "sm00"},
    "versions": {"torch": "0.0"},
    "rows": [
        {"m": 1024, "n": 256, "k": 256, "dtype": "float16", "dense_ms": 1.0, "sparse_ms": 2.0},
        {"m": 1024, "n": 1024, "k": 1024, "dtype": "float16", "dense_ms": 3.0, "sparse_ms": 2.0},
        {"m": 1024, "n": 1024, "k": 1024, "dtype": "int8", "dense_ms": 4.0, "sparse_ms": 2.0},
    ],
}


def read(data):
    return parse_gain_table(data if isinstance(data, (str, bytes)) else json.dumps(data), where="gain.json")


@pytest.fixture
def table():
    return read(SYNTHETIC)


def test_the_very_product(table):
    found = table.nearest(1024, 1024, 1024, "float16")
    assert (found.row.speedup, found.factor, found.extrapolated) == (1.5, 1.0, False)


@pytest.mark.parametrize(
    ("size", "speedup", "factor", "extrapolated"),
    [
        pytest.param((1024, 300, 256), 0.5, 300 / 256, False, id="near-the-small-one"),
        pytest.param((2048, 1024, 1024), 1.5, 2.0, False, id="twice-the-rows"),
        pytest.param((1024, 1024, 8192), 1.5, 8.0, True, id="eight-times-the-depth"),
        pytest.param((1, 1024, 1024), 1.5, 1024.0, True, id="one-row"),
    ],
)
def test_the_nearest_product_and_how_far_it_is(table, size, speedup, factor, extrapolated):
    found = table.nearest(*size, "float16")
    assert found.row.speedup == speedup
    assert math.isclose(found.factor, factor)
    assert found.extrapolated is extrapolated


def test_times_without_the_launch_are_taken_if_both_are_there():
    row = SYNTHETIC["rows"][0]
    both = read({**SYNTHETIC, "rows": [{**row, "dense_graph_ms": 0.3, "sparse_graph_ms": 0.1}]})
    assert math.isclose(both.rows[0].speedup, 3.0)
    one = read({**SYNTHETIC, "rows": [{**row, "dense_graph_ms": 0.3, "sparse_graph_ms": None}]})
    assert one.rows[0].speedup == 0.5
    with pytest.raises(InputError, match="is damaged"):
        read({**SYNTHETIC, "rows": [{**row, "dense_graph_ms": -0.3, "sparse_graph_ms": 0.1}]})


def test_types_are_not_mixed(table):
    assert table.nearest(1024, 256, 256, "int8").row.speedup == 2.0
    assert table.nearest(1024, 256, 256, "bfloat16") is None
    assert table.dtypes() == ("float16", "int8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param("{", "gain.json is damaged or not a gain table", id="cut-short"),
        pytest.param(b"\xff\xfe\x00", "is damaged or not a gain table", id="binary"),
        pytest.param({"schema": 2}, "has schema 2, this release reads 1", id="later"),
        pytest.param({"rows": []}, "has no rows", id="empty"),
        pytest.param({"rows": [{"m": 1}]}, "is damaged", id="half-a-row"),
        pytest.param({"rows": [{**SYNTHETIC["rows"][0], "sparse_ms": 0}]}, "is damaged", id="no-time"),
        pytest.param({"rows": [{**SYNTHETIC["rows"][0], "m": -1}]}, "is damaged", id="negative"),
        pytest.param({"rows": [{**SYNTHETIC["rows"][0], "m": 10**400}]}, "is damaged", id="beyond-any-size"),
        pytest.param(
            '{"schema": 1, "device": {"name": ""}, "rows": [{"m": 1e400}]}', "is damaged", id="infinite"
        ),
        pytest.param({"device": "A100"}, "is damaged", id="no-device"),
        pytest.param({"device": {"name": "A100", "target": "sm8\x1b"}}, "is damaged", id="no-architecture"),
    ],
)
def test_bad_tables(change, message):
    data = change if isinstance(change, (str, bytes)) else {**SYNTHETIC, **change}
    with pytest.raises(InputError, match=message):
        read(data)


def test_names_that_stay_dense():
    report = {
        "schema": 1,
        "exclude": ["fc.weight"],
        "layers": [{"weight": "fc.weight", "sentence": "0.9x"}, {"weight": "a", "sentence": "1.4x"}],
    }
    assert parse_dense_names(json.dumps(report), where="r.json") == {"fc.weight": "0.9x"}
    with pytest.raises(InputError, match="not a report of nm2trt gain"):
        parse_dense_names(json.dumps(SYNTHETIC), where="r.json")
