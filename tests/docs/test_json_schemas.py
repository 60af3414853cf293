"""The published JSON schemas: every command that has one prints what its schema says."""

import copy
import json
import re

import pytest

from docs import make_json_schemas
from docs.make_json_schemas import forms
from nm2trt.cli import COMMANDS
from tests.docs.json_schemas import SCHEMAS, problems

jsonschema = pytest.importorskip("jsonschema")
for module in ("onnxruntime", "tensorrt_rtx", "tritonclient", "yaml"):
    pytest.importorskip(module)
RUN_HERE = sorted({*SCHEMAS} - {*make_json_schemas.ELSEWHERE})


@pytest.fixture(scope="module")
def observed():
    return make_json_schemas.observed()


def test_every_schema_is_one_and_has_its_command(observed):
    assert set(RUN_HERE) == set(observed)
    more = {make_json_schemas.MANIFEST, make_json_schemas.ERROR}
    assert set(SCHEMAS) == {*COMMANDS, *more} - {"completion"}
    for schema in SCHEMAS.values():
        jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("name", RUN_HERE)
def test_what_is_printed_fits_its_schema(observed, name):
    for value in observed[name]:
        assert problems(name, value) == []


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_key_that_is_missing_or_of_another_type_is_refused(observed, name):
    value = observed[name][0]
    (schema,) = (form for form in forms(SCHEMAS[name]) if set(form["required"]) <= set(value))
    for key in schema["required"]:
        without = {inside: value[inside] for inside in value if inside != key}
        assert problems(name, without)
    typed = [
        key for key in schema["required"] if schema["properties"][key].get("type") in ("string", "object")
    ]
    wrong = copy.deepcopy(value)
    wrong[typed[0]] = 1
    assert problems(name, wrong)


def test_the_page_is_not_stale():
    assert make_json_schemas.PAGE.read_text() == make_json_schemas.page()


def test_actions_that_share_no_key_are_forms_of_their_own():
    document = json.loads(make_json_schemas.document("samples", [{"a": 1}, {"b": "c"}, {"a": 2}]))
    assert [form["required"] for form in forms(document)] == [["a"], ["b"]]


def test_no_name_of_a_tensor_stands_in_a_schema():
    for schema in SCHEMAS.values():
        assert not re.search(
            r'"(x|y|image|scores|(first|second)[._](conv|point|head|[crdpf])\b.*|[0-9].*)"',
            json.dumps(schema),
        )


def test_names_of_tensors_are_not_taken_for_keys():
    schema = make_json_schemas.schema_of([{"a.w": 1}, {"b.w": 2.5}])
    assert schema == {"type": "object", "additionalProperties": {"type": "number"}}
    assert make_json_schemas.schema_of([{"8": 1}])["additionalProperties"] == {"type": "integer"}
    schema = make_json_schemas.schema_of([{"k": 1, "l": None}, {"k": None}])
    assert schema["required"] == ["k"]
    assert schema["properties"] == {"k": {"type": ["integer", "null"]}, "l": {}}


def test_no_schema_holds_a_place_of_this_machine():
    for path in make_json_schemas.FOLDER.glob("*.json"):
        assert not re.search(r'"/(tmp|home|root|work)', path.read_text())


@pytest.mark.parametrize("size", [None, "batch", 4])
def test_any_free_size_of_a_model_fits(observed, size):
    """The builder gives no name to a free size of an output, where the small models have a number."""
    for name, place in (
        ("build", "outputs"),
        ("info", "inputs"),
        ("manifest", "inputs"),
    ):
        value = copy.deepcopy(next(value for value in observed[name] if value.get(place)))
        value[place][0]["shape"][0] = size
        assert problems(name, value) == []
        value[place][0]["shape"][0] = 1.5
        assert problems(name, value)


def test_an_error_that_holds_what_was_found_fits_the_error_s_schema():
    with make_json_schemas.small_models():
        status, printed = make_json_schemas.call(["build", "a.onnx", "--sparsity"])
    assert (status, printed["exit_status"], bool(printed["ladder"])) == (3, 3, True)
    jsonschema.validate(printed, SCHEMAS[make_json_schemas.ERROR])
