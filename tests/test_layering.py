"""Imports point one way: the import graph is walked against the table in docs/architecture.md."""

import ast
import functools
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "nm2trt"

# Each unit may import those on a lower level; units of one level may not import one another.
LEVELS = [
    {
        "terminal_text",
        "installed",
        "figures",
        "json_types",
        "json_value",
        "arrays",
        "writer_marks",
        "onnx_bytes",
    },
    {"errors", "tables"},
    {"locks"},
    {"file_replacement", "extras"},
    {"files", "named_code", "limits", "compare", "measure", "progress", "nm", "options"},
    {"hashes"},
    {"manifest", "text_files"},
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
        {"pass_frame", "pass_report"},
        {"function_inlining"},
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
        {"gain", "profiles", "build_result", "early_parse", "trial_parse", "pair_writer", "request"},
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
    "torch": ["nm/torch_mask.py", "nm/torch_ranks.py", "nm/gpu_kernels.py", "sparsity/", "exporter/"],
    "onnx": ["graph/", "exporter/"],
    "onnxruntime": [
        "backends/ort.py",
        "serving/python_model.py",
        "graph/quantize/quantize_model.py",
        "calibration/collectors.py",
    ],
    "tensorrt_rtx": ["backends/trt_rtx.py"],
    "tensorrt": ["backends/trt.py"],
    "tritonclient": ["backends/_triton_server.py", "backends/served/tensors.py", "serving/config_message.py"],
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


@functools.cache
def all_imports(path):
    """Return (module, whether the import never runs) of every import of a file."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    skipped = {n for node in nodes for n in typing_only(node)}
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, node in skipped) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = (
                [f"nm2trt.{a.name}" for a in node.names] if node.module == "nm2trt" else [node.module or ""]
            )
            found += [(name, node in skipped) for name in names]
    return found


def imports(path, *, with_typing):
    return [name for name, skipped in all_imports(path) if with_typing or not skipped]


def test_modules_import_only_what_lies_below_them():
    faults = []
    for path in MODULES:
        unit = unit_of(path)
        if unit == "__init__":
            continue  # the front door, lazy; its own test is test_public_api
        if unit not in LEVEL:
            faults.append(f"{path} belongs to no level; add its unit to LEVELS and to docs/architecture.md")
            continue
        for name in imports(path, with_typing=True):
            head, _, rest = name.partition(".")
            other = rest.split(".")[0]
            if head == "nm2trt" and other not in (unit, "", "__version__") and LEVEL[other] >= LEVEL[unit]:
                faults.append(f"{path.relative_to(ROOT)} imports {name}, which does not lie below it")
    assert not faults


def test_modules_import_only_lower_floors_of_their_unit():
    faults = []
    for path in MODULES:
        unit = unit_of(path)
        if unit not in FLOORS or (path.parent == PACKAGE / unit and path.stem == "__init__"):
            continue
        part = path.relative_to(PACKAGE).with_suffix("").parts[1]
        floors = FLOOR[unit]
        if part not in floors:
            faults.append(f"{path.relative_to(ROOT)} belongs to no floor; add it to FLOORS and to the docs")
            continue
        for name in imports(path, with_typing=True):
            if name.startswith(f"nm2trt.{unit}."):
                other = name.split(".")[2]
                if other != part and floors[other] >= floors[part]:
                    faults.append(f"{path.relative_to(ROOT)} imports {name}, which lies on no lower floor")
    assert not faults


def test_no_folder_is_too_wide():
    folders = {path.parent for path in MODULES} - {PACKAGE / "cli", PACKAGE / "pipeline"}
    wide = {str(f.relative_to(ROOT)): len(list(f.glob("*.py"))) for f in folders}
    assert not {name: count for name, count in wide.items() if count > WIDE}


def test_libraries_stay_in_their_place():
    faults = []
    for path in MODULES:
        place = path.relative_to(PACKAGE).as_posix()
        for name in imports(path, with_typing=False):
            allowed = LIBRARIES.get(name.split(".")[0])
            if allowed is not None and not any(place.startswith(start) for start in allowed):
                faults.append(f"{place} imports {name}")
    assert not faults


def test_the_walk_sees_a_planted_import(tmp_path):
    planted = tmp_path / "bad.py"
    planted.write_text("def f():\n    from nm2trt.cli import main\n    import torch.nn\n")
    assert imports(planted, with_typing=True) == ["nm2trt.cli", "torch.nn"]
    planted = tmp_path / "typing.py"
    planted.write_text("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import torch\n")
    assert imports(planted, with_typing=False) == ["typing"]


def test_the_drawn_tree_names_every_folder_and_every_shared_module():
    """A newcomer finds the file from the tree in docs/architecture.md, so it must be the tree that there is."""
    page = (ROOT / "docs/architecture.md").read_text()
    tree = page[page.index("nm2trt/\n") : page.index("Imports point one way;")]
    folders = {path.parent.name for path in MODULES} - {"nm2trt"}
    assert {name for name in folders if f"{name}/" not in tree} == set()
    shared = {path.stem for path in MODULES if path.parent in (PACKAGE, PACKAGE / "nm", PACKAGE / "sparsity")}
    assert {name for name in shared if not name.startswith("__") and name not in tree} == set()
