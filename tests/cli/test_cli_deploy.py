"""nm2trt deploy, probe, rollback and serve as they are typed, against the real server."""

import json
import os
import shlex
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest

from nm2trt.cli import main
from tests.docs.json_schemas import problems
from tests.engine.nets import conv_net

pytest.importorskip("tritonclient")


def net(path, *, scale=1.0):
    """A small convolution in fp32, every weight times `scale`."""
    conv_net(path, dtype="float32", layers=1, shape=("n", 16, 4, 4))
    model = onnx.load(path)
    weight = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array((weight * scale).astype("float32"), "w0")
    )
    onnx.save(model, path)
    return str(path)


def deploy(artefact, repository, *words, name="m"):
    return main(["deploy", artefact, "--repository", str(repository), "--name", name, *words])


def test_deploy_says_what_it_did(tmp_path, capsys):
    model, repository = net(tmp_path / "m.onnx"), tmp_path / "models"
    np.savez(tmp_path / "sample.npz", x=np.zeros((1, 16, 4, 4), np.float32))
    words = ["--backend", "python", "--max-batch", "8", "--preferred-batch", "2,4", "--queue-delay-us", "100"]
    words += [
        "--sample",
        str(tmp_path / "sample.npz"),
        "--parameter",
        "team=vision",
        "--set",
        "metric_tags.a=b",
    ]
    assert deploy(model, repository, *words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{repository}/m/1  (python; version 1, the first)"
    assert lines[-1] == f"next:    nm2trt serve --repository {repository} --load m"
    assert deploy(model, repository, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["version"], said["previous"], said["backend"]) == (2, 1, "onnxruntime")
    assert deploy(model, repository) == 0
    assert "removed: version 1" in capsys.readouterr().out
    assert main(["rollback", "--repository", str(repository), "--name", "m"]) == 0
    assert "m: version 2 is served, 3 was before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--set", "max_batch=3"], 2, "no field 'max_batch'"),
        (["--set", "nonsense"], 2, "'nonsense' is not a setting; write PATH=VALUE"),
        (["--parameter", "x"], 2, "'x' is not a parameter; write KEY=VALUE"),
        (["--preferred-batch", "a"], 2, "'a' is not a list of numbers; write them as in 1,8,32"),
        (["--backend", "torch"], 2, "invalid choice: 'torch'"),
        (["--backend", "tensorrt"], 2, "does not run it; use onnxruntime or python"),
        (["--sample", "nowhere.npz"], 2, "nowhere.npz does not exist"),
        (["--labels", "nowhere.txt"], 2, "nowhere.txt does not exist"),
        (["--labels", "z=setup.cfg"], 2, "setup.cfg does not exist"),
        (["--url", "127.0.0.1:9"], 7, "no Triton server answers HTTP at 127.0.0.1:9"),
        (["--url", "nonsense"], 2, "'nonsense' is not the address of a server"),
        (["--canary", "127.0.0.1:9"], 7, "no Triton server answers"),
        (["--keep", "0"], 2, "keep 0 is out of range"),
    ],
)
def test_what_deploy_refuses(tmp_path, capsys, monkeypatch, words, status, message):
    monkeypatch.chdir(tmp_path)
    assert deploy(net(tmp_path / "m.onnx"), tmp_path / "models", *words) == status
    err = capsys.readouterr().err
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "models" / "m").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"no model", "is not an ONNX model, or it is truncated"),
        (b"vtrt" + bytes(200), "build the engine again to have one"),
    ],
)
def test_artefacts_that_are_none(tmp_path, capsys, content, message):
    path = tmp_path / "artefact"
    if content is not None:
        path.write_bytes(content)
    assert deploy(str(path), tmp_path / "models") == 2
    assert message in capsys.readouterr().err


def test_from_the_model_to_the_probe(tmp_path, capsys, tritonserver):
    model, other = net(tmp_path / "m.onnx"), net(tmp_path / "other.onnx", scale=2)
    repository, url = tritonserver.repository, tritonserver.http
    on = ["--backend", "python", "--canary", url]
    assert deploy(model, repository, *on, name="cli") == 0
    assert f"loaded and probed on {url}: it answers like the reference" in capsys.readouterr().out
    probe = ["probe", "--url", url, "--name", "cli", "--concurrency", "2", "--requests", "20"]
    assert main([*probe, "--reference", model, "--repository", str(repository)]) == 0
    out = capsys.readouterr().out
    for line in (
        "configuration: same",
        "Outputs, served against ONNX Runtime",
        "agrees",
        "p99 ms",
        "server: ",
    ):
        assert line in out
    assert main([*probe, "--reference", other, "--json"]) == 5
    said = capsys.readouterr()
    assert json.loads(said.out)["passed"] is False
    assert problems("probe", json.loads(said.out)) == []
    assert "is not what" in said.err
    assert deploy(other, repository, *on, "--reference", model, name="cli") == 5
    assert "rolled back to version 1" in capsys.readouterr().err
    assert main([*probe, "--reference", model]) == 0
    capsys.readouterr()
    assert deploy(model, repository, "--backend", "python", "--load", url, name="cli") == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1].removeprefix("next:    nm2trt "))
    assert words[0] == "probe"
    assert main([*words, "--concurrency", "1", "--requests", "5"]) == 0
    assert (
        main(["rollback", "--repository", str(repository), "--name", "cli", "--to", "1", "--url", url]) == 0
    )


def test_probe_without_a_server_and_without_the_model(tmp_path, capsys, tritonserver):
    model = net(tmp_path / "m.onnx")
    assert main(["probe", "--url", "127.0.0.1:9", "--name", "m", "--reference", model]) == 7
    assert "start one, e.g. with nm2trt serve" in capsys.readouterr().err
    assert main(["probe", "--url", tritonserver.http, "--name", "none", "--reference", model]) == 4
    assert "has no model 'none' loaded" in capsys.readouterr().err


def test_serve_prints_its_ports_and_stops_in_order(tmp_path, tritonserver):
    deploy(net(tmp_path / "m.onnx"), tmp_path / "models", "--backend", "python")
    words = ["serve", "--repository", str(tmp_path / "models"), "--log", str(tmp_path / "log.txt"), "--json"]
    process = subprocess.Popen([sys.executable, "-m", "nm2trt", *words], stdout=subprocess.PIPE, text=True)
    addresses = json.loads(process.stdout.readline())
    pid = int(addresses["pid"])
    assert problems("serve", addresses) == []
    assert [(model["name"], model["state"]) for model in addresses["models"]] == [("m", "READY")]
    probe = [
        "probe",
        "--url",
        f"grpc://{addresses['grpc']}",
        "--name",
        "m",
        "--reference",
        str(tmp_path / "m.onnx"),
    ]
    assert main([*probe, "--concurrency", "1", "--requests", "5"]) == 0
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_serve_says_when_the_server_ends_by_itself(tmp_path, tritonserver):
    (tmp_path / "models").mkdir()
    words = ["serve", "--repository", str(tmp_path / "models"), "--log", str(tmp_path / "log.txt"), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "nm2trt", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.kill(int(json.loads(process.stdout.readline())["pid"]), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 4
    assert "the server stopped by itself, with status -9" in err


def test_serve_waits_as_long_as_it_is_told(tmp_path, tritonserver, capsys):
    deploy(net(tmp_path / "m.onnx"), tmp_path / "models", "--backend", "python")
    (tmp_path / "models" / "m" / "1" / "model.py").write_text("import time; time.sleep(600)")
    words = ["serve", "--repository", str(tmp_path / "models"), "--log", str(tmp_path / "log.txt")]
    assert main([*words, "--timeout", "0.5"]) == 4
    assert "the server was not ready within 0.5 s (--timeout)" in capsys.readouterr().err


def test_serve_without_a_server(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("NM2TRT_TRITONSERVER", str(tmp_path / "none"))
    assert main(["serve", "--repository", str(tmp_path)]) == 2
    assert "names no tritonserver" in capsys.readouterr().err


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """A real plan and its manifest."""
    pytest.importorskip("tensorrt_rtx")
    from nm2trt import build

    return build(conv_net(tmp_path_factory.mktemp("rtx") / "m.onnx")).engine


class TestRtxPlan:
    """A real `.rtx` plan, built ahead of time; to run it takes a GPU that the runtime supports."""

    def test_becomes_a_python_model_with_its_runtime_beside_it(self, tmp_path, plan, capsys):
        assert deploy(str(plan), tmp_path / "models") == 0
        folder = tmp_path / "models" / "m" / "1"
        assert (folder / "model.rtx").read_bytes() == plan.read_bytes()
        config = (tmp_path / "models" / "m" / "config.pbtxt").read_text()
        assert "max_batch_size: 32" in config
        assert "KIND_GPU" in config
        assert (folder / "runtime" / "nm2trt" / "backends" / "trt_rtx.py").is_file()
        assert not list((folder / "runtime").rglob("graph"))

    def test_the_runtime_beside_it_stands_alone(self, tmp_path, plan):
        deploy(str(plan), tmp_path / "models")
        folder = tmp_path / "models" / "m" / "1"
        code = (
            "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "from nm2trt.backends import trt_rtx\n"
            "assert trt_rtx.__file__.startswith(sys.argv[1]), trt_rtx.__file__\n"
            "try: trt_rtx.load().open(Path(sys.argv[2]))\n"
            "except Exception as error: print(type(error).__name__, error)\n"
        )
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = subprocess.run(
            [sys.executable, "-c", code, str(folder / "runtime"), str(folder / "model.rtx")],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ran.returncode == 0, ran.stderr
        from nm2trt.backends.cuda import probe_gpus

        if not probe_gpus()[0]:
            assert ran.stdout.startswith("BackendMissingError")
            assert "takes a GPU" in ran.stdout

    def test_tensorrt_is_refused(self, tmp_path, plan, capsys):
        assert deploy(str(plan), tmp_path / "models", "--backend", "tensorrt") == 2
        assert "TensorRT for RTX plan, which Triton's tensorrt backend cannot read" in capsys.readouterr().err

    def test_the_server_takes_the_configuration_and_says_what_is_missing(
        self, tmp_path, plan, tritonserver, capsys
    ):
        from nm2trt.backends.triton import TritonServer
        from nm2trt.errors import BackendError

        deploy(str(plan), tritonserver.repository, name="rtx")
        with (
            TritonServer(f"http://{tritonserver.http}") as client,
            pytest.raises(
                BackendError, match=r"KIND_GPU but no GPUs are available|takes a GPU|not installed"
            ),
        ):
            client.load("rtx")

    def test_a_plan_without_its_manifest(self, tmp_path, plan, capsys):
        lonely = tmp_path / "lonely.rtx"
        lonely.write_bytes(plan.read_bytes())
        assert deploy(str(lonely), tmp_path / "models") == 2
        assert "lonely.rtx.json is not there; build the engine again to have one" in capsys.readouterr().err
