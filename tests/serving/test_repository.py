"""Placement, keeping, going back; hostile names and links; kills, rivals, full and read-only disks."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from nm2trt.errors import InputError, OutputError
from nm2trt.hashes import sha256_file
from nm2trt.pipeline.served_artefact import describe_artefact
from nm2trt.serving.options import DeployOptions
from nm2trt.serving.repository import place, roll_back, served_config
from nm2trt.writer_marks import writer_mark
from tests.serving import served_nets as nets

pytest.importorskip("tritonclient")

ROOT = Path(__file__).parents[2]


def model(tmp_path, scale=1.0):
    return describe_artefact(nets.linear(tmp_path / f"m{scale:g}.onnx", scale=scale))


def tree(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def check_whole(repository, name="m", *, known=None):
    """Assert that what a repository holds is one deployment's work, without asking the code under test."""
    for folder in repository.iterdir():
        assert folder.name == name, f"{folder} would be taken for a model"
    if not (repository / name).exists():
        return None
    text = (repository / name / "config.pbtxt").read_text()
    config = served_config(repository, name)
    (version,) = config.version_policy.specific.versions
    folder = repository / name / str(version)
    record = json.loads((folder / "deployment.json").read_text())
    digest = hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    assert record["config"] == text
    assert digest == record["artefact_sha256"] == config.parameters["nm2trt.artefact_sha256"].string_value
    assert known is None or digest in known
    for file in record["files"]:
        assert (repository / name / file).is_file()
    return version


def test_the_first_and_the_next(tmp_path):
    repository = tmp_path / "models"
    first = place(model(tmp_path, 1), repository, "m")
    assert (first.version, first.previous, first.removed) == (1, None, ())
    assert tree(repository) == ["m", "m/1", "m/1/deployment.json", "m/1/model.onnx", "m/config.pbtxt"]
    second = place(model(tmp_path, 2), repository, "m")
    assert (second.version, second.previous) == (2, 1)
    assert second.folder == repository / "m" / "2"
    assert check_whole(repository) == 2
    assert sorted(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_keep(tmp_path, keep):
    for scale in range(1, 6):
        last = place(model(tmp_path, scale), tmp_path / "models", "m", DeployOptions(keep=keep))
    versions = sorted(path.name for path in (tmp_path / "models" / "m").iterdir() if path.is_dir())
    assert versions == [str(number) for number in range(6 - keep, 6)]
    assert last.removed == (5 - keep,)


def test_rollback_brings_back_the_version_and_its_configuration(tmp_path):
    repository = tmp_path / "models"
    first = place(model(tmp_path, 1), repository, "m", DeployOptions(max_batch=4))
    place(model(tmp_path, 2), repository, "m", DeployOptions(max_batch=16))
    done = roll_back(repository, "m")
    assert (done.left, done.version) == (2, 1)
    assert served_config(repository, "m").max_batch_size == 4
    assert (repository / "m" / "config.pbtxt").read_text() == first.config
    none = "no version was served before version 1; it holds 1"
    with pytest.raises(InputError, match=f"{none}, 2; choose another with --to, e.g. --to 2$"):
        roll_back(repository, "m")
    assert roll_back(repository, "m", to=2).version == 2
    # The one that was left was not part of what was served before the next, and gives its place up.
    roll_back(repository, "m")
    assert place(model(tmp_path, 3), repository, "m").removed == (2,)
    assert (repository / "m" / "1").is_dir()


def test_rollback_under_another_version_policy_serves_the_old_version(tmp_path):
    for scale in (1, 2):
        place(model(tmp_path, scale), tmp_path / "models", "m", DeployOptions(version_policy="latest:1"))
    roll_back(tmp_path / "models", "m")
    assert list(served_config(tmp_path / "models", "m").version_policy.specific.versions) == [1]


def test_a_folder_whose_number_no_server_holds(tmp_path):
    place(model(tmp_path, 1), tmp_path / "models", "m")
    (tmp_path / "models" / "m" / "9999999999999999999").mkdir()
    assert place(model(tmp_path, 2), tmp_path / "models", "m").version == 2


def test_rollback_to_what_is_not_there(tmp_path):
    place(model(tmp_path), tmp_path / "models", "m")
    with pytest.raises(InputError, match="holds no version 7 that nm2trt placed; it holds 1"):
        roll_back(tmp_path / "models", "m", to=7)
    with pytest.raises(InputError, match="holds no model 'n'; it holds m"):
        roll_back(tmp_path / "models", "n")
    with pytest.raises(InputError, match="nowhere does not exist"):
        roll_back(tmp_path / "nowhere", "m")


def test_samples_and_labels_go_with_the_last_version_that_used_them(tmp_path):
    repository = tmp_path / "models"
    for scale in (1, 2, 3):
        place(
            model(tmp_path, scale),
            repository,
            "m",
            sample={"x": np.full((1, 4), scale, np.float32)},
            labels={"y": ["a", "b", str(scale)]},
        )
    assert len(list((repository / "m" / "warmup").iterdir())) == 2
    assert len(list((repository / "m").glob("labels-*"))) == 2
    check_whole(repository)
    roll_back(repository, "m")
    check_whole(repository)


def test_external_data_comes_along(tmp_path):
    source = nets.linear(tmp_path / "big.onnx", external=True)
    placed = place(describe_artefact(source), tmp_path / "models", "m")
    assert sorted(path.name for path in placed.folder.iterdir()) == [
        "deployment.json",
        "model.onnx",
        "model.onnx.data",
    ]
    assert placed.artefact_sha256 == sha256_file(source)
    import onnxruntime

    feeds = {"x": np.random.default_rng(1).standard_normal((2, 4)).astype(np.float32)}
    answers = [
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for path in (source, placed.folder / "model.onnx")
    ]
    assert np.array_equal(*answers)


@pytest.mark.parametrize("location", nets.HOSTILE_LOCATIONS)
def test_no_name_in_a_model_becomes_a_file_of_the_version(tmp_path, location):
    source = nets.with_data_at(tmp_path / "sent", location, payload=b"import os\n")
    placed = place(describe_artefact(source), tmp_path / "models", "m", DeployOptions(backend="python"))
    names = sorted(path.relative_to(placed.folder).as_posix() for path in placed.folder.rglob("*"))
    assert names == ["deployment.json", "model.onnx", "model.onnx.data", "model.py"]
    assert (placed.folder / "model.py").read_bytes() != b"import os\n"


def test_an_artefact_that_changes_meanwhile(tmp_path):
    engine = describe_artefact(nets.plan(tmp_path / "m.engine"))
    engine.path.write_bytes(b"something else by now")
    with pytest.raises(InputError, match="changed while it was deployed; deploy it again"):
        place(engine, tmp_path / "models", "m")
    assert tree(tmp_path / "models") == []


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../up", "a/b", "/absolute", "a b", "modèle", "模型", ".hidden", "-option", "a\nb", "a\0b", "x" * 201, "a%2fb"],
)  # fmt: skip
def test_hostile_names(tmp_path, name):
    (tmp_path / "models").mkdir()
    artefact = describe_artefact(nets.linear(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="cannot be a model's name"):
        place(artefact, tmp_path / "models", name)
    with pytest.raises(InputError, match="cannot be a model's name"):
        roll_back(tmp_path / "models", name)
    assert tree(tmp_path) == ["m.onnx", "models"]


def plant(repository, outside, where):
    """Put a link into a repository that leads out of it."""
    link = repository / where
    if link.is_dir():
        shutil.rmtree(link)
    link.unlink(missing_ok=True)
    link.symlink_to(outside / "config.pbtxt" if where.endswith("pbtxt") else outside)


@pytest.mark.parametrize("where", ["m", "m/warmup", "m/config.pbtxt", "m/2", "m/3", "m/1"])
def test_planted_links_lead_nowhere(tmp_path, where):
    repository, outside = tmp_path / "models", tmp_path / "outside"
    sample = {"x": np.zeros((1, 4), np.float32)}
    place(model(tmp_path, 1), repository, "m", sample=sample)
    outside.mkdir()
    shutil.copy(repository / "m" / "config.pbtxt", outside)
    shutil.copytree(repository / "m" / "1", outside / "inner")
    shutil.copy(repository / "m" / "1" / "deployment.json", outside)
    plant(repository, outside, where)
    before = [(path, path.stat().st_mtime_ns) for path in sorted(outside.rglob("*"))]
    other = {"x": np.ones((1, 4), np.float32)}
    options = DeployOptions(keep=1)
    if where in ("m/2", "m/3"):
        placed = place(model(tmp_path, 2), repository, "m", options, sample=other)
        assert placed.version == int(where[-1]) + 1
        assert (repository / where).is_symlink()
    else:
        with pytest.raises(InputError, match=r"is a link|was not placed by nm2trt deploy"):
            place(model(tmp_path, 2), repository, "m", options, sample=other)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(outside.rglob("*"))] == before


def test_a_repository_reached_through_a_link_is_the_real_one(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    placed = place(model(tmp_path), tmp_path / "link", "m")
    assert placed.repository == tmp_path / "real"
    assert check_whole(tmp_path / "real") == 1


def test_a_model_of_somebody_else_is_left_alone(tmp_path):
    theirs = tmp_path / "models" / "m"
    (theirs / "1").mkdir(parents=True)
    (theirs / "1" / "model.onnx").write_bytes(b"theirs")
    for config in ("", 'name: "m"\nbackend: "onnxruntime"\n', "no configuration at all {"):
        (theirs / "config.pbtxt").write_text(config)
        before = tree(tmp_path)
        told = "is not a model configuration" if config.endswith("{") else "was not placed by nm2trt deploy"
        with pytest.raises(InputError, match=told):
            place(model(tmp_path), tmp_path / "models", "m")
        (tmp_path / "m1.onnx").unlink()
        assert tree(tmp_path) == before


def test_what_is_no_repository(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file is not a folder; give the folder of a model repository"):
        place(model(tmp_path), tmp_path / "file", "m")
    with pytest.raises(OutputError, match="No such file or directory"):
        place(model(tmp_path), tmp_path / "a" / "b", "m")


@pytest.mark.parametrize("own", [False, True], ids=["missing", "there"])
def test_a_refused_deployment_leaves_no_folder_of_its_making(tmp_path, own):
    repository = tmp_path / "models"
    if own:
        repository.mkdir()
    with pytest.raises(InputError, match="no field 'bogus'"):
        place(model(tmp_path), repository, "m", DeployOptions(settings=("bogus=1",)))
    assert repository.exists() is own


def test_a_repository_that_another_deployment_makes_at_the_same_moment(tmp_path, monkeypatch):
    class Late(type(tmp_path)):
        def mkdir(self, *args, **options):
            if self.name == "models":
                os.mkdir(self)  # noqa: PTH102 - by another process
            super().mkdir(*args, **options)

    monkeypatch.setattr("nm2trt.serving.repository.Path", Late)
    assert place(model(tmp_path), tmp_path / "models", "m").version == 1


@pytest.mark.parametrize("file", ["config.pbtxt", "1/deployment.json"])
def test_a_pipe_in_a_file_s_place_is_not_waited_for(tmp_path, file):
    place(model(tmp_path), tmp_path, "m")
    (tmp_path / "m" / file).unlink()
    os.mkfifo(tmp_path / "m" / file)
    with pytest.raises(InputError, match="was not placed by nm2trt deploy"):
        place(model(tmp_path), tmp_path, "m")


@pytest.mark.parametrize("reaped", [True, False])
def test_left_behind_by_a_killed_process(tmp_path, reaped):
    """Also by one whose status nobody asks for, as the first process of a container may not."""
    here = writer_mark().partition("-")[0]
    repository = tmp_path / "models"
    place(model(tmp_path, 1), repository, "m")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, dead.pid, os.WEXITED | (0 if reaped else os.WNOWAIT))
    stale = [
        repository / "m" / f".nm2trt-{here}-{dead.pid}-0123abcd",
        tmp_path / f".models.nm2trt-{here}-{dead.pid}-0123abcd",
    ]
    mine = repository / "m" / f".nm2trt-{here}-{os.getpid()}-0123abcd"
    for folder in (*stale, mine):
        (folder / "1").mkdir(parents=True)
    place(model(tmp_path, 2), repository, "m")
    assert [folder.exists() for folder in (*stale, mine)] == [False, False, True]
    dead.wait()


# A process that deploys two models in turn for ever, from the moment that it reads a line.
DEPLOYER = """
import sys, tempfile
from pathlib import Path
from nm2trt.pipeline.served_artefact import describe_artefact
from nm2trt.serving.options import DeployOptions
from nm2trt.serving.repository import place
repository, backend, *models = sys.argv[1:]
described = [describe_artefact(Path(model)) for model in models]
sample = {"x": __import__("numpy").ones((1, 4), "float32")}
with tempfile.TemporaryDirectory() as warm:
    place(described[0], warm, "m", DeployOptions(backend=backend), sample=sample)
print("ready", flush=True)
count = int(sys.stdin.readline())
for turn in range(count):
    place(described[turn % 2], repository, "m", DeployOptions(backend=backend), sample=sample)
    if turn == 0:
        print("placed", flush=True)
"""


def deployer(repository, models, backend="onnxruntime"):
    """Start a deploying process and wait until it is ready to begin."""
    process = subprocess.Popen(
        [sys.executable, "-c", DEPLOYER, str(repository), backend, *map(str, models)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


def begin(process, count):
    process.stdin.write(f"{count}\n")
    process.stdin.flush()


def kill_at_random(repository, models, server, *, kills, seed):
    """Kill deploying processes at random times; the repository must be whole, and load, after each."""
    from nm2trt.backends.triton import TritonServer

    known = {hashlib.sha256(path.read_bytes()).hexdigest() for path in models}
    generator = random.Random(seed)
    versions = []
    with TritonServer(f"http://{server.http}") as client:
        for attempt in range(kills):
            if attempt % 4 == 0 and repository.joinpath("m").exists():
                shutil.rmtree(repository / "m")  # a first deployment is killed too
            process = deployer(repository, models, "python")
            begin(process, 1_000_000)
            if attempt % 2:
                assert process.stdout.readline() == "placed\n"
            time.sleep(generator.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            version = check_whole(repository, known=known)
            if version is not None:
                client.load("m")
                assert client.is_model_ready("m", str(version))
                versions.append(version)
    place(describe_artefact(models[0]), repository, "m")
    assert not list(repository.parent.glob(".*nm2trt*")), "what was left behind is removed by the next"
    assert not list((repository / "m").glob(".*"))
    return versions


@pytest.fixture
def own_server(tritonserver, tmp_path):
    """A server on a repository of the test's own, below `tmp_path`."""
    from nm2trt.serving.options import ServerOptions
    from nm2trt.serving.server.start import start_server

    (tmp_path / "models").mkdir()
    server = start_server(tmp_path / "models", ServerOptions(load=(), log=tmp_path / "log.txt"))
    yield server
    server.kill()


def test_killed_at_random_the_repository_always_loads(tmp_path, own_server):
    models = [nets.linear(tmp_path / f"{scale}.onnx", scale=scale) for scale in (1, 2)]
    versions = kill_at_random(tmp_path / "models", models, own_server, kills=4, seed=1)
    assert len(versions) >= 2


@pytest.mark.slow
def test_killed_at_100_random_times_the_repository_always_loads(tmp_path, own_server):
    models = [nets.linear(tmp_path / f"{scale}.onnx", scale=scale) for scale in (1, 2)]
    versions = kill_at_random(tmp_path / "models", models, own_server, kills=100, seed=2)
    assert len(versions) >= 50


def test_two_deploys_at_once_to_one_name(tmp_path):
    models = [nets.linear(tmp_path / f"{scale}.onnx", scale=scale) for scale in (1, 2)]
    repository = tmp_path / "models"
    repository.mkdir()
    rivals = [deployer(repository, [path, path]) for path in models]
    for rival in rivals:
        begin(rival, 10)
    for rival in rivals:
        rival.communicate(timeout=300)
        assert rival.returncode == 0
    known = {hashlib.sha256(path.read_bytes()).hexdigest() for path in models}
    assert check_whole(repository, known=known) == 20


def run_limited(code, *words):
    """Run code in a process of its own, with the package to be imported."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_disk_that_is_full_changes_nothing(tmp_path):
    """A limit on the size of files stands for the disk: writing fails half-way through the model."""
    repository = tmp_path / "models"
    place(model(tmp_path, 1), repository, "m")
    large = nets.linear(tmp_path / "large.onnx", features=4, classes=9000)
    before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
    ran = run_limited(
        """
        import resource, signal, sys
        from nm2trt.cli import main
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        sys.exit(main(["deploy", sys.argv[1], "--repository", sys.argv[2], "--name", "m"]))
        """,
        large,
        repository,
    )
    assert ran.returncode == 2, ran.stderr
    assert "cannot be written: File too large; what is served is unchanged" in ran.stderr
    assert {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()} == before
    assert check_whole(repository) == 1


def test_a_tiny_file_system_that_is_full(tmp_path):
    repository = tmp_path / "models"
    repository.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(repository)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"a file system may not be mounted here: {mounted.stderr.decode().strip()}")
    try:
        place(model(tmp_path, 1), repository, "m")
        large = describe_artefact(nets.linear(tmp_path / "large.onnx", classes=9000))
        for name in ("m", "n"):
            with pytest.raises(OutputError, match="the disk is full; what is served is unchanged"):
                place(large, repository, name)
        assert check_whole(repository) == 1
        assert not list((repository / "m").glob(".*"))
    finally:
        subprocess.run(["umount", str(repository)], check=True)


def test_a_repository_that_may_not_be_written():
    """As an ordinary user: root may write everywhere."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)
        repository = base / "models"
        source = nets.linear(base / "m.onnx")
        place(describe_artefact(source), repository, "m")
        for path in (base, repository, *repository.rglob("*"), source):
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = tree(base)
        for name in ("m", "n"):
            ran = run_limited(
                """
                import os, sys, tempfile
                from nm2trt.cli import main
                with tempfile.TemporaryDirectory() as warm:  # everything is imported before the rights go
                    main(["deploy", sys.argv[1], "--repository", warm, "--name", "m"])
                    if os.geteuid() == 0:
                        os.setegid(65534)
                        os.seteuid(65534)
                    status = main(["deploy", sys.argv[1], "--repository", sys.argv[2], "--name", sys.argv[3]])
                    os.seteuid(os.getuid())
                sys.exit(status)
                """,
                source,
                repository,
                name,
            )
            assert ran.returncode == 2, ran.stderr
            assert "cannot be written: permission denied; what is served is unchanged" in ran.stderr
        assert tree(base) == before
        for path in (base, *base.rglob("*")):
            path.chmod(0o755)
