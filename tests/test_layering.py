"""Imports point one way: the import graph is walked against the table in docs/architecture.md."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nm2trt"

# Each unit may import those on a lower level; units of one level may not import one another.
LEVELS = [
    {"terminal_text", "installed", "output_lock", "json_value"},
    {"errors", "tables"},
    {"file_replacement", "extras", "folder_lock"},
    {"files", "named_code", "bounds", "compare", "measure", "progress", "nm", "options"},
    {"manifest", "run_watch", "answer_limits"},
    {"backends"},
    {"calibration"},
    {"sparsity", "exporter", "graph", "engine", "serving", "validation", "reporting"},
    {"pipeline"},
    {"recipe"},
    {"cli"},
    {"__main__"},
]
LEVEL = {unit: number for number, units in enumerate(LEVELS) for unit in units}

# Inside a unit: sub-package (or module beside the sub-packages) -> floor. Imports go down only; what shares a
# floor does not import one another, except inside a sub-package and among modules that lie beside them.
FLOORS = {
    "graph": [
        {"storage"},
        {"analysis"},
        {"edit", "execute", "verify"},
        {"pass_frame"},
        {"fuse", "permute", "prune", "reconstruct", "cast", "quantize"},
    ],
    "sparsity": [
        {"core", "foreign_masks"},
        {"methods", "channel_order"},
        {"reconstruct"},
        {"spre", "fcpts"},
        {"registry"},
        {"sparsify"},
        {"recipe_file", "load_sparse", "semi_structured"},
    ],
    "validation": [
        {"samples", "metrics"},
        {"statistics"},
        {"latency", "tally"},
        {"comparison"},
        {"gate", "inference", "shards"},
        {"report"},
    ],
    "engine": [
        {"machine"},
        {"inspection", "evidence"},
        {"ladder"},
        {"gain", "profiles", "build_result", "early_parse"},
        {"build"},
        {"twin"},
    ],
}
FLOOR = {
    unit: {part: number for number, parts in enumerate(floors) for part in parts}
    for unit, floors in FLOORS.items()
}
WIDE = 20  # modules of a folder; `cli` and `pipeline` hold one per command

# A library, and the only places that may import it.
LIBRARIES = {
    "torch": ["nm/torch_mask.py", "nm/gpu_kernels.py", "sparsity/", "exporter/"],
    "onnx": ["graph/", "exporter/"],
    "onnxruntime": [
        "backends/ort.py",
        "serving/python_model.py",
        "graph/quantize/quantize_model.py",
        "calibration/collectors.py",
    ],
    "tensorrt_rtx": ["backends/trt_rtx.py"],
    "tensorrt": ["backends/trt.py"],
    "tritonclient": ["backends/_triton_server.py", "serving/model_config.py"],
    "triton": ["nm/gpu_kernels.py"],
    "polygraphy": ["validation/samples/polygraphy_json.py"],
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def unit_of(path):
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0] if len(parts) > 1 or parts[0] != "__init__" else "__init__"


def typing_only(node):
    """Return the statements under `if TYPE_CHECKING`, which never run."""
    test = getattr(node, "test", None)
    name = getattr(test, "id", getattr(test, "attr", ""))
    return set(ast.walk(node)) - {node} if isinstance(node, ast.If) and name == "TYPE_CHECKING" else set()


def imports(path, *, with_typing):
    tree = ast.parse(path.read_text())
    skipped = set() if with_typing else {n for node in ast.walk(tree) for n in typing_only(node)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (
                [f"nm2trt.{a.name}" for a in node.names] if node.module == "nm2trt" else [node.module or ""]
            )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_what_lies_below_it(path):
    unit = unit_of(path)
    if unit == "__init__":
        return  # the front door, lazy; its own test is test_public_api
    assert unit in LEVEL, f"{path} belongs to no level; add its unit to LEVELS and to docs/architecture.md"
    for name in imports(path, with_typing=True):
        head, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if head != "nm2trt" or other in (unit, "", "__version__"):
            continue
        assert LEVEL[other] < LEVEL[unit], (
            f"{path.relative_to(ROOT)} imports {name}, which does not lie below it"
        )


FLOORED = [path for path in MODULES if unit_of(path) in FLOORS and path.parent.name + path.stem != "__init__"]


@pytest.mark.parametrize("path", FLOORED, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_module_imports_only_lower_floors_of_its_unit(path):
    unit, part = path.relative_to(PACKAGE).with_suffix("").parts[:2]
    if part == "__init__":
        return
    floors = FLOOR[unit]
    assert part in floors, f"{path.relative_to(ROOT)} belongs to no floor; add it to FLOORS and to the docs"
    for name in imports(path, with_typing=True):
        if not name.startswith(f"nm2trt.{unit}."):
            continue
        other = name.split(".")[2]
        assert other == part or floors[other] < floors[part], (
            f"{path.relative_to(ROOT)} imports {name}, which does not lie on a lower floor"
        )


def test_no_folder_is_too_wide():
    folders = {path.parent for path in MODULES} - {PACKAGE / "cli", PACKAGE / "pipeline"}
    wide = {str(f.relative_to(ROOT)): len(list(f.glob("*.py"))) for f in folders}
    assert not {name: count for name, count in wide.items() if count > WIDE}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_place(path):
    place = str(path.relative_to(PACKAGE))
    for name in imports(path, with_typing=False):
        allowed = LIBRARIES.get(name.split(".")[0])
        if allowed is not None:
            assert any(place.startswith(start) for start in allowed), f"{place} imports {name}"


def test_the_walk_sees_a_planted_import(tmp_path):
    planted = tmp_path / "bad.py"
    planted.write_text("def f():\n    from nm2trt.cli import main\n    import torch.nn\n")
    assert list(imports(planted, with_typing=True)) == ["nm2trt.cli", "torch.nn"]
    planted.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n")
    assert list(imports(planted, with_typing=False)) == ["typing"]
