"""Write docs/reference/schemas: a JSON schema of each command's `--json`, of the manifest, and of an error.

PYTHONPATH=. python docs/make_json_schemas.py    # runs the commands, and writes the schemas and their page

A schema says what the commands printed on two small models: which keys are always there, and which types their
values have. Keys may be added in later versions, and a schema allows them. Keys that stand in it stay.
`sparsify` needs torch, `serve` and `probe` a real tritonserver (`make serve-env`); the times of `prove` come
from the record of a run on a GPU in benchmarks/results.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from nm2trt.cli import COMMANDS, main

FOLDER = Path(__file__).with_name("reference") / "schemas"
PAGE = Path(__file__).with_name("reference") / "json.md"
# What is told of the machine differs from machine to machine, and is left open.
MACHINE = {"state", "conditions", "device", "gpus"}
# Of an input or output of a model: any size may be free, with a name or without, whatever the small models have.
TENSOR = {"name", "dtype", "shape"}
# Objects whose keys are values, not fields: kinds of doubt about a weight's kernel, of which another model has others.
MAPS = {"doubts"}
SHAPE = {"type": "array", "items": {"type": ["integer", "null", "string"]}}
ERROR = "error"
MANIFEST = "manifest"
ON_A_GPU = Path(__file__).parents[1] / "benchmarks" / "results" / "gpu" / "h200"
# Outputs of real runs that not every machine can repeat.
RECORDS = {"prove": ON_A_GPU / "stages" / "prove-86.json"}

# Command -> the calls whose output makes its schema.
CALLS: dict[str, tuple[str, ...]] = {
    "verify": ("verify a.onnx", "verify b24.onnx --target sm86"),
    "prune": ("prune a.onnx -o a24.onnx", "prune b.onnx --calib b.npz --exclude *.head.* -o b24.onnx"),
    "permute": ("permute a.onnx -o p1.onnx", "permute b.onnx -o p2.onnx"),
    "fuse": ("fuse a.onnx -o f1.onnx", "fuse b.onnx -o f2.onnx"),
    "cast": ("cast a24.onnx --to fp16 -o a16.onnx", "cast b24.onnx --to bf16 -o b16.onnx"),
    "quantize": ("quantize a24.onnx --calib a.npz -o a8.onnx", "quantize b24.onnx --calib b.npz -o b8.onnx"),
    "build": ("build a24.onnx --backend ort", "build b8.onnx --sparsity --backend trt-rtx -o b8.rtx"),
    "explain": ("explain a24.onnx", "explain b8.onnx"),
    "infer": ("infer a.onnx -o o1.npz", "infer b.onnx --data b.npz -o o2.npz"),
    "validate": (
        "validate a24.onnx --against a.onnx --data a.npz --runs 0",
        "validate b24.onnx --against b.onnx --data b.npz --runs 3 --warmup 1",
        "validate a24.onnx --against a.onnx --data a.npz --runs 0 --metric cosine",
    ),
    "bench": ("bench a.onnx a24.onnx --runs 3 --warmup 1", "bench b.onnx --runs 3 --warmup 1 --batch 1,2"),
    "info": ("info a24.onnx", "info b8.rtx", "info a.onnx"),
    "doctor": ("doctor",),
    "deploy": (
        "deploy a24.onnx --repository models --name a --backend python",
        "deploy b24.onnx --repository models --name a --backend python",
    ),
    "rollback": ("rollback --repository models --name a",),
    "init": ("init a24.onnx -o a.yaml", "init b24.onnx -o b.yaml"),
    "calib": ("calib check samples.yaml",),
    "prove": ("prove b24.onnx --backend trt-rtx",),
    "gain": ("gain a.onnx --table gain.json", "gain b24.onnx --table gain.json --as fp16"),
    "run": ("run b.yaml --dry-run", "run b.yaml -o run"),
    "report": ("report run", "report run run -o both.md"),
    "samples": ("samples list", "samples copy 01"),
    "sparsify": ("sparsify job.yaml --allow-functions", "sparsify repaired.yaml --allow-functions"),
    ERROR: ("verify no.onnx", "build a24.onnx --backend other", "info a.npz"),
}
ORDER = (
    "doctor",
    "prune",
    "verify",
    "permute",
    "fuse",
    "cast",
    "quantize",
    "build",
    "explain",
    "infer",
    "validate",
)
ORDER += (
    "bench",
    "info",
    "deploy",
    "rollback",
    "init",
    "calib",
    "prove",
    "gain",
    "run",
    "report",
    "samples",
    ERROR,
)
# Held to their schemas where the tests run them anyway: in tests/calibration and tests/cli/test_cli_deploy.py.
ELSEWHERE = ("sparsify", "serve", "probe")
FILES = {
    "samples.yaml": "source: {kind: npz, path: a.npz}\ncount: 16\n",
    "job.yaml": "model: net.py:net\nweights: net.safetensors\ncalibration: samples.yaml\nmethod: magnitude\n",
    "repaired.yaml": "model: net.py:wrapped\nweights: wrapped.safetensors\ncalibration: samples.yaml\noptions: {steps: 4}\n",
    "net.py": """from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(32, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(576, 8), nn.Linear(8, 4))

def wrapped():
    return nn.Sequential(net())
""",
}


def save_net(path: Path, prefix: str, width: int, *, fixed: bool) -> None:
    """Save a small network: two convolutions, one of them with 2:4-able channels only, and a linear layer."""
    random = np.random.default_rng(width)
    shapes = {"conv": (width, 32, 3, 3), "point": (16, width, 1, 1), "head": (8, 16)}
    weights = [
        numpy_helper.from_array((random.standard_normal(shape) / 9).astype("f4"), f"{prefix}.{name}.weight")
        for name, shape in shapes.items()
    ]
    # Two models with other names: what is common to both are keys, and no names.
    given, made = ("image", "scores") if fixed else ("x", "y")
    nodes = [
        helper.make_node(
            "Conv", [given, f"{prefix}.conv.weight"], [f"{prefix}.c"], name=f"{prefix}_conv", pads=[1] * 4
        ),
        helper.make_node("Relu", [f"{prefix}.c"], [f"{prefix}.r"]),
        helper.make_node(
            "Conv", [f"{prefix}.r", f"{prefix}.point.weight"], [f"{prefix}.d"], name=f"{prefix}_point"
        ),
        helper.make_node("GlobalAveragePool", [f"{prefix}.d"], [f"{prefix}.p"]),
        helper.make_node("Flatten", [f"{prefix}.p"], [f"{prefix}.f"]),
        helper.make_node(
            "Gemm", [f"{prefix}.f", f"{prefix}.head.weight"], [made], name=f"{prefix}_head", transB=1
        ),
    ]
    batch: int | str = 4 if fixed else "n"
    values = [
        helper.make_tensor_value_info(given, onnx.TensorProto.FLOAT, [batch, 32, 8, 8]),
        helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, [batch, 8]),
    ]
    graph = helper.make_graph(nodes, prefix, values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    x = random.standard_normal((32, 32, 8, 8)).astype("f4")
    np.savez(path.with_suffix(".npz"), **{given: x, "labels": random.integers(0, 8, 32)})


def call(words: Sequence[str]) -> tuple[int, Any]:
    """Run a command with `--json` in this process; return its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([*words, "--json"])
    try:
        return status, json.loads(out.getvalue())
    except ValueError as error:
        raise RuntimeError(f"nm2trt {' '.join(words)} printed no JSON: {err.getvalue()}") from error


def answer(line: str, *, fails: bool = False) -> Any:
    """Run a command and return what it printed; raise if it failed, or did not."""
    status, printed = call(line.split())
    if (status not in (0, 3, 5)) != fails:
        raise RuntimeError(f"nm2trt {line}: exit status {status}: {printed}")
    return printed


@contextlib.contextmanager
def small_models() -> Iterator[Path]:
    """Give a folder, made the working one, with the two models and their samples."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_net(folder / "a.onnx", "first", 32, fixed=False)
        save_net(folder / "b.onnx", "second", 48, fixed=True)
        shutil.copy(ON_A_GPU / "gain.json", folder)
        for file, text in FILES.items():
            (folder / file).write_text(text)
        os.chdir(folder)
        try:
            yield folder
        finally:
            os.chdir(before)


def observed(commands: Sequence[str] = ORDER) -> dict[str, list[Any]]:
    """Run the calls of some commands, which come in an order in which each finds its files."""
    found: dict[str, list[Any]] = {}
    with small_models() as folder:
        for name in commands:
            for line in CALLS[name]:
                found.setdefault(name, []).append(answer(line, fails=name == ERROR))
        for manifest in sorted(folder.glob("*.rtx.json")):
            found.setdefault(MANIFEST, []).append(json.loads(manifest.read_text()))
    for name, path in RECORDS.items():
        if name in found:
            found[name].append(json.loads(path.read_text()))
    return found


def observed_with_torch() -> dict[str, list[Any]]:
    """Run `sparsify`, once with a repair."""
    from safetensors.torch import save_file

    with small_models() as folder:
        scope: dict[str, Any] = {}
        exec(FILES["net.py"], scope)  # noqa: S102 - our own four lines
        for name in ("net", "wrapped"):
            save_file(scope[name]().state_dict(), folder / f"{name}.safetensors")
        return {"sparsify": [answer(line) for line in CALLS["sparsify"]]}


def observed_on_a_server() -> dict[str, list[Any]]:
    """Run `serve`, and `probe` with the right reference and with another one."""
    with small_models():
        answer("deploy a.onnx --repository models --name a --backend python")
        answer("prune a.onnx -o a24.onnx")
        words = [*"-m nm2trt serve --repository models --log log.txt --json".split()]
        server = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)  # noqa: S603
        try:
            addresses = json.loads((server.stdout or io.StringIO()).readline())
            probe = f"probe --url {addresses['http']} --name a --requests 20 --concurrency 1,2 --reference"
            probed = [answer(f"{probe} {model}") for model in ("a.onnx", "a24.onnx")]
        finally:
            server.send_signal(signal.SIGTERM)
            server.communicate()
    return {"serve": [addresses], "probe": probed}


def schema_of(values: Sequence[Any], *, is_map: bool = False) -> dict[str, Any]:
    """Return what holds for all values: types, keys that are always there, and what holds for what they contain.

    Args:
        values: The values.
        is_map: Whether the keys of objects are names and not fields.
    """
    kinds = sorted({_kind(value) for value in values})
    if {"integer", "number"} <= set(kinds):
        kinds.remove("integer")
    if kinds == ["null"] or not kinds:
        return {}  # nobody saw its value
    schema: dict[str, Any] = {"type": kinds[0] if len(kinds) == 1 else kinds}
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        always = set.intersection(*(set(value) for value in objects))
        numbers = is_map or (any(objects) and all(key[:1].isdigit() for value in objects for key in value))
        if numbers or (
            not always and len(objects) > 1 and any(objects)
        ):  # names of tensors or sizes, not fields
            inside = [part for value in objects for part in value.values()]
            schema["additionalProperties"] = schema_of(inside)
        else:
            keys = sorted({key for value in objects for key in value})
            schema["required"] = sorted(always)
            schema["properties"] = {
                key: {}
                if key in MACHINE
                else schema_of([v[key] for v in objects if key in v], is_map=key in MAPS)
                for key in keys
            }
            if always >= TENSOR:
                schema["properties"]["shape"] = SHAPE
    items = [item for value in values if isinstance(value, list) for item in value]
    if items:
        schema["items"] = schema_of(items)
    return schema


def _kind(value: Any) -> str:
    names: dict[type, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}
    names |= {dict: "object", list: "array", type(None): "null"}
    return names[type(value)]


def document(name: str, values: Sequence[Any]) -> str:
    """Return a schema as the text of its file."""
    titles = {ERROR: "An error, with --json", MANIFEST: "The manifest beside an engine"}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": titles.get(name, f"nm2trt {name} --json"),
    }
    keys = {frozenset(value) for value in values}
    apart = len(keys) > 1 and not frozenset.intersection(*keys)  # actions that share no key
    shapes = [[value for value in values if frozenset(value) == form] for form in sorted(keys, key=sorted)]
    body = {"anyOf": [schema_of(form) for form in shapes]} if apart else schema_of(values)
    return json.dumps({**head, **body}, indent=1) + "\n"


def forms(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of a command's actions, or its one schema."""
    return list(schema.get("anyOf", [schema]))


def page() -> str:
    """Return the page that lists the schemas."""
    rows = []
    for name in (*COMMANDS, MANIFEST, ERROR):
        if (FOLDER / f"{name}.json").is_file():
            found = forms(json.loads((FOLDER / f"{name}.json").read_text()))
            keys = "; or ".join(", ".join(f"`{key}`" for key in form["required"]) for form in found)
            rows.append(f"| `{name}` | [schema](schemas/{name}.json) | {keys} |")
    absent = ", ".join(f"`{name}`" for name in COMMANDS if not (FOLDER / f"{name}.json").is_file())
    return f"""# JSON

<!-- this page is not run: it holds no command -->

With `--json` a command prints one JSON value on stdout. A value with the key `error` is an error and fits `error.json`, not the
command's schema: `error` is the sentence, `kind` the name of the exception (`InternalError` for a fault of ours),
`exit_status` the status, and other keys hold what was found before, such as the `ladder` of a refused build. A gate that
fails is a result: `verify` and `validate` then print theirs, and end with status 3 or 5.

The schemas (JSON Schema 2020-12) are made by `docs/make_json_schemas.py` from what the commands print on two
small models, and the tests hold the commands to them. They list the keys that are always there and the types
that were seen; a value that only ever was null is left open. Keys may be added; those that stand here stay.
`serve` and `probe` were seen with a real tritonserver, `prove` without a GPU and, with times, on an H200 with TensorRT 8.6.

| command | schema | keys that are always there |
|---|---|---|
{chr(10).join(rows)}

Without a schema: {absent}, which prints no JSON.
"""


def main_() -> int:
    """Run the commands, and write the schemas and the page."""
    FOLDER.mkdir(exist_ok=True)
    for name, values in (observed() | observed_with_torch() | observed_on_a_server()).items():
        (FOLDER / f"{name}.json").write_text(document(name, values))
    PAGE.write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main_())
