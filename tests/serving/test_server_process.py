"""A tritonserver of one's own: found, started, watched, stopped; and what stands in the way."""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from nm2trt.errors import BackendError, BackendMissingError, InputError, Nm2trtError, OutputError
from nm2trt.pipeline.deploy import deploy
from nm2trt.pipeline.serve import serve
from nm2trt.serving.history import refuse_hanging
from nm2trt.serving.installation import find_server
from nm2trt.serving.options import DeployOptions, ServerOptions
from nm2trt.serving.server import start as server_module
from nm2trt.serving.server.running import RunningServer
from nm2trt.serving.server.start import _free_ports
from tests.serving import served_nets as nets

ROOT = Path(__file__).parents[2]


def processes_below(folder):
    """Return the command lines of processes that run in a repository in `folder`."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if folder in (entry / "cwd").readlink().parents:
                found.append((entry / "cmdline").read_bytes())
    return found


def test_clean_stop_and_a_model_that_does_not_keep_the_others_from_loading(tmp_path, tritonserver, capsys):
    from nm2trt.backends.triton import TritonServer
    from nm2trt.cli.serve import _print
    from nm2trt.options.serving import ServeCommand

    models = tmp_path / "models"
    deploy(nets.linear(tmp_path / "m.onnx"), models, "good", DeployOptions(backend="python"))
    broken = deploy(tmp_path / "m.onnx", models, "broken", DeployOptions(backend="python"))
    (broken.folder / "model.onnx").write_bytes(b"no model")
    server = serve(models, ServerOptions(log=tmp_path / "log.txt"))
    with server:
        assert len({server.http, server.grpc, server.metrics}) == 3
        assert server.is_running()
        assert len(processes_below(tmp_path)) >= 2  # the server and its model
        with TritonServer(f"http://{server.http}") as client:
            states = {row["name"]: row.get("state") for row in client.index()}
        assert states == {"good": "READY", "broken": "UNAVAILABLE"}
        told = {row.name: (row.state, bool(row.reason)) for row in server.model_states()}
        assert told == {"good": ("READY", False), "broken": ("UNAVAILABLE", True)}
        _print(server, ServeCommand(repository=models))
        printed = capsys.readouterr().out
        assert "INVALID_PROTOBUF" in printed
        assert "\\nAt:" not in printed  # the trace of the model, which the log has
    assert server.stop() == 0
    assert not server.is_running()
    assert processes_below(tmp_path) == []
    assert not list(Path("/dev/shm").glob(f"{server._identity}-*"))


def test_usual_ports_are_taken_if_free_and_others_if_not(monkeypatch):
    with contextlib.ExitStack() as stack:
        # Below the ports that the system gives to whoever asks for any one.
        usual = tuple(random.sample(range(20000, 32000), 3))
        held = [stack.enter_context(socket.create_server(("127.0.0.1", port))) for port in usual]
        monkeypatch.setattr(server_module, "_USUAL_PORTS", usual)
        held[0].close()
        assert _free_ports(ServerOptions(usual_ports=True))[0] == usual[0]
        assert not set(_free_ports(ServerOptions(usual_ports=True))[1:]) & set(usual)
        assert not set(_free_ports(ServerOptions(http_port=0))) & set(usual)
        # A port that was named stays that of its own protocol.
        assert _free_ports(ServerOptions(usual_ports=True, grpc_port=usual[0]))[1] == usual[0]
    assert sorted(_free_ports(ServerOptions(usual_ports=True))) == sorted(usual)


def test_a_server_that_answers_nonsense_is_a_sentence(tmp_path):
    server = RunningServer(tmp_path, "127.0.0.1:9", "", "", None)
    with pytest.raises(BackendError, match="does not say which models it has"):
        server.model_states()


def test_it_ends_with_whoever_started_it(tmp_path, tritonserver):
    (tmp_path / "models").mkdir()
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom nm2trt.pipeline.serve import serve\nfrom nm2trt.serving.options import ServerOptions\n"
        "server = serve(sys.argv[1], ServerOptions(log=Path(sys.argv[2])))\n"
        "print(server.pid, flush=True)\ntime.sleep(60)\n"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "models"), str(tmp_path / "log.txt")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
    )
    pid = int(starter.stdout.readline())
    starter.kill()
    starter.communicate()
    limit = time.monotonic() + 120
    while Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/status").read_text().find("zombie") < 0:
        assert time.monotonic() < limit, "the server outlived its starter"
        time.sleep(0.1)


def test_a_port_that_is_taken(tmp_path, tritonserver):
    (tmp_path / "models").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            InputError, match=rf"nothing can listen on port {port} of 127\.0\.0\.1: Address already in use"
        ):
            serve(tmp_path / "models", ServerOptions(http_port=port, load=(), log=tmp_path / "log.txt"))
    assert processes_below(tmp_path) == []


class _Other(BaseHTTPRequestHandler):
    """A server with a model of its own, which took the port in the moment after it was found free."""

    def do_GET(self):
        self._answer({"name": "triton"})

    def do_POST(self):
        self._answer([{"name": "another", "state": "READY"}])

    def _answer(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("logged", [True, False], ids=["log", "stderr"])
def test_a_server_that_took_the_port_meanwhile_is_not_taken_for_ours(
    logged, tmp_path, tritonserver, monkeypatch
):
    models = tmp_path / "models"
    deploy(nets.linear(tmp_path / "m.onnx"), models, "good", DeployOptions(backend="python"))
    with ThreadingHTTPServer(("127.0.0.1", 0), _Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        chosen = []

        def free_ports(options):
            found = _free_ports(options)
            chosen.append([other.server_address[1], *found[1:]] if not chosen else found)
            return chosen[-1]

        monkeypatch.setattr(server_module, "_free_ports", free_ports)
        options = ServerOptions(log=tmp_path / "log.txt" if logged else None)
        with serve(models, options) as server:
            assert [state.name for state in server.model_states()] == ["good"]
        other.shutdown()
    assert len(chosen) == 2
    assert processes_below(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"http_port": 70000}, "70000 is not a port"),
        ({"grpc_port": -1}, "-1 is not a port"),
        ({"http_port": 8000, "metrics_port": 8000}, "the ports 8000, 0, 8000 name one twice"),
    ],
)
def test_ports_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        ServerOptions(**changes)


@pytest.mark.parametrize(
    ("policies", "version"),
    [
        (("deployed", "deployed"), 2),
        (("deployed", "latest:1"), 2),
        (("deployed", "latest:2"), 1),
        (("deployed", "all"), 1),
        (("all", "deployed"), 2),
    ],
)
def test_a_python_model_without_its_code_is_told_before_the_server_hangs_on_it(tmp_path, policies, version):
    """Of those versions only that the server would load; the first was deployed for another backend."""
    model, models = nets.linear(tmp_path / "m.onnx"), tmp_path / "models"
    for backend, policy in zip(("onnxruntime", "python"), policies, strict=True):
        placed = deploy(model, models, "m", DeployOptions(backend=backend, version_policy=policy))
    if version == 2:
        refuse_hanging(models)
        (placed.folder / "model.py").unlink()
    with pytest.raises(InputError, match=rf"m/{version} holds no model.py, and a server would hang on it"):
        serve(models)


@pytest.mark.parametrize(
    ("config", "hangs"),
    [
        ("backend:'python'", True),
        ('name: "m" backend : "python"', True),
        ('# backend: "python"\nbackend: "onnxruntime"', False),
        ("backend: 'py' \"thon\"", True),
        ('backend: "python" of_a_later_server { more: [1, "}"] }', True),
        ('backend: "python" version_policy { # not "all" }\n specific: { versions: [2, # 1\n 3] } }', False),
        ('backend: "python" version_policy < specific < versions: 2 versions: 0x1 > >', True),
        ('backend: "python" backend_of_what', False),  # no server takes it
    ],
)
def test_a_configuration_is_read_as_it_may_be_spelt(tmp_path, config, hangs):
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text(config)
    with pytest.raises(InputError, match=r"holds no model\.py") if hangs else contextlib.nullcontext():
        refuse_hanging(tmp_path)


def test_only_models_that_are_loaded_are_looked_at(tmp_path):
    step = 'ensemble_scheduling { step [ { model_name: "part" } ] }'
    for name, text in {"whole": step, "part": 'backend: "python"', "other": ""}.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    refuse_hanging(tmp_path, ["other"])
    for names in (["*"], ["other", "part"], ["whole"]):
        with pytest.raises(InputError, match=r"part/1 holds no model\.py"):
            refuse_hanging(tmp_path, names)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"load": ("other",)}, "names no"),  # the next thing that is wrong
        ({"load": ("whole",)}, "would hang"),
        ({"load": (), "control": "none"}, "would hang"),
    ],
    ids=["another", "an-ensemble", "all"],
)
def test_a_start_looks_only_at_the_models_that_it_loads(tmp_path, monkeypatch, options, told):
    monkeypatch.setenv("NM2TRT_TRITONSERVER", str(tmp_path / "missing"))
    step = 'ensemble_scheduling { step [ { model_name: "part" } ] }'
    for name, text in {"whole": step, "part": 'backend: "python"', "other": ""}.items():
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "config.pbtxt").write_text(text)
    with pytest.raises(InputError, match=told):
        serve(tmp_path, ServerOptions(**options))


@pytest.mark.parametrize("name", ["my model", "a$HOME", "it's", "a;b"])
def test_a_name_that_a_shell_takes_apart(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.pbtxt").write_text('backend: "python"')
    with pytest.raises(InputError, match="a server would hang on the name of the Python model"):
        serve(tmp_path)


def test_a_repository_may_have_any_name(tmp_path, tritonserver):
    models = tmp_path / "my modèles $HOME; it's"
    deploy(nets.linear(tmp_path / "m.onnx"), models, "m", DeployOptions(backend="python"))
    with serve(models, ServerOptions(log=tmp_path / "log.txt")) as server:
        assert [row.state for row in server.model_states()] == ["READY"]


def test_versions_of_a_configuration_without_a_policy(tmp_path):
    for number in (1, 9, 10):
        (tmp_path / "m" / str(number)).mkdir(parents=True)
    (tmp_path / "m" / "config.pbtxt").write_text('backend: "python"')
    (tmp_path / "m" / "10" / "model.py").touch()
    refuse_hanging(tmp_path)
    for policy in (
        "version_policy: { specific: { versions: [9] } }",
        "version_policy{latest{num_versions:2}}",
    ):
        (tmp_path / "m" / "config.pbtxt").write_text(f'backend: "python"\n{policy}')
        with pytest.raises(InputError, match="m/9 holds no"):
            refuse_hanging(tmp_path)


def test_what_is_no_repository(tmp_path):
    with pytest.raises(InputError, match="nowhere is not a folder; give a model repository"):
        serve(tmp_path / "nowhere")


def test_a_name_to_load_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="holds no model 'resnat' to load"):
        serve(tmp_path, ServerOptions(load=("resnat",)))


def test_a_log_that_cannot_be_written(tmp_path, tritonserver):
    with pytest.raises(OutputError, match=r"nowhere/log\.txt cannot be written: No such file"):
        serve(tmp_path, ServerOptions(log=tmp_path / "nowhere" / "log.txt"))


def test_a_host_that_is_not_here(tmp_path, tritonserver):
    with pytest.raises(InputError, match=r"nothing can listen on 192\.0\.2\.1"):
        serve(tmp_path, ServerOptions(host="192.0.2.1", log=tmp_path / "log.txt"))


@pytest.mark.parametrize("host", ["nowhere.invalid", "", "a" * 80, "::2"])
def test_a_host_that_nobody_has(tmp_path, host):
    with pytest.raises(InputError, match=f"nothing can listen on '?{host}'?: "):
        serve(tmp_path, ServerOptions(host=host))


@pytest.mark.parametrize("host", ["localhost", "::1", "::"])
def test_a_name_and_addresses_of_ipv6_are_listened_on(tmp_path, tritonserver, monkeypatch, host):
    """Over gRPC too, past a proxy that the environment names."""
    from nm2trt.backends.triton import TritonServer

    if ":" in host:
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("this machine has no IPv6")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(tmp_path, ServerOptions(host=host, log=tmp_path / "log.txt")) as server:
        for address in (f"http://{server.http}", f"grpc://{server.grpc}"):
            with TritonServer(address) as client:
                assert client.metadata()["version"]


def test_a_name_of_both_kinds_is_listened_on_at_its_ipv4_address(monkeypatch):
    both = [(socket.AF_INET6, 0, 6, "", ("::1", 0, 0, 0)), (socket.AF_INET, 0, 6, "", ("127.0.0.1", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    assert server_module._in_figures("localhost") == "127.0.0.1"


def test_named_by_the_environment(tmp_path, tritonserver, monkeypatch):
    found = find_server()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NM2TRT_TRITONSERVER", str(found.binary))
    assert find_server().binary == found.binary
    if found.environment is not None:
        monkeypatch.setenv("NM2TRT_TRITONSERVER", str(found.environment))
        assert find_server() == found


def test_named_from_the_current_folder(tmp_path, monkeypatch):
    """The server runs in another folder: it is told of no path that counts from this one."""
    server = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "pytriton" / "tritonserver"
    for file in ("bin/tritonserver", "backends/python/triton_python_backend_stub"):
        (server / file).parent.mkdir(parents=True)
        (server / file).write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NM2TRT_TRITONSERVER", "env")
    found = find_server()
    assert found.backends == server / "backends"
    assert (found.binary, found.environment) == (server / "bin" / "tritonserver", tmp_path / "env")


@pytest.mark.parametrize("named", ["nowhere", "."])
def test_named_and_not_there(tmp_path, monkeypatch, named):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NM2TRT_TRITONSERVER", named)
    with pytest.raises(
        InputError, match=f"NM2TRT_TRITONSERVER={named} names no tritonserver".replace(".", r"\.")
    ):
        find_server()


def test_an_environment_that_was_not_finished(tmp_path, monkeypatch):
    binary = tmp_path / "env" / "lib" / "python3.11" / "site-packages" / "pytriton" / "tritonserver" / "bin"
    binary.mkdir(parents=True)
    (binary / "tritonserver").write_text("")
    monkeypatch.setenv("NM2TRT_TRITONSERVER", str(tmp_path / "env"))
    with pytest.raises(BackendMissingError, match=r"is not complete: .* run make serve-env again"):
        find_server()


def test_python_of_the_environment_comes_first(tritonserver):
    found = find_server()
    if found.environment is None:
        pytest.skip("the server is no environment's")
    variables = found.variables()
    assert variables["PATH"].split(os.pathsep)[0] == str(found.environment / "bin")
    assert "PYTHONPATH" not in variables


def test_a_server_runs_nothing_that_came_as_external_data(tmp_path, tritonserver):
    import numpy as np

    from nm2trt.backends.triton import TritonServer

    mark = tmp_path / "ran"
    payload = f"open({str(mark)!r}, 'a').write(__file__)\n".encode()
    control = tritonserver.repository / "hostile-control"
    with TritonServer(f"http://{tritonserver.http}") as client:
        # All at once: each load starts a process that imports numpy and ONNX Runtime.
        source = nets.with_data_at(tmp_path / "sent", *nets.HOSTILE_LOCATIONS, payload=payload)
        deploy(source, tritonserver.repository, "hostile", DeployOptions(backend="python"))
        client.load("hostile")
        answer = client.infer("hostile", "1", {"x": ("FP32", np.eye(4, dtype=np.float32))}, {"y": "FP32"})
        assert np.array_equal(answer["y"], np.eye(4, dtype=np.float32))
        client.unload("hostile")
        assert not mark.exists()
        # The payload is live: where the data file kept its name, the server's stub runs it.
        deploy(source, tritonserver.repository, control.name, DeployOptions(backend="python"))
        (control / "1" / "__init__.py").write_bytes(payload)
        with contextlib.suppress(Nm2trtError):
            client.load(control.name)
    assert mark.exists()


def test_transposed_products_are_served(tmp_path, tritonserver):
    """ONNX Runtime would end the server's stub as it loads them; see `turned_products`."""
    import numpy as np
    import onnx

    from nm2trt.backends.triton import TritonServer

    x = np.random.default_rng(1).standard_normal((4, 3, 16)).astype(np.float16)
    models = {path.stem: path for path in nets.turned_products(tmp_path)}
    with TritonServer(f"http://{tritonserver.http}") as client:
        for name, dtype in (("half", "FP16"), ("mixed", "FP32")):
            deploy(models[name], tritonserver.repository, f"turned-{name}", DeployOptions(backend="python"))
            client.load(f"turned-{name}")
            found = client.infer(f"turned-{name}", "1", {"x": ("FP16", x)}, {"y": dtype})["y"]
            weight = onnx.numpy_helper.to_array(onnx.load(models[name]).graph.initializer[0])
            expected = x.swapaxes(0, 1).astype(np.float64) @ weight.astype(np.float64)
            assert np.abs(found - expected).max() < 4e-3 * np.abs(expected).max()
            client.unload(f"turned-{name}")


def running(tmp_path, code):
    """Return a `RunningServer` around a Python process of its own group that stands for the server."""
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    return RunningServer(tmp_path, "", "", "", process)


def test_a_second_stop_signals_nobody(tmp_path, monkeypatch):
    server = running(tmp_path, "import time; time.sleep(60)")
    assert server.is_running()
    assert server.stop() == -signal.SIGTERM
    # The number of the process may be another one's by now.
    monkeypatch.setattr(os, "killpg", lambda *_: pytest.fail("a group that is gone was signalled"))
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("a process that is gone was signalled"))
    assert (server.stop(), server.kill(), server.wait(), server.is_running()) == (
        *[-signal.SIGTERM] * 3,
        False,
    )


def test_a_server_that_ended_keeps_its_number_until_its_group_is_ended(tmp_path):
    code = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); sys.exit(3)"
    server = running(tmp_path, code)
    assert server.wait() == 3
    assert not server.is_running()
    # A zombie, so that no other process gets its number while the models of its group are ended.
    assert Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    members = [
        entry for entry in Path("/proc").iterdir() if entry.name.isdigit() and group_of(entry) == server.pid
    ]
    assert len(members) == 2
    assert server.kill() == 3
    assert not Path(f"/proc/{server.pid}").exists()


def group_of(entry):
    with contextlib.suppress(OSError):
        return int((entry / "stat").read_text().rpartition(")")[2].split()[2])
    return None
