"""The published JSON schemas, to hold to them what commands print in any test."""

import json

from docs.make_json_schemas import FOLDER, forms

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def problems(name, value):
    """Return what of a printed value does not fit its schema, keys that are new included."""
    import jsonschema

    errors = jsonschema.Draft202012Validator(SCHEMAS[name]).iter_errors(value)
    found = [f"{list(error.path)}: {error.message[:200]}" for error in errors]
    new = set(value) - {key for form in forms(SCHEMAS[name]) for key in form["properties"]}
    if new:
        found.append(f"new keys {sorted(new)}: run PYTHONPATH=. python docs/make_json_schemas.py")
    return found
