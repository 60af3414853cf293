"""Write a JSON schema of KServe's InferenceService from the classes in a wheel of `kserve`.

    pip download --no-deps kserve==0.21.0
    python tools/kserve_schema.py kserve-0.21.0-py3-none-any.whl > tests/serving/kserve_0.21.json

The wheel is read and not installed. Classes on the way from the service to a predictor's model take no other
key; what Kubernetes itself defines below them, and predictors of other kinds, are left open.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

ROOT = "V1beta1InferenceService"
CLOSED = (ROOT, f"{ROOT}Spec", "V1beta1PredictorSpec", "V1beta1ModelSpec", "V1beta1ModelFormat")
PLAIN = {"str": "string", "int": "integer", "bool": "boolean", "float": "number"}


def classes(wheel: str) -> dict[str, dict[str, str]]:
    """Return the type of each key of each closed class, read from the source without running it."""
    found = {}
    with zipfile.ZipFile(wheel) as opened:
        for name in opened.namelist():
            if re.fullmatch(r"kserve/models/v1beta1_\w+\.py", name):
                for node in ast.walk(ast.parse(opened.read(name))):
                    if isinstance(node, ast.ClassDef) and node.name in CLOSED:
                        tables = {
                            part.targets[0].id: ast.literal_eval(part.value)
                            for part in node.body
                            if isinstance(part, ast.Assign) and isinstance(part.targets[0], ast.Name)
                        }
                        types, keys = tables["openapi_types"], tables["attribute_map"]
                        found[node.name] = {keys[attribute]: kind for attribute, kind in types.items()}
    return found


def schema_of(kind: str) -> dict[str, Any]:
    """Return the schema of a type as `openapi_types` names it."""
    if kind.startswith("list["):
        return {"type": "array", "items": schema_of(kind[5:-1])}
    if kind in CLOSED:
        return {"$ref": f"#/$defs/{kind}"}
    if kind in PLAIN:
        return {"type": PLAIN[kind]}
    return {} if kind in ("object", "datetime", "IntOrString", "ResourceQuantity") else {"type": "object"}


def main(wheel: str) -> None:
    """Print the schema of a wheel's classes."""
    definitions = {
        name: {
            "type": "object",
            "additionalProperties": False,
            "properties": {key: schema_of(kind) for key, kind in sorted(keys.items())},
        }
        for name, keys in sorted(classes(wheel).items())
    }
    if set(definitions) != set(CLOSED):
        sys.exit(f"{wheel} lacks {', '.join(sorted(set(CLOSED) - set(definitions)))}")
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$ref": f"#/$defs/{ROOT}",
        "$comment": f"made by tools/kserve_schema.py from {Path(wheel).name}",
    }
    print(json.dumps({**head, "$defs": definitions}, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
