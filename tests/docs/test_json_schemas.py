"""The published JSON schemas: every command that has one prints what its schema says."""

import copy
import json
import re

import pytest

from docs import make_json_schemas
from nm2trt.cli import COMMANDS

jsonschema = pytest.importorskip("jsonschema")
for module in ("onnxruntime", "tensorrt_rtx", "tritonclient", "yaml"):
    pytest.importorskip(module)
SCHEMAS = {
    path.stem: json.loads(path.read_text()) for path in sorted(make_json_schemas.FOLDER.glob("*.json"))
}


@pytest.fixture(scope="module")
def observed():
    return make_json_schemas.observed()


def problems(name, value):
    return list(jsonschema.Draft202012Validator(SCHEMAS[name]).iter_errors(value))


def test_every_schema_is_one_and_has_its_command(observed):
    assert set(SCHEMAS) == set(observed)
    assert set(SCHEMAS) <= {*COMMANDS, make_json_schemas.MANIFEST, make_json_schemas.ERROR}
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_is_printed_fits_its_schema(observed, name):
    for value in observed[name]:
        assert [f"{list(error.path)}: {error.message[:200]}" for error in problems(name, value)] == []
        added = set(value) - set(SCHEMAS[name]["properties"])
        assert added == set(), "a key is new: run PYTHONPATH=. python docs/make_json_schemas.py"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_key_that_is_missing_or_of_another_type_is_refused(observed, name):
    value = observed[name][0]
    for key in SCHEMAS[name]["required"]:
        without = {inside: value[inside] for inside in value if inside != key}
        assert problems(name, without)
    typed = [
        key for key in SCHEMAS[name]["required"] if SCHEMAS[name]["properties"][key].get("type") == "string"
    ]
    wrong = copy.deepcopy(value)
    wrong[typed[0]] = 1
    assert problems(name, wrong)


def test_the_page_is_not_stale():
    assert make_json_schemas.PAGE.read_text() == make_json_schemas.page()


def test_names_of_tensors_are_not_taken_for_keys():
    schema = make_json_schemas.schema_of([{"a.w": 1}, {"b.w": 2.5}])
    assert schema == {"type": "object", "additionalProperties": {"type": "number"}}
    schema = make_json_schemas.schema_of([{"k": 1, "l": None}, {"k": None}])
    assert schema["required"] == ["k"]
    assert schema["properties"] == {"k": {"type": ["integer", "null"]}, "l": {}}


def test_no_schema_holds_a_place_of_this_machine():
    for path in make_json_schemas.FOLDER.glob("*.json"):
        assert not re.search(r'"/(tmp|home|root|work)', path.read_text())
