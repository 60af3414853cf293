"""Documentation that is true: code blocks run as they stand, or say why not; links and paths lead somewhere."""

import contextlib
import io
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nm2trt.cli import main
from nm2trt.recipe.options import KINDS
from nm2trt.reporting.folder import RunFolder
from tests.docs.markdown import OTHERS, PAGES, ROOT, SAMPLES, Block, anchors, blocks, links, named_paths

RUN = [page for page in PAGES if any(b.language in ("python", "sh") and not b.reason for b in blocks(page))]


def name(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *SAMPLES, *OTHERS], ids=name)
def test_links_and_paths_lead_somewhere(page):
    for target, line in links(page):
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} line {line}: {target} does not exist"
        if anchor and found.suffix == ".md":
            assert anchor in anchors(found), f"{name(page)} line {line}: {target} has no such heading"
    for path in named_paths(page):
        assert list(ROOT.glob(path.rstrip("/"))), f"{name(page)}: {path} does not exist"


def test_every_sample_is_run_by_a_test():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    folders = {page.parent.name for page in SAMPLES}
    assert folders
    assert {folder for folder in folders if not any(folder in text for text in texts)} == set()


def test_recipes_page_names_every_stage_and_key():
    rows = {}
    for line in (ROOT / "docs" / "recipes.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 3 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = (cells[1], cells[2])
    assert set(rows) == set(KINDS)
    for kind, options in KINDS.items():
        keys = set(options.keys) - {"stage", "from"}
        assert {key for key in keys if f"`{key}`" not in rows[kind][1]} == set(), kind
        assert rows[kind][0] == options.makes, kind


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Give a folder with what the pages name: models and data."""
    from onnx import helper, numpy_helper

    import nm2trt
    from tests.engine.nets import save

    random = np.random.default_rng(3)
    weights = [
        numpy_helper.from_array((random.standard_normal((32, 32, 3, 3)) / 17).astype("f4"), "conv.weight"),
        numpy_helper.from_array((random.standard_normal((16, 32)) / 6).astype("f4"), "head.weight"),
    ]
    nodes = [
        helper.make_node("Conv", ["x", "conv.weight"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "head.weight"], ["y"], name="head", transB=1),
    ]
    inputs, outputs = {"x": ("float32", ("n", 32, 8, 8))}, {"y": ("float32", ("n", 16))}
    save(tmp_path / "model.onnx", nodes, inputs, outputs, weights, None)
    nm2trt.prune(tmp_path / "model.onnx", tmp_path / "sparse.onnx")
    x = random.standard_normal((48, 32, 8, 8)).astype("f4")
    np.savez(tmp_path / "test.npz", x=x, labels=random.integers(0, 16, 48))
    for file in ("samples.npz", "inputs.npz"):
        np.savez(tmp_path / file, x=random.standard_normal((16, 32, 8, 8)).astype("f4"))
    RunFolder(tmp_path / "runs" / "mine").start("mine", [])
    RunFolder(tmp_path / "runs" / "other").start("other", [])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def prelude():
    """Return the names that a page may take as given: a model, data, and a loop's usual things."""
    torch = pytest.importorskip("torch")
    import nm2trt

    def fresh_model():
        conv = torch.nn.Conv2d(32, 32, 3, padding=1)
        norm, head = torch.nn.BatchNorm2d(32), torch.nn.Linear(32, 16)
        return torch.nn.Sequential(
            conv, norm, torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), head
        )

    batches = [torch.randn(8, 32, 8, 8) for _ in range(2)]
    model = fresh_model()
    return {
        "nm2trt": nm2trt,
        "torch": torch,
        "fresh_model": fresh_model,
        "model": model,
        "example": batches[0][:2],
        "batches": batches,
        "loader": [(x, torch.arange(8)) for x in batches],
        "criterion": torch.nn.functional.cross_entropy,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
        "steps": 2,
        "step": 1,
        "epochs": 1,
        "loss": torch.tensor(1.0),
    }


def run_python(block: Block, page, names):
    exec(compile("\n" * (block.line - 1) + block.text, name(page), "exec"), names)


def run_shell(block: Block, page):
    """Run each line; `nm2trt` in this process, which has its libraries loaded already, the rest by bash."""
    for line in block.text.splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        status, told = 0, ""
        if set(words) & {"|", ";", "<"} or any("$" in word for word in words):
            words = ["bash", "-c", line]
        while words and not status:
            end = words.index("&&") if "&&" in words else len(words)
            status, told = run_command(words[:end])
            words = words[end + 1 :]
        assert status == 0, f"{name(page)} line {block.line}: {line}\n{told}"


def run_command(words):
    output = io.StringIO()
    target = None
    if ">" in words:
        target, words = words[words.index(">") + 1], words[: words.index(">")]
    if words[0] != "nm2trt":
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=300)
        except OSError as error:
            return 127, str(error)
        return done.returncode, done.stdout + done.stderr
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(io.StringIO()) as errors:
        status = main(words[1:])
    if target is not None:
        Path(target).write_text(output.getvalue())
    return status, output.getvalue()[-2000:] + errors.getvalue()


def write_yaml(block: Block, page):
    """A block of YAML that names its file in its first line is that file."""
    first = block.text.splitlines()[0]
    if first.startswith("# ") and first.endswith(".yaml"):
        (page / first.removeprefix("# ")).write_text(block.text)


@pytest.mark.parametrize("page", RUN, ids=name)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_code_runs_as_it_stands(page, folder, capsys):
    names = {}
    for block in blocks(page):
        if block.reason:
            continue
        if block.language == "python":
            # A page that tells a story goes on with its names; a reference starts anew with each block.
            names = {**prelude(), **(names if page.stem == "tutorial" else {})}
            run_python(block, page, names)
        elif block.language == "sh":
            run_shell(block, page)
        elif block.language == "yaml":
            write_yaml(block, folder)


def test_blocks_are_found_with_their_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# T\n\n```python\na = 1\n```\n\n<!-- not run: it needs a GPU -->\n```sh\nnm2trt prove m\n```\n\n"
        "    nm2trt verify m\n\n    y = BN(x)\n\n- item\n\n    continued\n\n```\noutput\n```\n"
    )
    found = [(b.language, b.line, b.reason) for b in blocks(page)]
    assert found[:3] == [("python", 4, ""), ("sh", 9, "it needs a GPU"), ("sh", 12, "")]
    assert [language for language, *_ in found[3:]] == ["", ""]


def test_a_wrong_block_fails(tmp_path):
    with pytest.raises(AssertionError, match="nm2trt-nothing"):
        run_shell(Block("sh", "nm2trt-nothing at all\n", 1, ""), ROOT / "README.md")
    with pytest.raises(NameError):
        run_python(Block("python", "nothing_of_this_name\n", 1, ""), ROOT / "README.md", {})
