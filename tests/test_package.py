"""The package: one version, metadata that invents nothing, a wheel and an sdist that hold what they should."""

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import nm2trt
from nm2trt import extras
from nm2trt.cli import COMMANDS
from nm2trt.errors import BackendMissingError
from nm2trt.serving.config_message import new_message
from tools import release

ROOT = Path(__file__).parents[1]
# setuptools writes its own words into sys.argv, so the folder is read before.
BUILD = "import sys; from setuptools.build_meta import *; to = sys.argv[1]; build_sdist(to); build_wheel(to)"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build sdist and wheel from the tracked files, and return their paths."""
    tree, dist = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in tracked.stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).symlink_to(ROOT / name)
    done = subprocess.run(
        [sys.executable, "-c", BUILD, dist], cwd=tree, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    name = f"nm2trt-{nm2trt.__version__}"
    return dist / f"{name}.tar.gz", dist / f"{name}-py3-none-any.whl"


def metadata(wheel):
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(opened.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as opened:
        names = set(opened.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "nm2trt"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(tracked.stdout.split()) <= names
    assert {name.partition("/")[0] for name in names} == {"nm2trt", f"nm2trt-{nm2trt.__version__}.dist-info"}


def test_a_sample_is_copied_from_an_installed_wheel(built, tmp_path):
    with zipfile.ZipFile(built[1]) as opened:
        opened.extractall(tmp_path / "site")
    words = [sys.executable, "-m", "nm2trt", "samples", "copy", "01", "-o", tmp_path]
    where = {"PYTHONPATH": str(tmp_path / "site"), "PATH": ""}
    done = subprocess.run(words, cwd=tmp_path, env=where, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    copied = {path.name: path.read_text() for path in (tmp_path / "samples/01_digits").iterdir()}
    given = {path.name: path.read_text() for path in (ROOT / "samples/01_digits").glob("*.*")}
    told, own = copied.pop("README.md"), given.pop("README.md")
    assert copied == given
    assert ("'.[" in own, "'.[" in told) == (True, False)


def test_the_metadata_is_complete_and_invents_no_address(built):
    found = metadata(built[1])
    assert found["Version"] == nm2trt.__version__
    assert found["License-Expression"] == "Apache-2.0"
    assert found["Author"] == "nm2trt"
    assert found["Keywords"]
    assert found["Requires-Python"] == ">=3.10"
    assert found.get_all("Project-URL") is None
    assert found["Home-page"] is None
    assert "typing :: typed" in " ".join(found.get_all("Classifier")).lower()


def test_the_long_description_leads_only_to_files_of_the_sdist(built):
    text = metadata(built[1]).get_payload()
    assert not re.findall(r"\]\((?!https?://|#)", text)
    with tarfile.open(built[0]) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    paths = re.findall(r"\(`([\w./]+)`\)", text)
    assert "docs/tutorial.md" in paths
    assert [path for path in paths if path.rstrip("/") not in names] == []


def test_the_sdist_holds_docs_samples_and_what_builds_it(built):
    with tarfile.open(built[0]) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    folders = ("docs", "samples", "tests", "tools", "benchmarks", "calib")
    listed = subprocess.run(
        ["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, check=True
    )
    missing = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()} - names
    assert missing == set()
    assert {"setup.py", "CHANGELOG.md", "Makefile", "constraints.txt", "LICENSE", "SECURITY.md"} <= names


def test_the_version_stands_in_one_place_and_in_the_changelog():
    assert release.SEMANTIC.fullmatch(nm2trt.__version__)
    assert "attr: nm2trt.__version__" in (ROOT / "setup.cfg").read_text()
    assert release.section((ROOT / "CHANGELOG.md").read_text(), nm2trt.__version__)


def test_every_extra_that_a_sentence_names_is_one(built):
    provided = set(metadata(built[1]).get_all("Provides-Extra"))
    named = {extra for _, extra in extras._EXTRAS.values()}
    for path in (ROOT / "nm2trt").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "install_line(" in text else ():
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "install_line":
                named |= {a.value for a in node.args if isinstance(a, ast.Constant)}
    assert "trt" in named
    assert named <= provided


@pytest.mark.parametrize(
    ("error", "module", "sentence"),
    [
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), "", "ONNX Runtime is not installed"),
        (ModuleNotFoundError("No module named 'flatbuffers'", name="flatbuffers"), "onnxruntime", "ONNX Runtime does not load (No module named 'flatbuffers')"),
        (ImportError("numpy.core.multiarray failed to import\nsee there"), "PIL", "Pillow does not load (numpy.core.multiarray failed to import)"),
        (ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib"), "pycocotools", "matplotlib is not installed"),
        (ModuleNotFoundError("No module named 'mine'", name="mine"), "", None),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_or_broken_is_named(error, module, sentence):
    found = extras.missing(error, module)
    assert (None if found is None else str(found).rpartition(": ")[0]) == sentence


def test_a_client_that_was_installed_without_its_protocol_names_the_extra(monkeypatch):
    """`pip install tritonclient` brings neither grpc nor http, and the client raises a RuntimeError then."""
    pytest.importorskip("tritonclient.grpc")
    for name in [name for name in sys.modules if name.startswith("tritonclient")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "grpc", None)
    told = r"^tritonclient does not load \(.*grpc.*\): pip install .*\[serving\]"
    with pytest.raises(BackendMissingError, match=told):
        new_message()


def test_every_import_of_an_optional_library_says_which_one_it_is():
    """A library that lacks a module of its own is named; otherwise the error would look like a fault of nm2trt."""
    unnamed = []
    for path in (ROOT / "nm2trt").rglob("*.py"):
        text = path.read_text()
        for node in ast.walk(ast.parse(text)) if "with names_the_extra()" in text else ():
            if isinstance(node, ast.With) and ast.unparse(node.items[0].context_expr) == "names_the_extra()":
                roots = {(n.module or "").split(".")[0] for n in node.body if isinstance(n, ast.ImportFrom)}
                unnamed += [f"{path}: {root}" for root in roots - {"nm2trt"}]
                unnamed += [f"{path}: {ast.unparse(n)}" for n in node.body if isinstance(n, ast.Import)]
    assert unnamed == []


# How the package was installed -> the line that adds an extra.
WHEEL = '{"url": "file:///tmp/a%20b/nm2trt.whl", "archive_info": {}}'
CLONE = '{"url": "https://host.invalid/nm2trt", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'
PLAIN = "pip install 'nm2trt[ort]'"


def test_a_clone_names_itself():
    assert extras.install_line("ort") == f"pip install -e '{ROOT}[ort]'"


@pytest.mark.parametrize(
    ("record", "exists", "line"),
    [
        pytest.param(None, False, PLAIN, id="index"),
        pytest.param(WHEEL, True, "pip install 'nm2trt[ort] @ file:///tmp/a%20b/nm2trt.whl'", id="wheel"),
        pytest.param(WHEEL, False, PLAIN, id="wheel-gone"),
        pytest.param(
            CLONE, False, "pip install 'nm2trt[ort] @ git+https://host.invalid/nm2trt@abc'", id="vcs"
        ),
        pytest.param("[]", False, PLAIN, id="damaged"),
    ],
)
def test_an_installed_package_names_where_it_came_from(monkeypatch, record, exists, line):
    class Distribution:
        def read_text(self, name):
            return record

    asked = []
    monkeypatch.setattr("importlib.metadata.distribution", lambda name: Distribution())
    monkeypatch.setattr(extras.Path, "is_file", lambda path: False)
    monkeypatch.setattr(extras.Path, "exists", lambda path: asked.append(str(path)) or exists)
    assert extras.install_line("ort") == line
    assert asked in ([], ["/tmp/a b/nm2trt.whl"])


def test_constraints_pin_one_version_for_each_python():
    from packaging.requirements import Requirement

    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        assert "==" in line, line
    for python in ("3.10", "3.11", "3.12", "3.13"):
        pinned = {}
        for line in (ROOT / "constraints.txt").read_text().splitlines():
            if line.startswith("#"):
                continue
            asked = Requirement(line)
            if asked.marker is None or asked.marker.evaluate({"python_version": python}):
                pinned.setdefault(asked.name.lower(), []).append(str(asked.specifier))
        assert {name for name, found in pinned.items() if len(found) != 1} == set(), python
        assert {"numpy", "onnxruntime", "pillow"} <= set(pinned)


def test_every_command_has_its_line_in_the_readme():
    text = (ROOT / "README.md").read_text().partition("## Commands")[2]
    assert set(COMMANDS) <= set(re.findall(r"`(\w+)`", text))


CHANGES = "# Changelog\n\n## [Unreleased]\n\n### Added\n\n- A thing.\n\n## [0.2.0] - 2026-11-27\n\n- First.\n"


def test_the_unreleased_section_becomes_the_version():
    text = release.with_section(CHANGES, "0.3.0", "2027-01-02")
    assert release.section(text, "0.3.0") == "### Added\n\n- A thing."
    assert release.section(text, "Unreleased") == ""
    assert release.section(text, "0.2.0") == "- First."
    assert release.with_section(text, "0.3.0", "2027-02-03") == text
    both = text.replace("## [Unreleased]\n", "## [Unreleased]\n\n- Later.\n")
    with pytest.raises(release.ReleaseError, match=r"move those of 0\.3\.0 to its section"):
        release.with_section(both, "0.3.0", "2027-02-03")
    with pytest.raises(release.ReleaseError, match="says nothing under"):
        release.with_section(text, "0.4.0", "2027-02-03")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("0.3", "not a semantic version"),
        ("v0.3.0", "not a semantic version"),
        ("0.03.0", "not a semantic version"),
        ("0.2.0", "not above 0.10.0"),
        ("0.10.0", "not above 0.10.0"),
    ],
)
def test_a_version_that_may_not_be_released(version, words):
    with pytest.raises(release.ReleaseError, match=words):
        release.check_version(version, ["v0.9.0", "v0.10.0", "v-other"])
    release.check_version("0.10.1", ["v0.9.0", "v0.10.0"])


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "nm2trt").mkdir()
    (tmp_path / "nm2trt" / "__init__.py").write_text('__version__ = "0.2.0"  # here\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGES)
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "One"]):
        identity = ["-c", "user.name=t", "-c", "user.email=t@localhost"]
        subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True)
    for key, value in (("user.name", "t"), ("user.email", "t@localhost")):
        subprocess.run(["git", "config", key, value], cwd=tmp_path, check=True)
    return tmp_path


def test_a_release_commits_and_tags_what_was_checked(clone, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(
        release,
        "_build_and_check",
        lambda root, version: seen.append((root / "nm2trt/__init__.py").read_text()),
    )
    release.release("0.3.0", clone)
    assert seen == ['__version__ = "0.3.0"  # here\n']
    assert release._git(clone, "status", "--porcelain") == ""
    assert release._git(clone, "log", "-1", "--format=%s %(describe:tags)") == "Release 0.3.0 v0.3.0"
    assert release._git(clone, "tag", "-l", "--format=%(contents)", "v0.3.0").endswith("- A thing.")
    with pytest.raises(release.ReleaseError, match="not above"):
        release.release("0.3.0", clone)


def test_a_failed_step_leaves_everything_as_it_was(clone):
    with pytest.raises(release.ReleaseError, match="build"):  # there is nothing to build
        release.release("0.3.0", clone)
    assert (clone / "CHANGELOG.md").read_text() == CHANGES
    assert release._git(clone, "status", "--porcelain", "--untracked-files=no") == ""
    assert release._git(clone, "tag") == ""
    (clone / "nm2trt" / "__init__.py").write_text("changed")
    with pytest.raises(release.ReleaseError, match="has changes"):
        release.release("0.3.0", clone)
