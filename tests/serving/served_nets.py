"""Small models and manifests for the tests of serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from nm2trt.manifest import Manifest
from tests.pairs import write_pair

ELEMENTS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "bool": TensorProto.BOOL,
    "bfloat16": TensorProto.BFLOAT16,
}


def linear(path: Path, *, scale=1.0, features=4, classes=3, batch="n", mask="", seed=0, external=False):
    """Return `path` of a model: output y = scale * (x @ w), with w the same for every scale."""
    weight = np.random.default_rng(seed).standard_normal((features, classes)).astype(np.float32) * scale
    return _save(
        path,
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"x": ("float32", [batch, features])},
        {"y": ("float32", [batch, classes])},
        [numpy_helper.from_array(weight, "w")],
        mask,
        external=external,
    )


def two_inputs(path: Path):
    """Return `path` of a model with a scalar a sample: y = x * s, with s of shape (n,)."""
    axes = numpy_helper.from_array(np.array([1], np.int64), "axes")
    return _save(
        path,
        [helper.make_node("Unsqueeze", ["s", "axes"], ["column"]), helper.make_node("Mul", ["x", "column"], ["y"]),
         helper.make_node("ReduceSum", ["y", "axes"], ["total"], keepdims=0)],
        {"x": ("float32", ["n", 4]), "s": ("float32", ["n"])},
        {"y": ("float32", ["n", 4]), "total": ("float32", ["n"])},
        [axes],
        "",
    )  # fmt: skip


def found(path: Path):
    """Return `path` of a model whose output holds the rows of x, of shape (n, 1), that are not 0."""
    return _save(
        path,
        [helper.make_node("Reshape", ["x", "flat"], ["row"]), helper.make_node("Cast", ["row"], ["is"], to=TensorProto.BOOL),
         helper.make_node("Compress", ["x", "is"], ["y"], axis=0)],
        {"x": ("float32", ["n", 1])},
        {"y": ("float32", [None, 1])},
        [numpy_helper.from_array(np.array([-1]), "flat")],
        "",
    )  # fmt: skip


def lookup(path: Path):
    """Return `path` of a model that looks x, of shape (n, 1), up in 0, 10, 20, and fails on what is above."""
    table = numpy_helper.from_array(np.arange(0, 30, 10, dtype=np.int64), "table")
    node = helper.make_node("Gather", ["table", "x"], ["y"])
    return _save(path, [node], {"x": ("int64", ["n", 1])}, {"y": ("int64", ["n", 1])}, [table], "")


def product(path: Path):
    """Return `path` of a model of two inputs of fixed shapes: y = x @ t."""
    return _save(
        path,
        [helper.make_node("MatMul", ["x", "t"], ["y"])],
        {"x": ("float32", [2, 4]), "t": ("float32", [4, 3])},
        {"y": ("float32", [2, 3])},
        [],
        "",
    )


def turned_products(folder: Path):
    """Return paths of models y = x^T @ w, for x of (4, 3, 16), that ONNX Runtime 1.31.1 cannot load by itself.

    In `half` all is fp16, `mixed` casts x^T to float32, `taken` takes the first of two x first, and
    `body` has the nodes of `mixed` in the body of an If.
    """
    weight = np.random.default_rng(0).standard_normal((16, 16))
    turn = helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2])
    turn_all = helper.make_node("Transpose", ["x"], ["t_"], perm=[0, 2, 1, 3])
    take = helper.make_node("Gather", ["t_", "first"], ["t"], axis=0)
    cast = helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT)
    product = helper.make_node("MatMul", ["c", "w"], ["y"])
    empty = helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 4, 16])
    body = helper.make_graph([turn, cast, product], "body", [], [empty])
    choice = helper.make_node("If", ["yes"], ["y"], then_branch=body, else_branch=body)
    stored = {"first": np.array(0), "yes": np.array(True)}
    for name, dtype, nodes in (
        ("half", "float16", [turn, helper.make_node("MatMul", ["t", "w"], ["y"])]),
        ("mixed", "float32", [turn, cast, product]),
        ("taken", "float32", [turn_all, take, cast, product]),
        ("body", "float32", [choice]),
    ):
        used = {name for node in nodes for name in node.input}
        yield _save(
            folder / f"{name}.onnx",
            nodes,
            {"x": ("float16", [2, 4, 3, 16] if name == "taken" else [4, 3, 16])},
            {"y": (dtype, [3, 4, 16])},
            [numpy_helper.from_array(weight.astype(dtype), "w")]
            + [numpy_helper.from_array(array, key) for key, array in stored.items() if key in used],
            "",
        )


def identity(path: Path, dtype="float32", shape=("n", 4)):
    """Return `path` of a model that gives x back as y."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return _save(path, [node], {"x": (dtype, shape)}, {"y": (dtype, shape)}, [], "")


# Where Triton, its Python backend or Python itself looks for code in a version's folder.
HOSTILE_LOCATIONS = [
    "__init__.py",
    "model.py",
    "model/__init__.py",
    "triton_python_backend_utils.py",
    "onnxruntime.py",
    "numpy/__init__.py",
    "encodings.py",
    "sitecustomize.py",
    "libtriton_python.so",
    "triton_python_backend_stub",
    "model.onnx",
    "deployment.json",
    "config.pbtxt",
]


def with_data_at(folder: Path, *locations: str, payload: bytes):
    """Return the path of a model y = x @ I + 0 * sum(payload), whose payload lies at each of `locations`."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y0"])]
    blobs = []
    for number, location in enumerate(locations):
        file = folder / location
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(payload)
        name = f"blob{number}"
        blob = TensorProto(name=name, data_type=TensorProto.UINT8, dims=[len(payload)], data_location=1)
        for key, value in (("location", location), ("offset", "0"), ("length", str(len(payload)))):
            blob.external_data.add(key=key, value=value)
        blobs.append(blob)
        last = "y" if number == len(locations) - 1 else f"y{number + 1}"
        nodes += [
            helper.make_node("Cast", [name], [f"wide{number}"], to=TensorProto.FLOAT),
            helper.make_node("ReduceSum", [f"wide{number}"], [f"sum{number}"], keepdims=0),
            helper.make_node("Mul", [f"sum{number}", "zero"], [f"nothing{number}"]),
            helper.make_node("Add", [f"y{number}", f"nothing{number}"], [last]),
        ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 4]) for name in ("x", "y")]
    weights = [
        *blobs,
        numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"),
        numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", values[:1], values[1:], weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    path = folder / "net.onnx"
    onnx.save(model, path)
    return path


def _save(path: Path, nodes, inputs, outputs, weights, mask, *, external=False):
    values = [
        [
            helper.make_tensor_value_info(name, ELEMENTS[dtype], shape)
            for name, (dtype, shape) in tensors.items()
        ]
        for tensors in (inputs, outputs)
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "net", *values, weights),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=9,
    )
    if mask:
        helper.set_model_props(model, {"nm2trt.mask_sha256": mask})
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


def plan(
    path: Path, *, profiles=((1, 8, 32),), backend="trt", version="10.9.0.34", targets=("sm86",), **changes
):
    """Write a stand-in for an engine, with a manifest as a build writes it; the bytes are not an engine.

    Args:
        profiles: MIN, OPT, MAX of the batch of input x, one a profile; () is a static engine of batch 8.
    """
    batch = "n" if profiles else 8
    values = {
        "kind": "an engine",
        "engine_sha256": "",
        "engine_bytes": 0,
        "model": "model.onnx",
        "model_sha256": "ab" * 32,
        "mask_sha256": "cd" * 32,
        "plan": {"version": 1, "method": "sr-ste", "weights": [
            {"weight": "w", "pattern": "2:4", "reason": "", "shape": [16, 16, 3, 3], "axis": 1},
            {"weight": "v", "pattern": None, "reason": "", "shape": [16, 3, 3, 3], "axis": 1},
        ]},
        "backend": backend,
        "versions": {"nm2trt": "0.1.0", backend: version},
        "options": {
            "sparsity": "enable",
            "profiles": [
                [{"input": "x", "min": [low, 16, 8, 8], "opt": [best, 16, 8, 8], "max": [high, 16, 8, 8]}]
                for low, best, high in profiles
            ],
        },
        "targets": targets,
        "inputs": ({"name": "x", "dtype": "float16", "shape": [batch, 16, 8, 8]},),
        "outputs": ({"name": "y", "dtype": "float16", "shape": [batch, 10]},),
        "ladder": (),
        "notes": (),
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }  # fmt: skip
    write_pair(path, b"stands for an engine", Manifest(**values))
    return path
