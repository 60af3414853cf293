"""Code that a file names runs only with permission, and a stage notices when code or a named file changes."""

import re

import numpy as np
import pytest

from nm2trt.cli import main
from nm2trt.errors import InputError
from nm2trt.named_code import code_files
from nm2trt.recipe.runner import run as run_recipe

PAYLOAD = "open({mark!r}, 'a').write('ran')\n\ndef made(*a, **k):\n    return {{}}\n\nscore = made\n"


@pytest.fixture
def payload(project, monkeypatch):
    """Give a module `sent` that leaves a mark when it is imported, where Python and recipes find it."""
    mark = project / "ran"
    (project / "sent.py").write_text(PAYLOAD.format(mark=str(mark)))
    (project / "calib.yaml").write_text("source: {kind: function, function: 'sent:made'}\ncount: 4\n")
    (project / "job.yaml").write_text(
        "model: sent.py:made\nweights: w.safetensors\nmethod: magnitude\ncalibration: calib.yaml\npattern: '2:4'\n"
    )
    (project / "w.safetensors").write_bytes(b"x")
    monkeypatch.syspath_prepend(str(project))
    return mark


NAMING = {
    "metric": "validate: {data: test.npz, metrics: ['sent:score']}",
    "metric-of-prune": "prune: {calib: test.npz, data: test.npz, max_drop: '1pt', metrics: ['sent:score']}",
    "samples-of-prune": "prune: {calib: calib.yaml}",
    "evaluation-of-prune": "prune: {calib: test.npz, data: calib.yaml, max_drop: '1pt'}",
    "samples-of-bench": "bench: {data: calib.yaml}",
    "metric-among-others": "validate: {data: test.npz, metrics: ['top-1', 'sent:score']}",
    "samples-of-a-function": "validate: {data: calib.yaml}",
    "calibration": "quantize: {calib: calib.yaml}",
    "cast-ranges": "cast: {calib: calib.yaml}",
    "export": "export: {model: 'sent.py:made', weights: w.safetensors, inputs: {x: [1]}}",
    "sparsify": "sparsify: {recipe: job.yaml}",
    "environment": "deploy: {repository: r, name: m, settings: ['parameters.EXECUTION_ENV_PATH.string_value=/tmp/x']}",
    "agent": "deploy: {repository: r, name: m, settings: ['model_repository_agents.agents[0].name=sent']}",
    "library": "deploy: {repository: r, name: m, settings: ['model_operations.op_library_filename[0]=sent.so']}",
    "runtime": "deploy: {repository: r, name: m, settings: ['runtime=sent.so']}",
    "accelerator": "deploy: {repository: r, name: m, settings: ['optimization.execution_accelerators.cpu_execution_accelerator[0].name=x']}",
}  # fmt: skip


@pytest.mark.parametrize("case", NAMING)
def test_no_recipe_runs_code_without_permission(project, payload, case):
    (project / "recipe.yaml").write_text(f"version: 1\nmodel: model.onnx\nstages:\n  {NAMING[case]}\n")
    try:
        failure = run_recipe(project / "recipe.yaml").failure
    except InputError as error:
        failure = error
    assert re.search(r"it would run Python code, .*--allow-functions", str(failure))
    assert not payload.exists()


@pytest.mark.parametrize(
    "words",
    [
        ["sparsify", "job.yaml"],
        ["calib", "check", "calib.yaml"],
        ["quantize", "model.onnx", "--calib", "calib.yaml"],
        ["cast", "model.onnx", "--calib", "calib.yaml"],
        ["validate", "model.onnx", "--against", "model.onnx", "--data", "calib.yaml"],
    ],
)
def test_no_command_runs_code_of_a_file_without_permission(project, payload, capsys, monkeypatch, words):
    monkeypatch.chdir(project)
    assert main(words) == 2
    assert re.search(r"would run Python code, sent.*--allow-functions", capsys.readouterr().err)
    assert not payload.exists()


def statuses(project):
    result = run_recipe(project / "recipe.yaml", allow_functions=True)
    assert result.failure is None, result.failure
    return {stage.name: stage.status for stage in result.stages}


def test_a_function_metric_is_run_again_when_it_or_what_it_imports_changes(project, monkeypatch):
    monkeypatch.syspath_prepend(str(project))
    (project / "scores_of_a_test").mkdir()
    (project / "scores_of_a_test" / "__init__.py").write_text("")
    (project / "scores_of_a_test" / "helper.py").write_text("VALUE = 1.0\n")
    (project / "scores_of_a_test" / "own.py").write_text(
        "import numpy as np\nfrom .helper import VALUE\n\n"
        "def score(outputs, truth):\n    return np.full(len(next(iter(outputs.values()))), VALUE)\n"
    )
    (project / "recipe.yaml").write_text(
        "version: 1\nmodel: model.onnx\nstages:\n"
        "  validate: {data: test.npz, metrics: ['scores_of_a_test.own:score'], runs: 0, from: model}\n"
    )
    assert statuses(project) == {"validate": "done"}
    assert statuses(project) == {"validate": "cached"}
    for name in ("helper.py", "own.py", "__init__.py"):
        file = project / "scores_of_a_test" / name
        file.write_text(file.read_text() + "# changed\n")
        assert statuses(project) == {"validate": "done"}, name
        assert statuses(project) == {"validate": "cached"}, name


@pytest.fixture
def reader(project):
    """Give a recipe that scores a text model by an alphabet in a file."""
    from onnx import helper, numpy_helper

    from tests.engine.nets import save

    weight = numpy_helper.from_array(np.eye(3, dtype="f4"), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    save(project / "model.onnx", [node], {"x": ("float32", ("n", 5, 3))}, {"y": ("float32", ("n", 5, 3))}, [weight], None)  # fmt: skip
    scores = np.eye(3, dtype="f4")[np.random.default_rng(0).integers(0, 3, (8, 5))]
    np.savez(project / "test.npz", x=scores, labels=np.array(["ab"] * 8))
    (project / "alphabet.txt").write_text("a\nb\n")
    text = "version: 1\nmodel: model.onnx\nstages:\n  validate: {data: test.npz, metrics: [cer], metric_options: ['characters=%s'], runs: 0, from: model}\n"
    (project / "recipe.yaml").write_text(text % "alphabet.txt")
    return project, text


def test_a_file_among_the_options_of_a_metric_is_hashed_and_relative_to_the_recipe(reader, monkeypatch):
    project, _ = reader
    monkeypatch.chdir("/")
    assert statuses(project) == {"validate": "done"}
    assert statuses(project) == {"validate": "cached"}
    (project / "alphabet.txt").write_text("b\na\n")
    assert statuses(project) == {"validate": "done"}


@pytest.mark.parametrize("place", ["../alphabet.txt", "/etc/passwd", "link.txt"])
def test_a_file_among_the_options_of_a_metric_lies_below_the_recipe(reader, place):
    project, text = reader
    (project / "link.txt").symlink_to("/etc/passwd")
    (project / "recipe.yaml").write_text(text % place)
    with pytest.raises(InputError, match=r"line 4: stages\.validate\.metric_options.*leaves the folder"):
        run_recipe(project / "recipe.yaml")


def test_code_files_follow_imports_without_running_them(tmp_path, monkeypatch):
    package = tmp_path / "pkg_of_a_test"
    (package / "inner").mkdir(parents=True)
    for name, text in {
        "__init__.py": "raise SystemExit",
        "a.py": "from . import b\nfrom .inner import c as d\nimport numpy, os",
        "b.py": "from pkg_of_a_test.a import x",
        "inner/__init__.py": "",
        "inner/c.py": "import beside_of_a_test",
        "unused.py": "",
    }.items():
        (package / name).write_text(text)
    (tmp_path / "beside_of_a_test.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = {str(path.relative_to(tmp_path.resolve())) for path in code_files("pkg_of_a_test.a", tmp_path)}
    assert found == {
        "beside_of_a_test.py",
        *(f"pkg_of_a_test/{name}" for name in ("__init__.py", "a.py", "b.py", "inner/__init__.py", "inner/c.py")),
    }  # fmt: skip


@pytest.mark.parametrize(
    "module", ["", "..", "a/../b", "no_such_module", "none.py", "numpy", "os.path", "\0"]
)
def test_code_files_of_what_is_not_the_users(tmp_path, module):
    assert code_files(module, tmp_path) == ()
