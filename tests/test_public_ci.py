"""What a public host runs and asks for: workflows, forms, hooks; each names only what is there."""

import json
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
yaml = pytest.importorskip("yaml")
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
PHONY = set(re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)[1].split())


def steps(workflow):
    for job in yaml.safe_load(workflow.read_text())["jobs"].values():
        assert job["timeout-minutes"] > 0
        yield from (step["run"] for step in job["steps"] if "run" in step)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_only_what_is_there(workflow):
    commands = list(steps(workflow))
    assert commands
    for command in commands:
        words = command.split()
        if words[0] == "make":
            assert words[1] in PHONY
        for word in words:
            if word.startswith(("tools/", "docs/")):
                assert (ROOT / word).exists()
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}


def test_the_matrix_is_that_of_the_classifiers():
    matrix = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["strategy"][
        "matrix"
    ]
    assert matrix["python"] == re.findall(r"Python :: (3\.\d+)$", (ROOT / "setup.cfg").read_text(), re.M)


def test_the_gpu_job_waits_for_its_label():
    job = yaml.safe_load((ROOT / ".github/workflows/gpu.yml").read_text())["jobs"]["evidence"]
    assert "github.event.label.name == 'gpu'" in job["if"]
    assert any("make gpu-evidence" in step.get("run", "") for step in job["steps"])


def test_actionlint_knows_the_labels_of_our_runners():
    """Those that actionlint does not know by itself; it finds nothing else in the workflows."""
    known = yaml.safe_load((ROOT / ".github/actionlint.yaml").read_text())["self-hosted-runner"]["labels"]
    jobs = (job for path in WORKFLOWS for job in yaml.safe_load(path.read_text())["jobs"].values())
    asked = {label for job in jobs if isinstance(job["runs-on"], list) for label in job["runs-on"]}
    assert asked - {"self-hosted", "linux"} == set(known)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_a_form_asks_for_the_machine(form):
    body = yaml.safe_load(form.read_text())["body"]
    assert any("nm2trt doctor --json" in part["attributes"].get("label", "") for part in body)


def test_the_pull_request_template_asks_for_the_machine():
    assert "nm2trt doctor --json" in (ROOT / ".github/PULL_REQUEST_TEMPLATE.md").read_text()


def test_make_help_lists_every_target():
    command = ["make", "--no-print-directory", "help"]  # within `make test` it would say where it is
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {line.split()[1] for line in done.stdout.splitlines()} == PHONY


def test_hooks_run_what_lint_runs():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in hooks] == [
        "local"
    ]  # the tools come from constraints.txt, and from there only
    entries = " ".join(hook["entry"] for hook in hooks[0]["hooks"])
    for tool in ("ruff check", "ruff format", "mypy", *re.findall(r"docs/make_\w+\.py", entries)):
        assert tool in entries
    assert all((ROOT / page).is_file() for page in re.findall(r"docs/make_\w+\.py", entries))


def test_the_dev_container_makes_the_environment_of_make():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make PYTHON=python3 .venv/.ready"
    assert re.fullmatch(r"python:3\.1\d-\w+", container["image"])


def test_the_citation_leaves_the_version_to_its_one_place():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors", "license"} <= set(citation)
    assert not {"version", "date-released", "url", "repository-code"} & set(citation)
